"""`Seating`: one Generate call, from its first message to its last."""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aapt.shapes import first_frame
from livevideo.v1.engine_pb2 import GenerateRequest, GenerateResponse, Latent, Ready, Seated, Start
from livevideo.v1.resume_pb2 import RecallRequest
from livevideo.v1.session_pb2 import ClaimRequest, Model, Session
from services import telemetry
from services.engine.arrival import Arrival, after, at_beginning, recalled
from services.engine.engine import Engine
from services.engine.feed import ControlFeed
from services.engine.latents import to_message, to_past
from services.engine.snapshots import Snapshots
from services.engine.spanned import record_latent
from services.engine.stays import Stay, Stays
from services.engine.steering import values_per_frame
from services.errors import BadRequest, ViewerGone
from services.tracing import Tracer
from services.trail import Trail

if TYPE_CHECKING:
    from livevideo.v1.resume_pb2_grpc import ResumeServiceAsyncStub
    from livevideo.v1.session_pb2_grpc import SeatServiceAsyncStub

log = telemetry.logger("engine")

_CLAIM_TIMEOUT_S = 5.0
_RECALL_TIMEOUT_S = 2.0
_TAKE_TIMEOUT_S = 10.0  # longest wait, built up, for the decoder to move the seat


@dataclass(frozen=True)
class House:
    """What all calls of one replica share."""

    replica: str
    model: Model
    engine: Engine
    stays: Stays
    sessions: "SeatServiceAsyncStub"
    resume: "ResumeServiceAsyncStub"
    snapshots: Snapshots
    latents_kept: int
    tracer: Tracer

    @property
    def row_values(self) -> int:
        """How many numbers steer a video frame."""
        return values_per_frame(self.model.keys, self.model.tracks)


