"""Sessions that are measured, as cheaply as Python can: they share the processor with what they measure.

    python -m loadtests.probe --players 8 --seconds 60

They arrive a tenth of a second apart, and play until so long after the last has come. Each has connections
of its own, as players have. Pictures come as they are (RGB8) unless --format says otherwise, and nobody looks
at them.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import uvloop

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import Shown, WatchRequest, WatchResponse, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.comeback import FRAMES_PER_LATENT
from loadtests.measured import Measured, Seen, summed
from loadtests.player import FORMATS, Addresses, Script, add_addresses, chosen_addresses, dialled
from loadtests.pressing import Pressing
from loadtests.timeline import Timeline
from services.credentials import bearer
from services.errors import BadSetting
from services.relay import refusal_in

CALL_S = 10.0
ARRIVE_EVERY_S = 0.1


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
            elif not seen.timeline.indices:
                seen.broken_by = "no frame came"
        finally:
            seen.timeline.end(self._clock())
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
