"""`World`: one session that is played, from its first frame to its last."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.control_pb2 import BodyPose, CameraPose, Keys, Look, Prompt
from livevideo.v1.frame_pb2 import Frame, FrameFormat
from livevideo.v1.session_pb2 import CloseRequest, GetRequest, Model, Notice, NoticesRequest, Session
from livevideo_client.access import bearer
from livevideo_client.comeback import LEASE_S, PASSING, Sender, Silence, Viewer
from livevideo_client.refusals import Refused, SessionEnded, Unavailable, ended, refusal_of
from livevideo_client.sessions import Sessions
from livevideo_client.steering import Control, Steering

if TYPE_CHECKING:
    from livevideo.v1.control_pb2_grpc import ControlServiceAsyncStub
    from livevideo.v1.frame_pb2_grpc import FrameServiceAsyncStub

ANSWER_S = 5.0
AGAIN_S = 1.0  # until notices are asked for once more


class World:
    """Plays on through lost services: no frame is skipped or comes twice, no control is lost or obeyed twice.

    Close it, or use it as `async with`: a seat is kept for 30 s for who vanishes.
    """

    def __init__(
        self,
        session: Session,
        picture_format: FrameFormat.ValueType,
        *,
        sessions: Sessions,
        controls: "Sequence[ControlServiceAsyncStub]",
        decoders: "Sequence[FrameServiceAsyncStub]",
        on_notice: Callable[[Notice], None] = lambda notice: None,
        after_seq: int = 0,
        from_frame: int = 0,
    ) -> None:
        """after_seq, from_frame: for one who goes on with a session that was played before."""
        self.session = session
        self.notice: Notice | None = None  # that the session will be ended, and when
        self._sessions = sessions
        self._viewer = Viewer(decoders, session, picture_format)
        self._sender = Sender(controls, session, first_lease_s=LEASE_S)
        self._steering = Steering(self._sender, session, after_seq=after_seq)
        self._on_notice = on_notice
        self._next_frame = from_frame
        self._is_closed = False
        self._beside = [asyncio.create_task(part) for part in (self._steering.run(), self._hear_notices())]

    async def __aenter__(self) -> "World":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def model(self) -> Model:
        """The picture's size and pace, and the names of the keys."""
        return self.session.model

    @property
    def comebacks(self) -> int:
        """How often a service was lost and another one, or the same one again, went on."""
        return self._viewer.comebacks.count + self._sender.comebacks.count

    def hold(self, *keys: str) -> Control:
        """These keys are down from now on, and no others; none: all are up. Raises ValueError for a name that
        the model does not have."""
        if strangers := [key for key in keys if key not in self.model.keys]:
            raise ValueError(
                f"{self.model.name} has no key {strangers[0]!r}; it has {', '.join(self.model.keys)}"
            )
        return self._steering.send(keys=Keys(down=keys))

    def look(self, yaw_rad: float, pitch_rad: float = 0.0) -> Control:
        """Turns the view to the right and upwards; angles add up until the world has seen them."""
        return self._steering.send(look=Look(yaw_rad=yaw_rad, pitch_rad=pitch_rad))

    def camera(self, position_m: Sequence[float], rotation: Sequence[float], fov_rad: float = 0.0) -> Control:
        """Where the camera is: x, y, z, and a unit quaternion x, y, z, w; 0: the same field of view."""
        pose = CameraPose(position_m=position_m, rotation=rotation, fov_rad=fov_rad)
        return self._steering.send(camera=pose)

    def body(self, joints: Sequence[float]) -> Control:
        """Where the joints are in the picture: x, y of each, 0 to 1 from the top left corner."""
        return self._steering.send(body=BodyPose(joints=joints))

    def prompt(self, text: str) -> Control:
        """What the world should look like from the next tick on."""
        return self._steering.send(prompt=Prompt(text=text))

    async def frames(self, *, shows: bool = True) -> AsyncGenerator[Frame, None]:
        """Frames at their pace, until the session is closed.

        A frame counts as shown when the next one is asked for; with `shows` off, when `show` says so. Whoever
        shows nothing for 2 s has left. Raises SessionEnded when somebody else ended it, and other Refused.
        """
        try:
            async with aclosing(self._viewer.frames(self._next_frame)) as frames:
                async for frame in frames:
                    self._next_frame = frame.index + 1
                    self._steering.saw(frame)
                    yield frame
                    if shows:
                        self.show(frame.index)
                    if self._steering.ended_by is not None and not self._is_closed:
                        raise self._steering.ended_by
        except grpc.aio.AioRpcError as error:
            if not self._is_closed:
                raise refusal_of(error) from error
        except Silence as silence:
            raise Unavailable("no_frames", "no frame came for 30 s; open another session") from silence
        if not self._is_closed:
            ending = await self._ending()
            self._steering.end(ending)
            raise ending

    def show(self, frame_index: int) -> None:
        """The player has seen this frame and all before it, which lets more of them come."""
        self._viewer.show(frame_index)

    async def close(self) -> None:
        """Ends the session, and `frames` and controls with it. What cannot be told to anybody expires."""
        if self._is_closed:
            return
        self._is_closed = True
        self._steering.end(SessionEnded("session_closed", "this world was closed; open another one"))
        self._viewer.close()
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        request, known = CloseRequest(session_id=self.session.session_id), bearer(self.session.token)
        with suppress(Refused):
            await self._sessions.ask(lambda stub: stub.Close(request, timeout=ANSWER_S, metadata=known))

    async def _ending(self) -> Refused:
        """Why somebody else has ended it."""
        request, known = GetRequest(session_id=self.session.session_id), bearer(self.session.token)
        try:
            found = await self._sessions.ask(lambda stub: stub.Get(request, timeout=ANSWER_S, metadata=known))
        except Refused as refusal:
            return refusal
        return ended(found.ended)

    async def _hear_notices(self) -> None:
        """Again after an outage, at the next *sessions*, until the session ends."""
        request, known = NoticesRequest(session_id=self.session.session_id), bearer(self.session.token)
        for stub in itertools.cycle(self._sessions.stubs):
            try:
                async for notice in stub.Notices(request, metadata=known):
                    self._take(notice)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in PASSING:
                    return  # who watches hears why
            await asyncio.sleep(AGAIN_S)

    def _take(self, notice: Notice) -> None:
        self.notice = notice if notice.reason else None
        try:
            self._on_notice(notice)
        except Exception as error:  # it is the program's; the next notice is told all the same
            told = {"message": "on_notice raised; the world plays on", "exception": error}
            asyncio.get_running_loop().call_exception_handler(told)
