"""Push: one call that stores a session's controls and brings their receipts."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from livevideo.v1.control_pb2 import Accepted, ControlEvent, ControlReceipt, Refused
from livevideo.v1.session_pb2 import FollowResponse, PushRequest, Session
from services.app import Context
from services.errors import BadRequest
from services.sessions.store import SessionStore
from services.tracing import Tracer, about


class Push:
    """One call: each control's accepted receipt is written before its obeyed one."""

    def __init__(
        self,
        store: SessionStore,
        session: Session,
        newest_receipt: bytes,
        context: Context,
        tracer: Tracer,
    ) -> None:
        self._store = store
        self._session = session
        self._session_id = session.session_id
        self._tracer = tracer
        self._newest_receipt = newest_receipt
        self._context = context
        # Held from storing a control to writing its receipt; an obeyed one that was quicker waits.
        self._receipting = asyncio.Lock()
        self._stored_seq = 0
        self._obeyed_seq = 0
        self._caught_up = asyncio.Event()

    async def store_all(
        self, first: PushRequest, others: AsyncIterator[PushRequest], linger_s: float
    ) -> None:
        await self._store_one(first)
        async for request in others:
            await self._store_one(request)
        if self._obeyed_seq < self._stored_seq:
            self._caught_up.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._caught_up.wait(), linger_s)

    async def bring_obeyed(self) -> None:
        while True:
            self._newest_receipt, receipts = await self._store.read_receipts(
                self._session_id, self._newest_receipt
            )
            for receipt in receipts:
                async with self._receipting:
                    await self._context.write(receipt)
                self._obeyed_seq = max(self._obeyed_seq, receipt.seq)
            if self._obeyed_seq >= self._stored_seq:
                self._caught_up.set()

    async def _store_one(self, request: PushRequest) -> None:
        event = request.event
        if event.session_id != self._session_id:
            raise BadRequest("event.session_id", "differs from the first; push each session on its own call")
        async with self._receipting:
            newer = await self._stored(event, request.received_at_s)
            if newer is None:
                self._stored_seq = event.seq
                receipt = ControlReceipt(seq=event.seq, accepted=Accepted())
            else:
                message = f"seq {event.seq} is not above {newer}, the newest stored; go on from there"
                receipt = ControlReceipt(seq=event.seq, refused=Refused(reason="old_seq", message=message))
            await self._context.write(receipt)

    async def _stored(self, event: ControlEvent, received_at_s: float) -> int | None:
        """None; or the newest number, where this one is not above it."""
        said = about(self._session, control_seq=event.seq) if event.traceparent else {}
        span = self._tracer.begin("store", event.traceparent, time.time(), said)
        event.traceparent = span.traceparent
        try:
            return await self._store.push(
                self._session_id, FollowResponse(event=event, received_at_s=received_at_s)
            )
        finally:
            span.end(time.time())
