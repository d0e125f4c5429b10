"""A tenant who takes what it can: opens sessions without end, and sends controls without pause.

    python -m loadtests.flood --tenant loud --sessions-wanted 20 --controls-per-s 600 --seconds 20

It asks again a tenth of a second after each refusal, whatever it was told. Prints one line of JSON: what it
was given, and what it was refused.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FrameFormat, Shown, WatchRequest, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from loadtests.player import add_addresses, chosen_addresses
from services.credentials import bearer

AGAIN_S = 0.1
_LEAST_SLEEP_S = 0.005  # between two bursts of controls


class Flood:
    """So many sessions wanted at once, each with so many controls a second."""

    def __init__(self, options: argparse.Namespace, key: str) -> None:
        self._channels = {
            address: grpc.aio.insecure_channel(address)
            for address in {options.sessions, options.control, options.frames}
        }
        self._sessions = SessionServiceStub(self._channels[options.sessions])
        self._control = ControlServiceStub(self._channels[options.control])
        self._frames = FrameServiceStub(self._channels[options.frames])
        self._tenant = options.tenant
        self._key = key
        self._controls_per_s = options.controls_per_s
        self.counts: Counter[str] = Counter()
        self._open: dict[str, Session] = {}

    async def run(self, sessions: int, seconds: float) -> None:
        """Until the time is over; sessions that were given are closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._keep_asking() for _ in range(sessions)))
        await asyncio.gather(*(self._close(session) for session in self._open.values()))
        for channel in self._channels.values():
            await channel.close()

    async def _keep_asking(self) -> None:
        while True:
            try:
                opening = OpenRequest(tenant=self._tenant)
                session = await self._sessions.Open(opening, metadata=bearer(self._key))
                self.counts["opened"] += 1
                self._open[session.session_id] = session
            except grpc.aio.AioRpcError as error:
                reason = dict(error.trailing_metadata() or ()).get("reason", error.code().name)
                self.counts[f"refused: {reason!s}"] += 1
                await asyncio.sleep(AGAIN_S)
                continue
            try:
                await asyncio.gather(self._watch(session), self._press(session))
            except grpc.aio.AioRpcError as error:
                self.counts[f"ended: {error.code().name}"] += 1
                await asyncio.sleep(AGAIN_S)
            await self._close(self._open.pop(session.session_id))

    async def _close(self, session: Session) -> None:
        try:
            closing = CloseRequest(session_id=session.session_id)
            await self._sessions.Close(closing, metadata=bearer(session.token), timeout=5.0)
        except grpc.aio.AioRpcError as error:
            self.counts[f"not closed: {error.code().name}"] += 1

    async def _watch(self, session: Session) -> None:
        shown: asyncio.Queue[int | None] = asyncio.Queue()

        async def said() -> AsyncIterator[WatchRequest]:
            start = WatchStart(session_id=session.session_id, format=FrameFormat.FRAME_FORMAT_JPEG)
            yield WatchRequest(start=start)
            while (frame_index := await shown.get()) is not None:
                yield WatchRequest(shown=Shown(frame_index=frame_index))

        try:
            async for response in self._frames.Watch(said(), metadata=bearer(session.token)):
                if response.HasField("frame"):
                    self.counts["frames"] += 1
                    shown.put_nowait(response.frame.index)
        finally:
            shown.put_nowait(None)

    async def _press(self, session: Session) -> None:
        keys, ended = [*session.model.keys][:1], asyncio.Event()

        async def events() -> AsyncIterator[ControlEvent]:
            start_s, seq = time.monotonic(), 0
            while not ended.is_set():
                while seq < (time.monotonic() - start_s) * self._controls_per_s:
                    seq += 1
                    down = Keys(down=keys if seq % 2 else [])
                    yield ControlEvent(session_id=session.session_id, seq=seq, keys=down)
                await asyncio.sleep(_LEAST_SLEEP_S)

        try:
            async for receipt in self._control.Send(events(), metadata=bearer(session.token)):
                outcome = receipt.WhichOneof("outcome") or ""
                self.counts[f"controls {outcome}"] += 1
        finally:
            ended.set()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.flood",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_addresses(parser)
    parser.add_argument("--tenant", default="")
    parser.add_argument("--sessions-wanted", type=int, default=20)
    parser.add_argument("--controls-per-s", type=float, default=600.0, help="in each session")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    if hasattr(os, "SCHED_IDLE"):  # it would have its own machine: this one is for those who are flooded
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    key = chosen_addresses(options).api_key

    async def flood() -> Counter[str]:
        flooding = Flood(options, key)
        await flooding.run(options.sessions_wanted, options.seconds)
        return flooding.counts

    print(json.dumps(asyncio.run(flood())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
