"""Push: one call that stores a session's controls and brings their receipts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from livevideo.v1.control_pb2 import Accepted, ControlReceipt, Refused
from livevideo.v1.session_pb2 import FollowResponse, PushRequest
from services.app import Context
from services.errors import BadRequest
from services.sessions.store import SessionStore


class Push:
    """One call: each control's accepted receipt is written before its obeyed one."""

    def __init__(self, store: SessionStore, session_id: str, newest_receipt: bytes, context: Context) -> None:
        self._store = store
        self._session_id = session_id
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
            newer = await self._store.push(
                self._session_id, FollowResponse(event=event, received_at_s=request.received_at_s)
            )
            if newer is None:
                self._stored_seq = event.seq
                receipt = ControlReceipt(seq=event.seq, accepted=Accepted())
            else:
                message = f"seq {event.seq} is not above {newer}, the newest stored; go on from there"
                receipt = ControlReceipt(seq=event.seq, refused=Refused(reason="old_seq", message=message))
            await self._context.write(receipt)
