"""`Visitor`: one player in Locust's greenlets, who keeps no score of its own: see `Audience`."""

import queue
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol, cast

import gevent
import grpc

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import Shown, WatchRequest, WatchResponse, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.comeback import FRAMES_PER_LATENT
from loadtests.player import FORMATS, Addresses, Script
from loadtests.pressing import Pressing
from loadtests.timeline import Timeline
from loadtests.visiting.visits import Manner, Visit
from services.credentials import bearer
from services.errors import NoEngine, PeerUnavailable, ServiceError, StoreUnavailable
from services.relay import from_status

CALL_S = 10.0
FIRST_FRAME_S = 15.0  # whoever has seen nothing for so long has been failed
SILENCE_S = 5.0  # and so has whoever sees nothing more
SLOW_EVERY_S = 3.0  # a slow one takes a pause about so often
SLOW_LONGEST_S = 1.0
# A service is missing. Being told to come again where there is no room is another matter.
_WANTING = (NoEngine, PeerUnavailable, StoreUnavailable)


class Audience(Protocol):
    """Is told what a visitor gets, as it comes."""

    def opened(self, took_s: float) -> None:
        """It was let in, so long after it was due."""

    def refused(self, reason: str, took_s: float) -> None:
        """It was told to come again later."""

    def first_frame(self, took_s: float) -> None:
        """Since it was due."""

    def saw(self, timeline: Timeline, frame_bytes: int, now_s: float) -> None:
        """A frame has come; `timeline` has it."""

    def failed(self, what: str, error: Exception) -> None:
        """It was not let in, or its session broke."""

    def ended(self, timeline: Timeline) -> None:
        """It has had what it came for, but for the controls that `timeline` awaits in vain."""


class Visitor:
    """Opens a session, plays for as long as its visit lasts, and leaves in its manner."""

    def __init__(self, addresses: Addresses, visit: Visit, script: Script, *, model: str = "") -> None:
        addresses = addresses.one_of_each(visit.seed)
        told = (addresses.sessions, addresses.control, addresses.frames)
        self._channels = {each: dialled(each, addresses) for each in set(told)}
        sessions, control, frames = (self._channels[each] for each in told)
        # The stubs are grpc's own for channels of either kind; their types know the asynchronous one better.
        self._sessions: Any = SessionServiceStub(sessions)
        self._control: Any = ControlServiceStub(control)
        self._frames: Any = FrameServiceStub(frames)
        self._api_key = addresses.api_key
        self._visit = visit
        self._script = script
        self._model = model
        self._chance = random.Random(visit.seed)
        self._has_left = False

    def play(self, due_s: float, audience: Audience) -> None:
        """due_s: when it should have come, by the monotonic clock. Whatever happens, `audience` is told."""
        session: Session | None = None
        pressing: gevent.Greenlet | None = None
        try:
            session = self._open(due_s, audience)
            if session is None:
                return
            timeline = Timeline(1 / session.model.frames_per_second)
            pressing = gevent.spawn(self._press, session, timeline)
            self._watch(session, timeline, due_s, audience)
        except grpc.RpcError as error:
            audience.failed("session", refusal_of(error) or error)
        except TimeoutError as error:
            audience.failed("session", error)
        else:
            timeline.end(time.monotonic())
            audience.ended(timeline)
        finally:
            self._has_left = True
            if pressing is not None:
                pressing.kill()
            if session is not None and self._visit.manner is not Manner.VANISHING:
                with suppress(grpc.RpcError):
                    closing = CloseRequest(session_id=session.session_id)
                    self._sessions.Close(closing, timeout=CALL_S, metadata=bearer(session.token))
            for channel in self._channels.values():
                channel.close()

    def _open(self, due_s: float, audience: Audience) -> Session | None:
        try:
            request = OpenRequest(model=self._model, seed=self._visit.seed)
            opened = self._sessions.Open(request, timeout=CALL_S, metadata=bearer(self._api_key))
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            if refusal and _is_for_later(refusal):
                audience.refused(refusal.reason, time.monotonic() - due_s)
            else:
                audience.failed("Open", refusal or error)
            return None
        audience.opened(time.monotonic() - due_s)
        return cast(Session, opened)

    def _watch(self, session: Session, timeline: Timeline, due_s: float, audience: Audience) -> None:
        shown: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        call = self._frames.Watch(_said(session.session_id, shown), metadata=bearer(session.token))
        # Nothing wakes a greenlet that waits for a frame: its call is cancelled when one is overdue.
        patience = gevent.spawn_later(FIRST_FRAME_S, call.cancel)
        has_waited_in_vain = True
        ends_at_s = pause_at_s = float("inf")
        try:
            for response in call:
                now_s = time.monotonic()
                if not cast(WatchResponse, response).HasField("frame"):
                    continue
                frame = response.frame
                if not timeline.indices:
                    audience.first_frame(now_s - due_s)
                    ends_at_s = now_s + self._visit.stays_s
                    pause_at_s = self._next_pause_s(now_s)
                timeline.frame(frame.index, frame.control_seq, now_s)
                audience.saw(timeline, len(frame.picture), now_s)
                if now_s >= ends_at_s:
                    has_waited_in_vain = False
                    return
                if now_s >= pause_at_s:
                    gevent.sleep(self._chance.uniform(0.2, SLOW_LONGEST_S))
                    pause_at_s = self._next_pause_s(time.monotonic())
                if frame.index % FRAMES_PER_LATENT == 0:  # the last of a latent: the others let nothing come
                    shown.put(frame.index)
                patience.kill(block=False)
                patience = gevent.spawn_later(SILENCE_S, call.cancel)
            has_waited_in_vain = False
            raise TimeoutError("the session was ended")
        except grpc.RpcError as error:
            if has_waited_in_vain and error.code() is grpc.StatusCode.CANCELLED:
                raise TimeoutError("no frame came") from error
            raise
        finally:
            patience.kill(block=False)
            shown.put(None)
            call.cancel()

    def _next_pause_s(self, now_s: float) -> float:
        slow = self._visit.manner is Manner.SLOW
        return now_s + self._chance.expovariate(1 / SLOW_EVERY_S) if slow else float("inf")

    def _press(self, session: Session, timeline: Timeline) -> None:
        call = self._control.Send(self._events(session, timeline), metadata=bearer(session.token))
        with suppress(grpc.RpcError):  # what ends a session ends Watch, which is told of it
            for _ in call:
                pass

    def _events(self, session: Session, timeline: Timeline) -> Iterator[ControlEvent]:
        begun_s = time.monotonic()
        for seq, (at_s, down) in enumerate(Pressing(self._script, self._chance).changes(), 1):
            gevent.sleep(max(0.0, begun_s + at_s - time.monotonic()))
            if self._has_left:
                return
            timeline.control(seq, begun_s + at_s)
            yield ControlEvent(session_id=session.session_id, seq=seq, keys=Keys(down=down))


