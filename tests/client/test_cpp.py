"""examples/cpp, built with Debian's gRPC, plays on real services, and on some that break on purpose."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from livevideo.v1 import control_pb2_grpc, frame_pb2_grpc, session_pb2_grpc
from livevideo.v1.control_pb2 import Accepted, ControlEvent, ControlReceipt, Refused
from livevideo.v1.frame_pb2 import Frame, WatchRequest, WatchResponse
from livevideo.v1.session_pb2 import CloseRequest, CloseResponse, GetRequest, Model, OpenRequest, Session
from services import together
from services.app import Context, Service
from services.bench.faults.links import Link
from services.control.gate import ControlGate
from services.errors import BadRequest, SeatTaken
from tests.client.programs import cpp_player, cpp_steerer, missing_for_cpp, run
from tests.services.scripted import Scripted

Start = Callable[..., Awaitable[together.Addresses]]
Serve = Callable[[Service], Awaitable[str]]

MODEL = Model(name="road", width_px=2, height_px=2, keys=["left", "right", "up", "down"], tracks=["keys"])
FRAME_S = 1 / 24
HANGING_S = 10.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_for_cpp()), reason=f"not installed: {missing_for_cpp()}"),
]


@dataclass
class BreakingServices(
    Scripted,
    session_pb2_grpc.SessionServiceServicer,
    control_pb2_grpc.ControlServiceServicer,
    frame_pb2_grpc.FrameServiceServicer,
):
    """One session. Call i of Watch brings so many frames, then hangs; the next ones bring them without end.

    first_event_s, breaking: how long Send waits for its first event, and how many of its calls break then.
    """

    watches: Sequence[int] = ()
    first_frame_s: float = 0.0
    taken: bool = False
    first_event_s: float = 5.0
    breaking: int = 0
    newest_seq: int = 0
    starts: list[int] = field(default_factory=list)
    sends: int = 0
    heard: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    closed_at_s: list[float] = field(default_factory=list)
    gate: ControlGate = field(default_factory=lambda: ControlGate(MODEL))
    says_pace: bool = False  # as *control* does

    async def Open(self, request: OpenRequest, context: Context) -> Session:
        return Session(session_id="one", model=MODEL)

    async def Get(self, request: GetRequest, context: Context) -> Session:
        return Session(session_id="one", model=MODEL, newest_seq=self.newest_seq)

    async def Close(self, request: CloseRequest, context: Context) -> CloseResponse:
        self.closed_at_s.append(time.monotonic())
        return CloseResponse()

    async def Watch(
        self, request_iterator: AsyncIterator[WatchRequest], context: Context
    ) -> AsyncIterator[WatchResponse]:
        if self.taken:
            raise SeatTaken("somebody watches")
        start = (await anext(request_iterator)).start.from_frame_index
        call = len(self.starts)
        self.starts.append(start)
        await asyncio.sleep(self.first_frame_s)
        end = start + self.watches[call] if call < len(self.watches) else 1 << 30
        for index in range(start, end):
            yield WatchResponse(frame=Frame(index=index, picture=bytes(12)))
            await asyncio.sleep(FRAME_S)
        await asyncio.sleep(HANGING_S)

    async def Send(
        self, request_iterator: AsyncIterator[ControlEvent], context: Context
    ) -> AsyncIterator[ControlReceipt]:
        self.sends += 1
        is_breaking = self.sends <= self.breaking
        gate = self.gate.of_stream()
        try:
            event = await asyncio.wait_for(anext(request_iterator, None), self.first_event_s)
        except TimeoutError as error:
            raise BadRequest("session_id", "no event came") from error
        if self.says_pace:
            pace = (
                ("controls-per-s", f"{self.gate.controls_per_s:g}"),
                ("controls-at-once", str(self.gate.burst)),
            )
            await context.send_initial_metadata(pace)
        while event is not None:
            self.heard.append(event.seq)
            refused = gate.refusal(event, time.monotonic())
            if refused is None and event.seq in self.stored:
                refused = Refused(reason="old_seq")
            if refused is None:
                self.stored.append(event.seq)
                yield ControlReceipt(seq=event.seq, accepted=Accepted())
            else:
                yield ControlReceipt(seq=event.seq, refused=refused)
            if is_breaking:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
            event = await anext(request_iterator, None)


def scripted(**how: Any) -> BreakingServices:
    """It has the methods that are called."""
    return BreakingServices(**how)  # type: ignore[abstract]


async def test_a_program_in_cpp_plays_is_cut_off_comes_back_and_leaves(start: Start) -> None:
    play = await asyncio.to_thread(cpp_player)
    addresses = await start()
    link = Link(addresses.grpc)
    await link.open()

    def strike(line: str) -> None:
        if line.startswith("control 1: obeyed"):
            link.drop()

    ended = await run(*play, "--at", link.address, "--seconds", "4", on_line=strike)
    await link.close()
    assert ended.code == 0, ended
    sights = re.search(r"(\d+) frames, (\d+) gaps, (\d+) comebacks, brightness ([\d.]+)", ended.out)
    assert sights, ended
    frames, gaps, comebacks = (int(each) for each in sights.groups()[:3])
    assert frames > 24
    assert gaps == 0
    assert comebacks >= 1, ended.out
    assert 20 < float(sights[4]) < 235
    for seq in (1, 2, 3):
        assert f"control {seq}: accepted" in ended.out
        assert re.search(rf"control {seq}: obeyed from frame \d+ on", ended.out)
    assert "refused" not in ended.out


async def test_who_has_said_nothing_for_a_while_and_lost_control_still_steers(serve: Serve) -> None:
    play = await asyncio.to_thread(cpp_player)
    world = scripted(first_frame_s=1.0, first_event_s=0.5, breaking=1)
    ended = await run(*play, "--at", await serve(world), "--seconds", "2.5")
    assert ended.code == 0, ended
    assert world.stored == [1, 2], ended
    assert world.sends == 2, "Send is called when there is something to say"
    assert not ended.err


async def test_controls_that_are_taken_no_more_end_the_play(serve: Serve) -> None:
    play = await asyncio.to_thread(cpp_player)
    world = scripted(first_event_s=0.0)
    ended = await run(*play, "--at", await serve(world), "--seconds", "2.5")
    assert ended.code == 2, ended
    assert "controls are taken no more: bad_request" in ended.err.splitlines()[-1]
    assert len(world.closed_at_s) == 1


@pytest.mark.parametrize(("controls", "pace"), [(250, {}), (30, {"controls_per_s": 20.0, "burst": 4})])
async def test_after_an_outage_everything_is_sent_again_and_nothing_is_refused_as_a_flood(
    serve: Serve, controls: int, pace: dict[str, Any]
) -> None:
    steer = await asyncio.to_thread(cpp_steerer)
    world = scripted(breaking=1, gate=ControlGate(MODEL, **pace), says_pace=bool(pace))
    ended = await run(*steer, await serve(world), str(controls), until=f"control {controls}: ")
    assert ended.code == 0, ended
    assert world.stored == [*range(1, controls + 1)], ended.out
    assert "flood" not in ended.out
    assert "refused" not in ended.out
    for seq in world.stored:
        assert f"control {seq}: accepted" in ended.out


async def test_a_watch_that_hangs_is_called_again_and_does_not_outlive_the_play(serve: Serve) -> None:
    play = await asyncio.to_thread(cpp_player)
    world = scripted(watches=[3, 6])
    begun_s = time.monotonic()
    ended = await run(*play, "--at", await serve(world), "--seconds", "4")
    assert ended.code == 0, ended
    assert world.starts == [0, 3]
    assert "9 frames, 0 gaps, 1 comebacks" in ended.out
    assert len(world.closed_at_s) == 1
    assert 4.0 < world.closed_at_s[0] - begun_s < HANGING_S


async def test_a_session_that_cannot_be_watched_is_closed_but_for_one_that_others_play(serve: Serve) -> None:
    play = await asyncio.to_thread(cpp_player)
    world = scripted(taken=True)
    address = await serve(world)
    ended = await run(*play, "--at", address)
    assert ended.code == 2, ended
    assert "seat_taken" in ended.err
    assert len(world.closed_at_s) == 1
    assert (await run(*play, "--at", address, "--session", "one")).code == 2
    assert len(world.closed_at_s) == 1


async def test_who_joins_a_session_that_was_steered_before_goes_on_behind_its_newest_control(
    serve: Serve,
) -> None:
    play = await asyncio.to_thread(cpp_player)
    world = scripted(newest_seq=41)
    ended = await run(*play, "--at", await serve(world), "--seconds", "0.5", "--session", "one")
    assert ended.code == 0, ended
    assert world.heard == [42]
