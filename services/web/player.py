"""`PagePlayer`: one open page, from its first message to its last."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
from aiohttp import WSMsgType, web

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import Frame, FrameFormat, Shown, WatchRequest, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from services import telemetry
from services.app import until_one_ends
from services.errors import BadRequest, ServiceError, refusal_in

FORMATS = {"h264": FrameFormat.FRAME_FORMAT_H264, "jpeg": FrameFormat.FRAME_FORMAT_JPEG}
# is_key, three bytes to align, index, control_seq, control to frame in milliseconds; little-endian.
HEADER = struct.Struct("<B3xIIf")
OPEN_S = 5.0
log = telemetry.logger("web")


class PagePlayer:
    """Opens a session for the page, carries keys there and frames back, and closes it with the page."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        *,
        sessions: grpc.aio.Channel,
        control: grpc.aio.Channel,
        frames: grpc.aio.Channel,
    ) -> None:
        self.socket = socket
        self._sessions = SessionServiceStub(sessions)
        self._control = ControlServiceStub(control)
        self._frames = FrameServiceStub(frames)
        self._events: asyncio.Queue[ControlEvent] = asyncio.Queue()
        self._shown: asyncio.Queue[int] = asyncio.Queue()

    async def play(self) -> None:
        """Until the page closes, or the session ends; why it ended is told to the page."""
        try:
            picture_format = await self._wanted_format()
            session = await self._sessions.Open(OpenRequest(), timeout=OPEN_S)
            try:
                await self._tell("world", **_world(session, picture_format))
                await until_one_ends(
                    self._listen(), self._watch(session, picture_format), self._send(session)
                )
            finally:
                with suppress(grpc.aio.AioRpcError):
                    await self._sessions.Close(CloseRequest(session_id=session.session_id), timeout=OPEN_S)
        except (ServiceError, grpc.aio.AioRpcError) as error:
            refusal = refusal_in(error) or ServiceError(
                "the world stopped for a reason that it does not know"
            )
            log.info("page refused", reason=refusal.reason)
            await self._tell(
                "refused", message=refusal.message, reason=refusal.reason, retry_after_s=refusal.retry_after_s
            )
        except ConnectionError:
            pass  # the page is gone; there is nobody to tell
        finally:
            await self.socket.close()

    async def _wanted_format(self) -> str:
        try:
            message = await self.socket.receive(timeout=OPEN_S)
        except TimeoutError as error:
            raise BadRequest("start", f"no message came within {OPEN_S:g} s") from error
        match _parse(message.data) if message.type == WSMsgType.TEXT else {}:
            case {"type": "start", "format": str(picture_format)} if picture_format in FORMATS:
                return picture_format
        raise BadRequest("start.format", f"the first message must start with one of {sorted(FORMATS)}")

    async def _listen(self) -> None:
        async for message in self.socket:
            said = _parse(message.data) if message.type == WSMsgType.TEXT else {}
            match said:
                case {"type": "keys", "seq": int(seq), "down": [*down]} if 0 < seq < 2**63:
                    self._events.put_nowait(ControlEvent(seq=seq, keys=_keys(down)))
                case {"type": "shown", "index": int(index)} if 0 <= index < 2**63:
                    self._shown.put_nowait(index)
                case _:
                    raise BadRequest("message", "only keys and shown are understood after start")

    async def _watch(self, session: Session, picture_format: str) -> None:
        async def requests() -> AsyncIterator[WatchRequest]:
            start = WatchStart(session_id=session.session_id, format=FORMATS[picture_format])
            yield WatchRequest(start=start)
            while True:
                yield WatchRequest(shown=Shown(frame_index=await self._shown.get()))

        async for response in self._frames.Watch(requests()):
            if response.WhichOneof("said") == "frame":
                await self.socket.send_bytes(_packed(response.frame))

    async def _send(self, session: Session) -> None:
        async def events() -> AsyncIterator[ControlEvent]:
            while True:
                event = await self._events.get()
                event.session_id = session.session_id
                yield event

        async for receipt in self._control.Send(events()):
            await self._tell("receipt", **_outcome(receipt))

    async def _tell(self, kind: str, **fields: object) -> None:
        if not self.socket.closed:
            await self.socket.send_str(json.dumps({"type": kind, **fields}))


def _parse(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRequest("message", f"it is not JSON that can be read: {error}") from error
    if not isinstance(said, dict):
        raise BadRequest("message", "it is JSON, but not an object")
    return said


def _keys(down: list[object]) -> Keys:
    try:
        return Keys(down=[str(key) for key in down])
    except ValueError as error:  # half of a surrogate pair: JSON can say it, UTF-8 cannot
        raise BadRequest("keys.down", "a name is not text") from error


def _world(session: Session, picture_format: str) -> dict[str, object]:
    model = session.model
    return {
        "session_id": session.session_id,
        "model": model.name,
        "width_px": model.width_px,
        "height_px": model.height_px,
        "frames_per_second": model.frames_per_second,
        "keys": list(model.keys),
        "format": picture_format,
    }


def _packed(frame: Frame) -> bytes:
    header = HEADER.pack(
        frame.is_key, frame.index, frame.control_seq % 2**32, 1000 * frame.control_to_frame_s
    )
    return header + frame.picture


def _outcome(receipt: ControlReceipt) -> dict[str, object]:
    outcome = receipt.WhichOneof("outcome")
    told: dict[str, object] = {"seq": receipt.seq, "outcome": outcome}
    if outcome == "refused":
        told |= {"reason": receipt.refused.reason, "message": receipt.refused.message}
    if outcome == "obeyed":
        told["frame_index"] = receipt.obeyed.frame_index
    return told
