"""Where one *sessions* is lost or stops, a client goes on with the next one, or with the same one later."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from livevideo.v1 import frame_pb2_grpc, session_pb2_grpc
from livevideo.v1.frame_pb2 import Frame, WatchRequest, WatchResponse
from livevideo.v1.session_pb2 import (
    CloseRequest,
    CloseResponse,
    GetRequest,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    Notice,
    NoticesRequest,
    OpenRequest,
    Place,
    Session,
    WaitResponse,
)
from livevideo_client import Client, Services, SessionEnded, Unavailable, World, world
from services.app import Context, Service
from services.errors import ServiceStopping, SessionClosed
from tests.services.scripted import Scripted

Serve = Callable[[Service], Awaitable[str]]
NOBODY = "127.0.0.1:1"
STOPPING = ServiceStopping("this instance of sessions is stopping; call again", retry_after_s=0.1)
ROAD = Model(name="road", keys=["up"], tracks=["keys"], frames_per_second=24)
PATIENCE_S = 20.0


@dataclass
class ScriptedSessions(Scripted, session_pb2_grpc.SessionServiceServicer):
    """One session, and what becomes of each call that stays open: a refusal, or what is said in it."""

    ended: str = ""
    is_stopping: bool = False
    waits: list[Exception | list[WaitResponse]] = field(default_factory=list)
    notices: list[Exception | list[Notice]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def _session(self) -> Session:
        if self.is_stopping:
            raise STOPPING
        return Session(session_id="one", model=ROAD, newest_seq=6, ended=self.ended)

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        return ListModelsResponse(models=[ROAD])

    async def Open(self, request: OpenRequest, context: Context) -> Session:
        return self._session()

    async def Get(self, request: GetRequest, context: Context) -> Session:
        return self._session()

    async def Close(self, request: CloseRequest, context: Context) -> CloseResponse:
        self.closed.append(self._session().session_id)
        return CloseResponse()

    async def Wait(self, request: OpenRequest, context: Context) -> AsyncIterator[WaitResponse]:
        if self.is_stopping:
            raise STOPPING
        said = self.waits.pop(0)
        if isinstance(said, Exception):
            raise said
        for each in said:
            yield each
        if not said[-1].HasField("session"):
            raise STOPPING

    async def Notices(self, request: NoticesRequest, context: Context) -> AsyncIterator[Notice]:
        self._session()
        said = self.notices.pop(0) if self.notices else []
        if isinstance(said, Exception):
            raise said
        for each in said:
            yield each
        await asyncio.Event().wait()


@dataclass
class ScriptedDecoder(Scripted, frame_pb2_grpc.FrameServiceServicer):
    """Sends one frame; then the session has ended, or nothing comes."""

    has_ended: bool

    async def Watch(
        self, request_iterator: AsyncIterator[WatchRequest], context: Context
    ) -> AsyncIterator[WatchResponse]:
        yield WatchResponse(frame=Frame(index=0))
        if self.has_ended:
            raise SessionClosed("it has ended")
        await asyncio.Event().wait()


def seat() -> WaitResponse:
    return WaitResponse(session=Session(session_id="one", model=ROAD))


def place(position: int) -> WaitResponse:
    return WaitResponse(place=Place(position=position))


async def frames_of(played: World) -> list[int]:
    return [frame.index async for frame in played.frames()]


@pytest.mark.parametrize("lost", ["nobody", "stopping"])
async def test_a_world_is_played_where_the_first_sessions_is_lost(serve: Serve, lost: str) -> None:
    first = NOBODY if lost == "nobody" else await serve(ScriptedSessions(is_stopping=True))
    second = ScriptedSessions(ended="idle", notices=[[Notice(reason="idle")]])
    decoder = await serve(ScriptedDecoder(has_ended=True))
    noticed = asyncio.Event()
    services = Services(f"{first},{await serve(second)}", NOBODY, decoder)
    async with asyncio.timeout(PATIENCE_S), Client(services) as client:
        async with await client.open(on_notice=lambda notice: noticed.set()) as played:
            await noticed.wait()
            with pytest.raises(SessionEnded, match="idle") as ending:
                await frames_of(played)
            assert ending.value.reason == "time_up", "as every service says it"
            with pytest.raises(SessionEnded):
                played.hold("up")
        assert second.closed == ["one"]


async def test_who_joins_numbers_its_controls_behind_those_that_were_stored(serve: Serve) -> None:
    async with Client(Services(await serve(ScriptedSessions()), NOBODY, NOBODY)) as client:
        async with await client.join("one") as played:
            assert played.hold("up").seq == 7
        async with await client.join("one", after_seq=3) as played:
            assert played.hold("up").seq == 4


async def test_a_place_is_kept_through_sessions_that_stop(serve: Serve) -> None:
    """Where there is one address, too."""
    sessions = ScriptedSessions(waits=[STOPPING, [place(2)], [place(2), place(1)], [seat()]])
    places: list[int] = []
    services = Services(await serve(sessions), NOBODY, NOBODY)
    async with (
        asyncio.timeout(PATIENCE_S),
        Client(services) as client,
        await client.wait(lambda said: places.append(said.position)) as played,
    ):
        assert played.session.session_id == "one"
    assert places == [2, 2, 1]


async def test_who_waits_where_nobody_is_hears_so_at_once() -> None:
    async with asyncio.timeout(PATIENCE_S), Client(NOBODY) as client:
        with pytest.raises(Unavailable, match="nobody answers"):
            await client.wait()


async def test_notices_come_again_whatever_passes_and_whatever_is_made_of_them(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "AGAIN_S", 0.01)
    said = [Notice(reason="idle"), Notice(), Notice(reason="time_up")]
    sessions = ScriptedSessions(notices=[RuntimeError("a bug, which is told as INTERNAL"), said])
    blamed: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, told: blamed.append(told["message"]))
    heard: list[str] = []
    all_heard = asyncio.Event()

    def on_notice(notice: Notice) -> None:
        heard.append(notice.reason)
        if len(heard) == len(said):
            all_heard.set()
        raise ValueError("the program's own bug")

    services = Services(await serve(sessions), NOBODY, NOBODY)
    async with (
        asyncio.timeout(PATIENCE_S),
        Client(services) as client,
        await client.open(on_notice=on_notice) as played,
    ):
        await all_heard.wait()
        assert played.notice == said[-1]
    assert heard == ["idle", "", "time_up"]
    assert blamed == 3 * ["on_notice raised; the world plays on"]


async def test_a_world_that_is_closed_ends_for_all_who_wait_for_it_though_nobody_can_be_told(
    serve: Serve,
) -> None:
    sessions = ScriptedSessions()
    services = Services(await serve(sessions), NOBODY, await serve(ScriptedDecoder(has_ended=False)))
    async with asyncio.timeout(PATIENCE_S), Client(services) as client:
        played = await client.open()
        following = asyncio.create_task(frames_of(played))
        obeyed = asyncio.create_task(played.hold("up").obeyed())
        await asyncio.sleep(0.3)
        sessions.is_stopping = True
        await played.close()
        assert await following in ([0], [])
        with pytest.raises(SessionEnded, match="closed"):
            await obeyed
