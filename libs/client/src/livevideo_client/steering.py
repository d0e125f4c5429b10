"""`Steering`: numbers a session's controls, and tells what became of each."""

import asyncio
from contextlib import aclosing
from typing import Any

import grpc

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt
from livevideo.v1.frame_pb2 import Frame
from livevideo.v1.session_pb2 import Session
from livevideo_client.comeback import Sender, Silence
from livevideo_client.refusals import ControlRefused, Refused, Unavailable, refusal_of


class Control:
    """One thing that the player did. Who does not care what became of it need not ask."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self._seen_in: int | None = None  # the first frame that says that it obeys it
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._obeyed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        for future in (self._accepted, self._obeyed):
            future.add_done_callback(_hear)

    async def accepted(self) -> None:
        """Returns once it is stored. Raises ControlRefused, or what ended the session."""
        await asyncio.shield(self._accepted)

    async def obeyed(self) -> int:
        """The index of the first frame that obeys it. Raises as `accepted` does."""
        return await asyncio.shield(self._obeyed)

    def _seen(self, frame_index: int) -> None:
        """Counts once it is known to be accepted: frames pass over the numbers of refused ones, too."""
        if self._seen_in is None:
            self._seen_in = frame_index

    @property
    def _is_seen_and_accepted(self) -> bool:
        return self._seen_in is not None and self._accepted.done()

    def _settle(self, *, frame_index: int | None = None, refusal: Refused | None = None) -> None:
        """Stored; and obeyed, where a frame says so; or neither. What is settled stays."""
        if refusal is not None:
            for future in (self._accepted, self._obeyed):
                if not future.done():
                    future.set_exception(refusal)
            return
        if not self._accepted.done():
            self._accepted.set_result(None)
        if frame_index is not None and not self._obeyed.done():
            self._obeyed.set_result(frame_index)


class Steering:
    """Runs beside whoever watches. A control counts as obeyed when its receipt says so, or a frame."""

    def __init__(self, sender: Sender, session: Session, *, after_seq: int = 0) -> None:
        """after_seq: number of the newest control that was sent before, by one who comes back."""
        self.ended_by: Refused | None = None  # what ended it; None: it still runs
        self._sender = sender
        self._session = session
        self._seq = after_seq
        self._open: dict[int, Control] = {}  # of which it is not known yet what became of them

    def send(self, **track: Any) -> Control:
        """One track and its new value. Raises ValueError for a track that the model does not obey, and what
        ended the session."""
        model = self._session.model
        (name,) = track
        if name not in model.tracks:
            raise ValueError(f"{model.name} obeys no {name}; it obeys {', '.join(model.tracks)}")
        if self.ended_by is not None:
            raise self.ended_by
        self._seq += 1
        event = ControlEvent(session_id=self._session.session_id, seq=self._seq, **track)
        self._open[self._seq] = control = Control(self._seq)
        self._sender.send(event)
        return control

    def saw(self, frame: Frame) -> None:
        """All controls up to the frame's are obeyed, also where their receipts were lost with a service."""
        for control in [self._open[seq] for seq in self._open if seq <= frame.control_seq]:
            control._seen(frame.index)
            self._settle_seen(control)

    async def run(self) -> None:
        """Until the session ends."""
        try:
            async with aclosing(self._sender.receipts()) as receipts:
                async for receipt in receipts:
                    self._take(receipt)
        except grpc.aio.AioRpcError as error:
            self.end(refusal_of(error))
        except Silence:
            self.end(Unavailable("no_receipt", "nobody has said for 30 s what became of a control"))

    def end(self, why: Refused) -> None:
        """Nothing more becomes of the controls that are open; whoever waits for them hears why."""
        self.ended_by = self.ended_by or why
        for control in self._open.values():
            control._settle(refusal=self.ended_by)
        self._open.clear()

    def _take(self, receipt: ControlReceipt) -> None:
        control = self._open.get(receipt.seq)
        if control is None:
            return
        match receipt.WhichOneof("outcome"):
            case "accepted":
                control._settle()
                self._settle_seen(control)
            case "obeyed":
                control._settle(frame_index=receipt.obeyed.frame_index)
                del self._open[receipt.seq]
            case "refused":
                control._settle(refusal=ControlRefused(receipt.refused.reason, receipt.refused.message))
                del self._open[receipt.seq]

    def _settle_seen(self, control: Control) -> None:
        if control._is_seen_and_accepted:
            control._settle(frame_index=control._seen_in)
            del self._open[control.seq]


def _hear(settled: "asyncio.Future[Any]") -> None:
    """A refusal that nobody asks for is no error."""
    if not settled.cancelled():
        settled.exception()
