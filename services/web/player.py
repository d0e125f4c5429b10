"""`PagePlayer`: one open page, from its first message to its last."""

import asyncio
import json
import struct
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import grpc
from aiohttp import WSMsgType, web

from livevideo.v1.control_pb2 import ControlReceipt, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import Frame, FrameFormat
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, NoticesRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.comeback import Silence, Viewer
from services import telemetry
from services.app import until_one_ends
from services.credentials import Metadata, bearer
from services.errors import BadRequest, PeerUnavailable, ServiceError
from services.relay import refusal_in
from services.web.steering import PASSING, RETRY_S, Steering

if TYPE_CHECKING:
    from livevideo.v1.frame_pb2_grpc import FrameServiceAsyncStub

FORMATS = {"h264": FrameFormat.FRAME_FORMAT_H264, "jpeg": FrameFormat.FRAME_FORMAT_JPEG}
# is_key, three bytes to align, index, control_seq, control to frame in milliseconds; little-endian.
HEADER = struct.Struct("<B3xIIf")
OPEN_S = 5.0
SAID_S = 1.0  # from the last frame to the reason of the end
WAITING = 256  # most messages of one kind that may wait to be passed on; ten seconds of frames shown
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
        api_key: str = "",
    ) -> None:
        self.socket = socket
        self._api_key = api_key
        self._sessions = SessionServiceStub(sessions)
        self._frames: FrameServiceAsyncStub = FrameServiceStub(frames)
        self._steering = Steering(
            ControlServiceStub(control), heard=self._tell_receipt, unheard=self._tell_unheard, waiting=WAITING
        )
        self._viewer: Viewer | None = None  # once there is a session

    async def play(self) -> None:
        """Until the page closes, or the session ends; why it ended is told to the page."""
        try:
            picture_format = await self._wanted_format()
            await until_one_ends(self._listen(), self._dream(picture_format))
        except ConnectionError:
            pass  # the page is gone; there is nobody to tell
        except Exception as error:
            with suppress(ConnectionError):
                await self._refuse(error)
        finally:
            await self.socket.close()

    async def _dream(self, picture_format: str) -> None:
        session = await self._opened()
        telemetry.concerns(session=session.session_id, tenant=session.tenant, epoch=session.epoch)
        credentials = bearer(session.token)
        self._viewer = Viewer([self._frames], session, FORMATS[picture_format], waiting=WAITING)
        try:
            await self._tell("world", **_world(session, picture_format))
            await until_one_ends(
                self._watch(self._viewer),
                self._steering.run(session.session_id, credentials),
                self._bring_notices(session.session_id, credentials),
            )
        finally:
            closing = CloseRequest(session_id=session.session_id)
            with suppress(grpc.aio.AioRpcError):
                await self._sessions.Close(closing, timeout=OPEN_S, metadata=credentials)

    async def _opened(self) -> Session:
        """A session, once it is the page's turn; until then the page hears its place."""
        async for said in self._sessions.Wait(OpenRequest(), metadata=bearer(self._api_key)):
            if said.HasField("session"):
                return said.session
            place = said.place
            await self._tell("place", position=place.position, expected_wait_s=place.expected_wait_s)
        raise PeerUnavailable("the queue has ended without a seat; try again", retry_after_s=RETRY_S)

    async def _bring_notices(self, session_id: str, credentials: Metadata) -> None:
        """Until the session ends. Raises the refusal that says why."""
        while True:
            try:
                request = NoticesRequest(session_id=session_id)
                async for notice in self._sessions.Notices(request, metadata=credentials):
                    await self._tell("notice", reason=notice.reason, ends_at_s=notice.ends_at_s)
            except grpc.aio.AioRpcError as error:
                if not isinstance(refusal_in(error), PASSING):
                    raise
            await asyncio.sleep(RETRY_S)

    async def _refuse(self, error: Exception) -> None:
        refusal = refusal_in(error)
        if refusal is None:
            log.exception("page failed", error)
            refusal = ServiceError("the world stopped for a reason that it does not know; begin another")
        log.info("page refused", reason=refusal.reason)
        await self._tell(
            "refused", message=refusal.message, reason=refusal.reason, retry_after_s=refusal.retry_after_s
        )

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
            try:
                self._take(_parse(message.data) if message.type == WSMsgType.TEXT else {})
            except asyncio.QueueFull as error:
                raise BadRequest(
                    "message", f"{WAITING} of its kind wait to be passed on already; send fewer a second"
                ) from error

    def _take(self, said: dict[str, Any]) -> None:
        match said:
            case {"type": "keys", "seq": seq, "down": [*down]} if _is_number(seq) and seq > 0:
                self._steering.press(seq, _keys(down))
            case {"type": "shown", "index": index} if self._viewer and _is_number(index):
                self._viewer.show(index)
            case _:
                raise BadRequest("message", "only keys and shown are understood after start")

    async def _watch(self, viewer: Viewer) -> None:
        try:
            async with aclosing(viewer.frames()) as frames:
                async for frame in frames:
                    frame.control_seq = self._steering.page_seq(frame.control_seq)
                    await self.socket.send_bytes(_packed(frame))
        except Silence as silence:
            raise PeerUnavailable("no frame comes any more; begin another session") from silence
        await asyncio.sleep(SAID_S)  # the last notice says why there are no more

    async def _tell_receipt(self, receipt: ControlReceipt) -> None:
        await self._tell("receipt", **_outcome(receipt))

    async def _tell_unheard(self, refusal: ServiceError) -> None:
        await self._tell("unheard", message=refusal.message, reason=refusal.reason)

    async def _tell(self, kind: str, **fields: object) -> None:
        if not self.socket.closed:
            await self.socket.send_str(json.dumps({"type": kind, **fields}))


def _parse(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRequest("message", f"it is not JSON that can be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest("message", "it is JSON, but a number is too long or a list too deep") from error
    if not isinstance(said, dict):
        raise BadRequest("message", "it is JSON, but not an object")
    return said


def _is_number(value: object) -> bool:
    """Whether it can be a number of a control or a frame; JSON's true is an int to Python."""
    return type(value) is int and 0 <= value < 2**63


def _keys(down: list[Any]) -> Keys:
    try:
        return Keys(down=down)
    except (TypeError, ValueError) as error:  # half of a surrogate pair: JSON can say it, UTF-8 cannot
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
