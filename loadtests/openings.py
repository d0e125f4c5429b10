"""How long one waits to be let in: the decision alone, and until there is a picture.

    python -m services.sessions &
    python -m loadtests.openings decisions --sessions 127.0.0.1:50052 --internal 127.0.0.1:50062

announces an engine that is none, with room for all, and opens sessions at a fixed rate, however slowly they
are answered: 200 a second for 20 seconds. The time to close them is not counted, but they are closed.

    python -m loadtests.openings pictures --sessions HOST:PORT --control HOST:PORT --frames HOST:PORT

plays a hundred sessions, one after the other, and looks at when each first frame came.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter

import grpc

from livevideo.v1.session_pb2 import AnnounceRequest, CloseRequest, Model, OpenRequest
from livevideo.v1.session_pb2_grpc import SeatServiceStub, SessionServiceStub
from loadtests.player import Addresses, Player, Script, add_addresses, chosen_addresses
from loadtests.report import percentile
from services.credentials import bearer
from services.relay import refusal_in

MODEL = Model(name="openings", width_px=64, height_px=40, frames_per_second=24, keys=["up"], tracks=["keys"])
SLOTS = 4096
PLAYED_S = 0.5


async def decisions(addresses: Addresses, internal: str, rate: float, seconds: float) -> dict[str, object]:
    """Opens `rate` sessions a second for so many seconds, and closes each at once."""
    took_s: list[float] = []
    refused: Counter[str] = Counter()
    async with (
        grpc.aio.insecure_channel(addresses.sessions) as channel,
        grpc.aio.insecure_channel(internal) as inside,
    ):
        sessions = SessionServiceStub(channel)

        async def announce() -> None:
            wanted = AnnounceRequest(replica="openings", address="127.0.0.1:1", model=MODEL, slots=SLOTS)
            while True:
                await SeatServiceStub(inside).Announce(wanted)
                await asyncio.sleep(1.0)

        async def open_one() -> None:
            begun_s = time.perf_counter()
            try:
                request = OpenRequest(model=MODEL.name)
                session = await sessions.Open(request, metadata=bearer(addresses.api_key), timeout=10)
                took_s.append(time.perf_counter() - begun_s)
                closing = CloseRequest(session_id=session.session_id)
                await sessions.Close(closing, metadata=bearer(session.token), timeout=10)
            except grpc.aio.AioRpcError as error:
                refusal = refusal_in(error)
                refused[refusal.reason if refusal else error.code().name] += 1

        announcing = asyncio.create_task(announce())
        await asyncio.sleep(0.5)
        begun_s, opening = time.perf_counter(), []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, begun_s + number / rate - time.perf_counter()))
            opening.append(asyncio.create_task(open_one()))
        await asyncio.gather(*opening)
        lasted_s = time.perf_counter() - begun_s
        announcing.cancel()
    return {
        "opened": len(took_s),
        "refused": dict(refused),
        "per_s": round(len(took_s) / lasted_s, 1),
        **{f"p{share}_s": percentile(took_s, share / 100) for share in (50, 95, 99, 100)},
    }


async def pictures(addresses: Addresses, times: int) -> dict[str, object]:
    """From asking for a session to its first frame, with a slot that is free."""
    took_s: list[float] = []
    script = Script.load("road-lap")
    player = Player(addresses)
    try:
        for number in range(times):
            report = await player.play(script, PLAYED_S, wanted=OpenRequest(seed=number + 1))
            took_s.append(report.first_frame_s)
    finally:
        await player.close()
    return {
        "sessions": times,
        **{f"p{share}_s": percentile(took_s, share / 100) for share in (50, 95, 99, 100)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.openings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("decisions", "pictures"))
    add_addresses(parser)
    parser.add_argument("--internal", default="127.0.0.1:50062", metavar="HOST:PORT", help="of sessions")
    parser.add_argument("--rate", type=float, default=200.0, help="sessions a second (default: 200)")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--times", type=int, default=100, help="how many pictures (default: 100)")
    options = parser.parse_args()
    addresses = chosen_addresses(options)
    if options.what == "decisions":
        measured = asyncio.run(decisions(addresses, options.internal, options.rate, options.seconds))
    else:
        measured = asyncio.run(pictures(addresses, options.times))
    print(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
