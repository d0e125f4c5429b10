"""`Playback`: one viewer's way from latents to frames. Latent n is decoded while n + 1 is generated."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import torch

from aapt.shapes import FRAMES_PER_LATENT, first_frame
from livevideo.v1.engine_pb2 import Latent, Seated, StageTimes
from livevideo.v1.frame_pb2 import Watching, WatchResponse
from livevideo.v1.session_pb2 import Session
from services import telemetry
from services.decoder.clock import FrameClock, Place
from services.decoder.codec import Codec
from services.decoder.continuity import Continuity
from services.decoder.encoders import Encoder, Picture
from services.decoder.outcome import outcome
from services.decoder.rejoin import going_on
from services.decoder.source import LatentSource
from services.decoder.spanned import record_frame
from services.traceparent import exemplar
from services.tracing import Tracer


@dataclass(frozen=True)
class Rendered:
    """The frames of one latent, ready to be sent."""

    latent: Latent
    pictures: list[Picture]
    decode_s: float
    encode_s: list[float]
    handover_s: float
    came_s: float  # when the latent did
    ready_s: float
    first_index: int  # of the first of them; frames that the viewer has seen are left out


@dataclass(frozen=True)
class _End:
    """Nothing more will come."""

    error: Exception | None


class Playback:
    """Decodes and encodes in a thread of `executor`, and gives each frame out at its place in time."""

    def __init__(
        self,
        source: LatentSource,
        session: Session,
        codec: Codec,
        encoder: Encoder,
        clock: FrameClock,
        continuity: Continuity,
        executor: Executor,
        *,
        latents_in_flight: int,
        from_frame: int,
        on_rendered: Callable[[float], None],
        tracer: Tracer,
    ) -> None:
        """from_frame: index of the first frame that the viewer has not seen; 0: whatever comes next."""
        self._source = source
        self._session = session
        self._tracer = tracer
        self._codec = codec
        self._encoder = encoder
        self._clock = clock
        self._continuity = continuity
        self._executor = executor
        self._latents_in_flight = latents_in_flight
        self._on_rendered = on_rendered
        self._from_frame = from_frame
        # Bounded by the credits: no more latents come than may be in flight.
        self._coming: asyncio.Queue[Watching | Rendered | _End] = asyncio.Queue()
        self._sent = 0  # frames, and those that the viewer had seen before
        model = session.model.name
        self._decode = telemetry.DECODE.labels(model)
        names = [field.name for field in StageTimes.DESCRIPTOR.fields]
        self._stages = {name: telemetry.STAGE.labels(model, name.removesuffix("_s")) for name in names}
        continuity.allowed(latents_in_flight, -math.inf)

    def shown(self, frame_index: int) -> None:
        """The viewer has shown this frame and all before it: a latent shown to its end lets another come."""
        self._show(frame_index, time.monotonic())

    def _show(self, frame_index: int, now_s: float) -> None:
        newest = min(frame_index, self._sent - 1)
        if newest >= 0:
            limit = newest // FRAMES_PER_LATENT + 1 + self._latents_in_flight
            self._source.allow(limit)
            self._continuity.allowed(limit, now_s)

    def end(self, error: Exception | None) -> None:
        """Send what is ready, and no more."""
        self._coming.put_nowait(_End(error))

    async def render(self) -> None:
        """Bring latents and make frames of them, until the session ends."""
        try:
            async with aclosing(self._source.latents()) as latents:
                async for said in latents:
                    if isinstance(said, Latent):
                        await self._bring(said)
                    else:
                        await self._begin(said)
        except Exception as error:
            self.end(error)
        else:
            self.end(None)

    async def _begin(self, seated: Seated) -> None:
        self._sent, known = going_on(seated, self._from_frame, self._codec.looks_back)
        self._from_frame = self._sent
        self._coming.put_nowait(
            Watching(model=seated.model, format=self._encoder.format, next_index=self._sent)
        )
        self._show(self._sent - 1, -math.inf)  # what has been seen was shown long ago
        for latent in known:
            await self._bring(latent)

    async def _bring(self, latent: Latent) -> None:
        rendered = await asyncio.get_running_loop().run_in_executor(
            self._executor, self._render, latent, time.monotonic()
        )
        if rendered.pictures:
            self._coming.put_nowait(rendered)

    async def responses(self) -> AsyncGenerator[WatchResponse, None]:
        """What the viewer gets, each frame when it is due. Raises what ended the session before its time."""
        while not isinstance(said := await self._awaited(), _End):
            if isinstance(said, Watching):
                yield WatchResponse(watching=said)
                continue
            for i, picture in enumerate(said.pictures):
                index = said.first_index + i
                now_s = time.monotonic()
                place = self._clock.place(index, said.ready_s, now_s)
                if place.send_at_s > now_s:
                    await asyncio.sleep(place.send_at_s - now_s)
                response = self._response(index, said, picture, place, is_first=i == 0)
                self._sent = index + 1
                yield response
        if said.error is not None:
            if outcome(said.error) == "failed":
                self._continuity.broken(time.monotonic())
            raise said.error

    async def _awaited(self) -> Watching | Rendered | _End:
        """What is to be sent next; a viewer that leaves meanwhile may have lost its patience."""
        try:
            return await self._coming.get()
        except asyncio.CancelledError:
            self._continuity.broken(time.monotonic())
            raise

    def _response(
        self, index: int, rendered: Rendered, picture: Picture, place: Place, *, is_first: bool
    ) -> WatchResponse:
        now_s = time.monotonic()
        latent = rendered.latent
        self._continuity.sent(index, now_s - place.due_s, now_s)
        # Filled in place: a frame that is put into a response is copied there, by writing and reading it.
        response = WatchResponse()
        frame = response.frame
        frame.index = index
        frame.control_seq = latent.control_seq
        frame.picture = picture.content
        frame.is_key = picture.is_key
        frame.lateness_s = max(0.0, now_s - place.due_s)
        if is_first:
            frame.times.CopyFrom(
                StageTimes(
                    control_path_s=latent.times.control_path_s,
                    tick_wait_s=latent.times.tick_wait_s,
                    step_s=latent.times.step_s,
                    decode_s=rendered.decode_s,
                    encode_s=rendered.encode_s[0],
                    send_s=now_s - rendered.ready_s,
                    handover_s=rendered.handover_s,
                )
            )
            frame.traceparent = record_frame(self._tracer, self._session, self._source.epoch, rendered, now_s)
            trace = exemplar(frame.traceparent)
            for name, stage in self._stages.items():
                stage.observe(getattr(frame.times, name), trace)
            if latent.control_received_at_s:
                frame.control_to_frame_s = max(0.0, time.time() - latent.control_received_at_s)
                self._continuity.obeyed(index, frame.control_to_frame_s, place.due_s, trace)
        return response

    def _render(self, latent: Latent, came_s: float) -> Rendered:
        start_s = time.monotonic()
        values = np.frombuffer(latent.values, "<f4").reshape(tuple(latent.shape)).astype(np.float32)
        frames = self._codec.decode(torch.from_numpy(values)).numpy()
        decode_s = time.monotonic() - start_s
        self._decode.observe(decode_s)
        pictures: list[Picture] = []
        encode_s: list[float] = []
        # A codec that begins with a later latent makes one frame of it: the last.
        first_index = first_frame(latent.index + 1) - len(frames)
        seen = max(0, self._from_frame - first_index)
        for frame in frames[seen:]:
            start_s = time.monotonic()
            pictures.append(self._encoder.encode(np.ascontiguousarray(frame)))
            encode_s.append(time.monotonic() - start_s)
        took_s = decode_s + sum(encode_s)
        self._on_rendered(took_s)
        handover_s = max(0.0, time.time() - latent.made_at_s - took_s) if latent.made_at_s else 0.0
        return Rendered(
            latent, pictures, decode_s, encode_s, handover_s, came_s, time.monotonic(), first_index + seen
        )
