"""Record play.

python -m aapt.worlds record road --out data/road --episodes 300
python -m aapt.worlds record road --out data/road --first 300 --episodes 300 --distracted
python -m aapt.worlds record road --out data/sighted --first 600 --episodes 200 --by-sight
"""

import argparse
from pathlib import Path

from aapt.worlds.record import preview, record

WORLDS = ("road", "maze")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aapt.worlds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="play a game with an erring driver and keep what was seen")
    recorder.add_argument("world", choices=WORLDS)
    recorder.add_argument("--out", type=Path, required=True)
    recorder.add_argument("--episodes", type=int, default=120)
    recorder.add_argument("--first", type=int, default=0, help="number, and so seed, of the first episode")
    recorder.add_argument("--seconds", type=float, default=40.0, help="length of an episode")
    recorder.add_argument("--workers", type=int, default=2)
    drivers = recorder.add_mutually_exclusive_group()
    drivers.add_argument(
        "--distracted",
        action="store_true",
        help="road: half of the time under keys that were meant for another track",
    )
    drivers.add_argument(
        "--by-sight", action="store_true", help="road: driven by one who sees the pictures and nothing else"
    )
    previewer = commands.add_parser("preview", help="a sheet of pictures from recorded episodes")
    previewer.add_argument("folder", type=Path)
    previewer.add_argument("--out", type=Path, default=Path("preview.png"))
    previewer.add_argument("--episodes", type=int, default=8)
    options = parser.parse_args()
    if options.command == "record":
        driver = "distracted" if options.distracted else "sighted" if options.by_sight else ""
        if driver and options.world != "road":
            parser.error(f"{options.world} has one driver; only road has a {driver} one")
        record(
            options.world,
            options.out,
            options.episodes,
            options.seconds,
            options.workers,
            options.first,
            **({"driver": driver} if driver else {}),
        )
    else:
        preview(options.folder, options.out, options.episodes)


if __name__ == "__main__":
    main()
