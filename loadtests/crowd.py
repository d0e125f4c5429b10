"""Many players at once, and what they got between them.

    python -m loadtests.crowd --players 4 --seconds 30

Each opens a session of its own and plays a script; who is refused is counted, with what it was told.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import grpc

from livevideo.v1.session_pb2 import OpenRequest
from livevideo_client.comeback import Silence
from loadtests.player import Addresses, Player, Script, add_addresses, chosen_addresses
from loadtests.report import Measurements, Report, percentile

ARRIVE_EVERY_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What a crowd got.

    deadline_hit: the share of all frames that came no more than one frame period after their place in time.
    broken: how many sessions ended before their players wanted; their frames are not counted.
    refused: how many were turned away before a frame came, by the reason that they were given.
    retry_after_s: the longest time after which one of them was told to come again. 0: nobody was told any.
    """

    asked: int
    seated: int
    broken: int
    refused: dict[str, int]
    retry_after_s: float
    frames: int
    fps_least: float
    deadline_hit: float
    longest_gap_s: float
    index_gaps: int
    control_to_frame_p95_s: float  # of the player who had the worst

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


async def play_together(
    addresses: Addresses, players: int, seconds: float, script: Script, model: str = ""
) -> Outcome:
    """Let `players` arrive half a second apart and play until `seconds` after the last has come."""
    reports: list[Report] = []
    refusals: list[grpc.aio.AioRpcError] = []
    broken: list[grpc.aio.AioRpcError | Silence] = []

    async def one(number: int) -> None:
        await asyncio.sleep(number * ARRIVE_EVERY_S)
        player = Player(addresses)
        stays_s = seconds + (players - 1 - number) * ARRIVE_EVERY_S
        wanted = OpenRequest(model=model, seed=number + 1)
        playing: list[Measurements] = []
        try:
            reports.append(await player.play(script, stays_s, wanted=wanted, on_frame=playing.append))
        except grpc.aio.AioRpcError as error:
            (broken if playing else refusals).append(error)
        except Silence as silence:
            broken.append(silence)
        finally:
            await player.close()

    await asyncio.gather(*(one(number) for number in range(players)))
    return _outcome(players, reports, refusals, len(broken))


def _outcome(
    asked: int, reports: Sequence[Report], refusals: Sequence[grpc.aio.AioRpcError], broken: int = 0
) -> Outcome:
    told = [dict(refusal.trailing_metadata() or ()) for refusal in refusals]
    frames = sum(report.frames for report in reports)
    late = sum(report.late_ratio * report.frames for report in reports)
    return Outcome(
        asked=asked,
        seated=len(reports) + broken,
        broken=broken,
        refused=dict(Counter(str(each.get("reason", "unknown")) for each in told)),
        retry_after_s=max((float(each.get("retry-after-s", 0)) for each in told), default=0.0),
        frames=frames,
        fps_least=min((report.fps for report in reports), default=0.0),
        deadline_hit=round(1 - late / frames, 6) if frames else 0.0,
        longest_gap_s=max((report.longest_gap_s for report in reports), default=0.0),
        index_gaps=sum(report.index_gaps for report in reports),
        control_to_frame_p95_s=percentile([report.control_to_frame_p95_s for report in reports], 1.0),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.crowd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_addresses(parser)
    parser.add_argument("--players", type=int, default=4)
    parser.add_argument("--script", default="road-lap", help="a name in loadtests/scripts, or a path")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--model", default="", help="default: the only one there is")
    options = parser.parse_args()
    addresses = chosen_addresses(options)
    script = Script.load(options.script)
    outcome = asyncio.run(play_together(addresses, options.players, options.seconds, script, options.model))
    print(outcome.to_json())
    return 0 if outcome.seated else 2


if __name__ == "__main__":
    sys.exit(main())
