"""Sessions that are measured, as cheaply as Python can: they share the processor with what they measure.

    python -m loadtests.probe --players 8 --seconds 60

They arrive a tenth of a second apart, and play until so long after the last has come. Each has connections
of its own, as players have. Pictures come as they are (RGB8) unless --format says otherwise, and nobody looks
at them.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import grpc
import numpy as np
import uvloop

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import Shown, WatchRequest, WatchResponse, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from loadtests.player import FORMATS, Addresses, Script, add_addresses, chosen_addresses, dialled
from loadtests.pressing import Pressing
from loadtests.timeline import Timeline, percentiles
from services.comeback import FRAMES_PER_LATENT
from services.credentials import bearer
from services.errors import BadSetting
from services.relay import refusal_in

CALL_S = 10.0
ARRIVE_EVERY_S = 0.1


@dataclass
class Seen:
    """What one player saw.

    made_to_sent_s: from a latent being made to its first frame being sent, as the decoder says: the playout
    delay, decoding, encoding, and what the services added.
    """

    timeline: Timeline
    made_to_sent_s: list[float] = field(default_factory=list)
    first_frame_s: float = 0.0  # from asking for a session; 0: none came
    controls: int = 0
    accepted: int = 0
    refused_by: str = ""  # the reason, of who was not let in
    retry_after_s: float = 0.0  # what that one was told
    broken_by: str = ""  # what ended it before its time


@dataclass(frozen=True)
class Measured:
    """What all players saw between them.

    deadline_hit: the share of frames that came no more than one frame period after their place (`Pace`).
    added_latency: a frame's arrival less its place on a line that no stall moves (`Timeline`).
    late_by_two: frames that this made two periods or more. made_to_sent: see `Seen`.
    control_to_frame: from the moment when a key was due to change to the first frame that obeys it.
    cpu_s: what the players themselves took of the processor.
    """

    players: int
    sessions: int  # that were let in
    seconds: float
    refused: dict[str, int]
    retry_after_s: float
    broken: dict[str, int]
    frames: int
    timed_frames: int  # that came once their sessions had settled
    deadline_hit: float
    late_by_two: int
    index_gaps: int
    stalled_s: float  # how long pictures stood still, past one frame period
    added_latency_p50_s: float
    added_latency_p95_s: float
    added_latency_p99_s: float
    added_latency_max_s: float
    made_to_sent_p50_s: float
    made_to_sent_p99_s: float
    control_to_frame_p50_s: float
    control_to_frame_p95_s: float
    control_to_frame_p99_s: float
    controls_within: float  # the share of controls that showed in a frame within `within_s`
    controls: int
    controls_unacknowledged: int
    first_frame_p99_s: float
    cpu_s: float

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


class Probe:
    """One measured player. `play` may be called once."""

    def __init__(
        self, addresses: Addresses, seed: int, *, picture_format: str = "rgb8", model: str = ""
    ) -> None:
        addresses = addresses.one_of_each(seed)
        told = (addresses.sessions, addresses.control, addresses.frames)
        # A connection of its own: channels with the same options would share one.
        own = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = {each: dialled(each, addresses.ca_file, own) for each in set(told)}
        sessions, control, frames = (self._channels[each] for each in told)
        self._sessions = SessionServiceStub(sessions)
        self._control = ControlServiceStub(control)
        self._frames = FrameServiceStub(frames)
        self._api_key = addresses.api_key
        self._seed = seed
        self._format = FORMATS[picture_format]
        self._model = model
        self._clock = time.monotonic

    async def play(self, script: Script, until_s: float, due_s: float) -> Seen:
        """Open at once, play until `until_s`, and close. due_s: when it should have begun."""
        try:
            request = OpenRequest(seed=self._seed, model=self._model)
            session = await self._sessions.Open(request, timeout=CALL_S, metadata=bearer(self._api_key))
        except grpc.aio.AioRpcError as error:
            return Seen(Timeline(1.0), refused_by=_why(error), retry_after_s=_retry_after_s(error))
        seen = Seen(Timeline(1 / session.model.frames_per_second))
        parts = [
            asyncio.create_task(part)
            for part in (
                self._watch(session, seen, due_s),
                self._press(session, script, seen),
                asyncio.sleep(max(0.0, until_s - self._clock())),
            )
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            failed = [part for part in parts[:2] if part.done()]
            if failed:
                seen.broken_by = _why(failed[0].exception())
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            with suppress(grpc.aio.AioRpcError):
                closing = CloseRequest(session_id=session.session_id)
                await self._sessions.Close(closing, timeout=CALL_S, metadata=bearer(session.token))
        return seen

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def _watch(self, session: Session, seen: Seen, due_s: float) -> None:
        call = self._frames.Watch(metadata=bearer(session.token))
        start = WatchStart(session_id=session.session_id, format=self._format)
        await call.write(WatchRequest(start=start))
        timeline = seen.timeline
        while isinstance(response := await call.read(), WatchResponse):
            now_s, frame = self._clock(), response.frame
            if not response.HasField("frame"):
                continue
            seen.first_frame_s = seen.first_frame_s or now_s - due_s
            timeline.frame(frame.index, frame.control_seq, now_s)
            if frame.index % FRAMES_PER_LATENT == 1:  # the first of a latent, which carries its times
                times = frame.times
                seen.made_to_sent_s.append(times.handover_s + times.decode_s + times.encode_s + times.send_s)
            if frame.index % FRAMES_PER_LATENT == 0:  # the last of a latent: the others let nothing come
                await call.write(WatchRequest(shown=Shown(frame_index=frame.index)))

    async def _press(self, session: Session, script: Script, seen: Seen) -> None:
        begun_s, clock = self._clock(), self._clock

        async def events() -> AsyncIterator[ControlEvent]:
            for seq, (at_s, down) in enumerate(Pressing(script, random.Random(self._seed)).changes(), 1):
                await asyncio.sleep(max(0.0, begun_s + at_s - clock()))
                seen.timeline.control(seq, begun_s + at_s)
                seen.controls += 1
                yield ControlEvent(session_id=session.session_id, seq=seq, keys=Keys(down=down))

        async for receipt in self._control.Send(events(), metadata=bearer(session.token)):
            seen.accepted += receipt.WhichOneof("outcome") == "accepted"


def _retry_after_s(error: BaseException) -> float:
    refusal = refusal_in(error)
    return (refusal.retry_after_s or 0.0) if refusal else 0.0


def _why(error: BaseException | None) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        refusal = refusal_in(error)
        return refusal.reason if refusal else error.code().name
    return "it was ended" if error is None else repr(error)


async def measure(
    addresses: Addresses,
    players: int,
    seconds: float,
    script: Script,
    *,
    picture_format: str = "rgb8",
    model: str = "",
    within_s: float = 0.35,
) -> Measured:
    """Let so many play until `seconds` after the last has come. within_s: how soon a control should show."""
    probes = [
        Probe(addresses, number, picture_format=picture_format, model=model)
        for number in range(1, players + 1)
    ]
    begun_s, cpu_s = time.monotonic(), time.process_time()

    async def one(number: int, probe: Probe) -> Seen:
        due_s = begun_s + number * ARRIVE_EVERY_S
        await asyncio.sleep(due_s - time.monotonic())
        return await probe.play(script, begun_s + players * ARRIVE_EVERY_S + seconds, due_s)

    try:
        seen = await asyncio.gather(*(one(number, probe) for number, probe in enumerate(probes)))
        cpu_s = time.process_time() - cpu_s
    finally:
        await asyncio.gather(*(probe.close() for probe in probes))
    return summed(seen, seconds, within_s, cpu_s)


def summed(seen: Sequence[Seen], seconds: float, within_s: float = 0.35, cpu_s: float = 0.0) -> Measured:
    """All players' together."""
    added_s = np.concatenate([np.zeros(0), *(each.timeline.added_latency_s() for each in seen)])
    periods = np.concatenate(
        [np.zeros(0), *(each.timeline.added_latency_s() / each.timeline.period_s for each in seen)]
    )
    waited_s = [took_s for each in seen for took_s in each.timeline.control_to_frame_s]
    latencies_s = percentiles(added_s, 0.5, 0.95, 0.99, 1.0)
    controls_s = percentiles(waited_s, 0.5, 0.95, 0.99)
    made_s = [took_s for each in seen for took_s in each.made_to_sent_s]
    frames = sum(len(each.timeline.indices) for each in seen)
    late = sum(each.timeline.pace.late_frames for each in seen)
    firsts_s = [each.first_frame_s for each in seen if each.first_frame_s]
    return Measured(
        players=len(seen),
        sessions=sum(not each.refused_by for each in seen),
        seconds=seconds,
        refused=dict(Counter(each.refused_by for each in seen if each.refused_by)),
        retry_after_s=max((each.retry_after_s for each in seen), default=0.0),
        broken=dict(Counter(each.broken_by for each in seen if each.broken_by)),
        frames=frames,
        timed_frames=len(added_s),
        deadline_hit=round(1 - late / frames, 6) if frames else 0.0,
        late_by_two=int(np.sum(periods >= 2.0)),
        index_gaps=sum(each.timeline.index_gaps for each in seen),
        stalled_s=round(sum(each.timeline.pace.stalled_s for each in seen), 3),
        added_latency_p50_s=latencies_s[0],
        added_latency_p95_s=latencies_s[1],
        added_latency_p99_s=latencies_s[2],
        added_latency_max_s=latencies_s[3],
        made_to_sent_p50_s=percentiles(made_s, 0.5)[0],
        made_to_sent_p99_s=percentiles(made_s, 0.99)[0],
        control_to_frame_p50_s=controls_s[0],
        control_to_frame_p95_s=controls_s[1],
        control_to_frame_p99_s=controls_s[2],
        controls_within=round(sum(took_s <= within_s for took_s in waited_s) / max(1, len(waited_s)), 5),
        controls=sum(each.controls for each in seen),
        controls_unacknowledged=sum(each.controls - each.accepted for each in seen),
        first_frame_p99_s=percentiles(firsts_s, 0.99)[0],
        cpu_s=round(cpu_s, 2),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_addresses(parser)
    parser.add_argument("--players", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--script", default="road-lap", help="a name in loadtests/scripts, or a path")
    parser.add_argument("--format", choices=sorted(FORMATS), default="rgb8")
    parser.add_argument("--model", default="", help="default: the only one there is")
    options = parser.parse_args()
    if options.players < 1 or not 5 <= options.seconds <= 86_400:
        parser.error("players are 1 or more, and seconds from 5 to a day")
    try:
        playing = measure(
            chosen_addresses(options),
            options.players,
            options.seconds,
            Script.load(options.script),
            picture_format=options.format,
            model=options.model,
        )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measured = runner.run(playing)
    except BadSetting as refusal:
        print(refusal.message, file=sys.stderr)
        return 2
    print(measured.to_json())
    if not measured.timed_frames:
        why = ", ".join({**measured.refused, **measured.broken}) or "no frame came"
        print(f"nothing was measured: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
