"""`Client`: one's connections to the services, and the ways into a world."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FrameFormat
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import GetRequest, ListModelsRequest, Model, Notice, OpenRequest, Place, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.access import Services, bearer, checked, dialled
from livevideo_client.sessions import Sessions
from livevideo_client.world import World

FORMATS = {
    "rgb8": FrameFormat.FRAME_FORMAT_RGB8,
    "jpeg": FrameFormat.FRAME_FORMAT_JPEG,
    "h264": FrameFormat.FRAME_FORMAT_H264,
}
OPEN_S = 15.0


class Client:
    """Made within a running event loop. Close it after its worlds, or use it as `async with`."""

    def __init__(self, services: Services | str, *, key: str = "", ca_file: Path | str | None = None) -> None:
        """services: where they are; one address: all of them there. key: the tenant's, where one is asked
        for. ca_file: PEM, who signs the services' certificates; None: plain text. Raises ValueError."""
        told = Services.at(services) if isinstance(services, str) else services
        sessions, controls, frames = (each.split(",") for each in (told.sessions, told.control, told.frames))
        self._key = bearer(checked(key))
        self._channels = {each: dialled(each, ca_file) for each in {*sessions, *controls, *frames}}
        self._sessions = Sessions([SessionServiceStub(self._channels[each]) for each in sessions])
        self._controls = [ControlServiceStub(self._channels[each]) for each in controls]
        self._decoders = [FrameServiceStub(self._channels[each]) for each in frames]

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def models(self) -> Sequence[Model]:
        """What can be played now. Raises Refused."""
        listed = await self._sessions.ask(lambda stub: stub.ListModels(ListModelsRequest(), timeout=OPEN_S))
        return listed.models

    async def open(
        self,
        *,
        model: str = "",
        seed: int = 0,
        prompt: str = "",
        picture: bytes = b"",
        picture_format: str = "jpeg",
        on_notice: Callable[[Notice], None] = lambda notice: None,
    ) -> World:
        """A world of one's own, now. Raises Refused; NoRoom where all seats are taken.

        model: empty: the only one. seed: 0: the service chooses. prompt, picture (PNG or JPEG): empty: the
        model's own. picture_format: "rgb8", "jpeg" or "h264". on_notice: told when the session will be ended.
        """
        request = OpenRequest(model=model, seed=seed, prompt=prompt, image=picture)
        chosen = _format(picture_format)
        session = await self._sessions.ask(
            lambda stub: stub.Open(request, timeout=OPEN_S, metadata=self._key)
        )
        return self._world(session, chosen, on_notice)

    async def wait(
        self,
        on_place: Callable[[Place], None] = lambda place: None,
        *,
        model: str = "",
        seed: int = 0,
        prompt: str = "",
        picture: bytes = b"",
        picture_format: str = "jpeg",
        on_notice: Callable[[Notice], None] = lambda notice: None,
    ) -> World:
        """A world of one's own, once it is one's turn; on_place: told the place in the queue whenever it
        changes. Otherwise as `open`; whoever no longer wants to wait cancels it. Where the call breaks it is
        made again for 30 s, which may take the place further back."""
        request = OpenRequest(model=model, seed=seed, prompt=prompt, image=picture)
        chosen = _format(picture_format)
        session = await self._sessions.wait(request, self._key, on_place)
        return self._world(session, chosen, on_notice)

    async def join(
        self,
        session_id: str,
        token: str = "",
        *,
        after_seq: int | None = None,
        from_frame: int = 0,
        picture_format: str = "jpeg",
        on_notice: Callable[[Notice], None] = lambda notice: None,
    ) -> World:
        """A session that was opened before, by this program or another one. Raises Refused.

        after_seq: number of the newest control that was sent then; None: of the newest that was stored.
        from_frame: index of the first frame that was not seen; 0: whatever comes next.
        """
        chosen, known = _format(picture_format), bearer(checked(token))
        request = GetRequest(session_id=session_id)
        session = await self._sessions.ask(lambda stub: stub.Get(request, timeout=OPEN_S, metadata=known))
        session.token = token.strip()
        newest_seq = session.newest_seq if after_seq is None else after_seq
        return self._world(session, chosen, on_notice, newest_seq, from_frame)

    async def close(self) -> None:
        """Closes the connections; sessions stay as they are."""
        for channel in self._channels.values():
            await channel.close()

    def _world(
        self,
        session: Session,
        picture_format: FrameFormat.ValueType,
        on_notice: Callable[[Notice], None],
        after_seq: int = 0,
        from_frame: int = 0,
    ) -> World:
        return World(
            session,
            picture_format,
            sessions=self._sessions,
            controls=self._controls,
            decoders=self._decoders,
            on_notice=on_notice,
            after_seq=after_seq,
            from_frame=from_frame,
        )


def _format(name: str) -> FrameFormat.ValueType:
    if name not in FORMATS:
        raise ValueError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
