"""Follow: one call that brings an engine its session's controls, and takes in what it has done."""

import asyncio
from collections.abc import AsyncIterator

from livevideo.v1.control_pb2 import ControlReceipt
from livevideo.v1.session_pb2 import FollowRequest, FollowResponse, Seat
from services import telemetry
from services.app import Context
from services.errors import BadRequest, StoreUnavailable
from services.sessions.meter import Meter
from services.sessions.store import SessionStore

log = telemetry.logger("sessions")

_RETRY_S = 0.1


class Follow:
    """One call, in one epoch. It outlives a silence of Redis for a while."""

    def __init__(
        self,
        store: SessionStore,
        meter: Meter,
        seat: Seat,
        prompt: FollowResponse | None,
        context: Context,
        *,
        renew_period_s: float,
        outage_s: float,
    ) -> None:
        """prompt: the newest, which is brought where the log has lost it."""
        self._store = store
        self._meter = meter
        self._seat = seat
        self._prompt = prompt
        self._context = context
        self._renew_period_s = renew_period_s
        self._outage_s = outage_s

    async def bring_controls(self) -> None:
        """Renews the seat meanwhile. Raises what ends it."""
        after = f"{self._seat.after_seq}-0".encode()
        loop = asyncio.get_running_loop()
        renew_at_s = heard_at_s = loop.time()
        while True:
            try:
                if loop.time() >= renew_at_s:
                    await self._store.renew(self._seat.session_id, self._seat.epoch)
                    renew_at_s = loop.time() + self._renew_period_s
                after, controls = await self._store.read_controls(
                    self._seat.session_id, self._seat.epoch, after
                )
                heard_at_s = loop.time()
            except StoreUnavailable as error:
                if loop.time() - heard_at_s > self._outage_s:
                    raise
                log.warning("redis missed", error=error.message)
                await asyncio.sleep(_RETRY_S)
                continue
            for control in controls:
                if self._prompt is not None:
                    if self._seat.after_seq < self._prompt.event.seq < control.event.seq:
                        await self._context.write(self._prompt)
                    self._prompt = None
                await self._context.write(control)

    async def take_in(self, requests: AsyncIterator[FollowRequest]) -> None:
        """Ends when the engine has said its last, which gives the seat up."""
        async for request in requests:
            match request.WhichOneof("said"):
                case "latents":
                    self._meter.heard(request.latents)
                case "obeyed":
                    await self._publish(request.obeyed)
                case _:
                    raise BadRequest("said", "must be `obeyed` or `latents` after the first message")

    async def _publish(self, obeyed: ControlReceipt) -> None:
        while True:
            try:
                return await self._store.obeyed(self._seat.session_id, self._seat.epoch, obeyed)
            except StoreUnavailable:  # who brings the controls knows when it has lasted too long
                await asyncio.sleep(_RETRY_S)