class Seating:
    """Claims a session, builds its world up from whatever there is, and brings its latents."""

    def __init__(
        self, house: House, start: Start, stay: Stay, requests: AsyncIterator[GenerateRequest]
    ) -> None:
        self._house = house
        self._start = start
        self._stay = stay
        self._requests = requests
        self._tasks: list[asyncio.Task[None]] = []
        self.session: Session | None = None  # once it is claimed

    async def responses(self, is_leaving: asyncio.Event) -> AsyncGenerator[GenerateResponse, None]:
        """What the decoder is told. is_leaving: set where each latent should say so."""
        house, start, stay = self._house, self._start, self._stay
        if start.is_ahead:
            await self._rebuild(start.past, start.past[-1].held.prompt if start.past else "", start.seed)
            yield GenerateResponse(ready=Ready())
            since = await self._until_take()
            self.session = session = await self._claim()
            feed = await self._go_on_ahead(session, since)
            past: Sequence[Latent] = []
        else:
            self.session = session = await self._claim()
            arrival = await self._arrival(session)
            feed = self._begin(session, arrival)
            stay.trail = await self._build(session, arrival)
            past = [] if start.past else stay.trail.latents()
        self._tasks.append(asyncio.create_task(house.snapshots.run(stay)))
        log.info("session seated", slot=stay.residence.slot)
        next_index = stay.residence.next_index if stay.trail.newest else 0
        feed.made(next_index)
        yield GenerateResponse(
            seated=Seated(epoch=session.epoch, model=house.model, next_index=next_index, past=past)
        )
        while (made := await stay.residence.take()) is not None:
            latent = to_message(made)
            latent.is_leaving = is_leaving.is_set()
            latent.traceparent = record_latent(house.tracer, session, made)
            stay.trail.add(latent)
            feed.obeyed(made.turn.seqs, first_frame(made.index))
            feed.made(made.index + 1)
            yield GenerateResponse(latent=latent)
        await feed.settle()

    def end(self) -> None:
        """Let go of everything."""
        self._stay.residence.end()
        self._house.stays.leave(self._stay)
        for task in self._tasks:
            task.cancel()

    async def _claim(self) -> Session:
        session = await self._house.sessions.Claim(
            ClaimRequest(
                session_id=self._start.session_id,
                replica=self._house.replica,
                after_epoch=self._start.after_epoch,
                viewer=self._start.viewer,
            ),
            timeout=_CLAIM_TIMEOUT_S,
        )
        self._stay.epoch = session.epoch
        telemetry.concerns(tenant=session.tenant, epoch=session.epoch)
        return session

    async def _arrival(self, session: Session) -> Arrival:
        """With the decoder's latents, with our own, with those of the last snapshot, or with none."""
        house, start = self._house, self._start
        keys = tuple(house.model.keys)
        if start.past:
            return after(keys, start.past)
        if not start.after_epoch:
            return at_beginning(keys, session)
        if (trail := house.stays.trail(session.session_id, start.after_epoch)) is not None:
            return after(keys, trail.latents())
        recall = await house.resume.Recall(
            RecallRequest(session_id=session.session_id), timeout=_RECALL_TIMEOUT_S
        )
        return recalled(keys, session, recall, start.from_index, house.engine.period_s)

    def _begin(self, session: Session, arrival: Arrival) -> ControlFeed:
        """From here on controls come, and credits."""
        stay = self._stay
        feed = ControlFeed(
            self._house.sessions, session.session_id, session.epoch, stay.residence, arrival.mailbox
        )
        self._tasks += [
            asyncio.create_task(feed.run(self._house.engine.clock)),
            asyncio.create_task(self._take_credits()),
        ]
        return feed

    async def _build(self, session: Session, arrival: Arrival) -> Trail:
        engine, residence = self._house.engine, self._stay.residence
        if arrival.latents:
            await self._rebuild(arrival.latents, arrival.prompt, session.seed)
            next_index = arrival.latents[-1].index + 1
            made = await engine.builder.go_on(
                residence, arrival.mailbox, next_index, arrival.stood, arrival.again or ()
            )
        else:
            image = _picture(session.image) if session.image else None
            with _named("image"):
                made = await engine.builder.open(
                    residence, arrival.mailbox, image, session.prompt, session.seed, arrival.again
                )
        return Trail(self._house.latents_kept, [*arrival.latents, *map(to_message, made)])

    async def _rebuild(self, latents: Sequence[Latent], prompt: str, seed: int) -> None:
        with _named("start.past"):
            past = to_past(latents, self._house.row_values)
            await self._house.engine.builder.rebuild(self._stay.residence, past, prompt, seed)

    async def _until_take(self) -> Sequence[Latent]:
        try:
            async with asyncio.timeout(_TAKE_TIMEOUT_S):
                said = await anext(self._requests, None)
        except TimeoutError as error:
            raise ViewerGone(f"the seat was not moved within {_TAKE_TIMEOUT_S:g} s; begin again") from error
        if said is None or said.WhichOneof("said") != "take":
            raise BadRequest("take", "is missing; after `ready` the seat is moved with it")
        return said.take.since

    async def _go_on_ahead(self, session: Session, since: Sequence[Latent]) -> ControlFeed:
        """Take in what was made while this world was built up, and play on from there."""
        engine, stay = self._house.engine, self._stay
        latents = [*self._start.past, *since]
        arrival = after(tuple(self._house.model.keys), latents)
        feed = self._begin(session, arrival)
        if since:
            prompt = None if arrival.prompt == self._start.past[-1].held.prompt else arrival.prompt
            with _named("take.since"):
                await engine.builder.extend(stay.residence, to_past(since, self._house.row_values), prompt)
        stay.trail = Trail(self._house.latents_kept, latents)
        await engine.builder.go_on(stay.residence, arrival.mailbox, latents[-1].index + 1, arrival.stood)
        return feed

    async def _take_credits(self) -> None:
        # A client that says no more is not gone yet: its credits are spent first, then its time runs out.
        stay, clock = self._stay, self._house.engine.clock
        async for request in self._requests:
            if request.WhichOneof("said") != "credit" or request.credit.latents < 1:
                message = "after `start` only credits of 1 or more are taken"
                stay.residence.end(BadRequest("credit.latents", message))
                return
            stay.residence.grant(request.credit.latents, clock())
            stay.credited(clock())


async def first(requests: AsyncIterator[GenerateRequest]) -> Start:
    """What a call begins with. Raises BadRequest."""
    async for request in requests:
        if request.WhichOneof("said") == "start" and request.start.session_id:
            return request.start
        break
    raise BadRequest("start.session_id", "the first message of Generate must name a session")


@contextmanager
def _named(field: str) -> Iterator[None]:
    """Around what may find a field impossible: its ValueError becomes a BadRequest."""
    try:
        yield
    except ValueError as error:
        raise BadRequest(field, str(error)) from error


def _picture(image: bytes) -> Tensor:
    """[h, w, 3] uint8. Raises BadRequest."""
    try:
        with Image.open(io.BytesIO(image), formats=("PNG",)) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB")))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadRequest("image", f"it cannot be read as PNG: {error}") from error