def check(addresses: Addresses, model: str) -> None:
    """Opens a session and closes it. Raises ServiceError, or RpcError, where nobody could play: there is no
    service, or none of ours, or the key or the model is wrong."""
    with dialled(addresses.one_of_each(0).sessions, addresses) as channel:
        sessions: Any = SessionServiceStub(channel)
        try:
            key = bearer(addresses.api_key)
            session = sessions.Open(OpenRequest(model=model), timeout=CALL_S, metadata=key)
            closing = CloseRequest(session_id=session.session_id)
            sessions.Close(closing, timeout=CALL_S, metadata=bearer(session.token))
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            if refusal is None or not _is_for_later(refusal):
                raise refusal or error from error


def dialled(address: str, addresses: Addresses) -> grpc.Channel:
    """A connection of one's own: channels with the same options would share one."""
    own = (("grpc.use_local_subchannel_pool", 1),)
    if addresses.ca_file is None:
        return grpc.insecure_channel(address, own)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(addresses.ca_file.read_bytes()), own)


def refusal_of(error: grpc.RpcError) -> ServiceError | None:
    """What a service of ours said; None: that was none of ours."""
    return from_status(cast(grpc.aio.AioRpcError, error))  # both kinds of call say the same


def _is_for_later(refusal: ServiceError) -> bool:
    return refusal.retry_after_s is not None and not isinstance(refusal, _WANTING)


def _said(session_id: str, shown: "queue.SimpleQueue[int | None]") -> Iterator[WatchRequest]:
    yield WatchRequest(start=WatchStart(session_id=session_id, format=FORMATS["jpeg"]))
    while (frame_index := shown.get()) is not None:
        yield WatchRequest(shown=Shown(frame_index=frame_index))
