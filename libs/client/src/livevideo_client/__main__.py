"""Plays a world from the command line, and says what came.

    python -m livevideo_client --at 127.0.0.1:50051 --hold up --seconds 10

A tenant's key comes from a file, or from AAPT_API_KEY; a session's token, for --session, from AAPT_TOKEN.
"""

import argparse
import asyncio
import os
import sys
import time
from contextlib import aclosing
from pathlib import Path

from livevideo.v1.session_pb2 import Notice, Place
from livevideo_client.access import Services
from livevideo_client.client import FORMATS, Client
from livevideo_client.refusals import Refused
from livevideo_client.world import ANSWER_S, World


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m livevideo_client",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--at", default="127.0.0.1:50051", metavar="HOST:PORT", help="where all services are")
    for name in ("sessions", "control", "frames"):
        parser.add_argument(f"--{name}", metavar="HOST:PORT[,HOST:PORT]", help="elsewhere than --at")
    parser.add_argument("--api-key-file", type=Path, help="the tenant's key (default: AAPT_API_KEY)")
    parser.add_argument("--ca-file", type=Path, help="PEM, who signs the services' certificates")
    parser.add_argument("--hold", nargs="*", default=[], metavar="KEY", help="keys that are down")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--format", choices=sorted(FORMATS), default="jpeg")
    parser.add_argument("--seed", type=int, default=0, help="0: the service chooses")
    parser.add_argument("--wait", action="store_true", help="in the queue, where there is no seat")
    parser.add_argument("--session", help="goes on with a session that was opened before")
    return parser.parse_args()


async def _play(options: argparse.Namespace) -> str:
    told = (options.sessions, options.control, options.frames)
    services = Services(*(each or options.at for each in told))
    file = options.api_key_file
    key = file.read_text() if file else os.environ.get("AAPT_API_KEY", "")
    async with (
        Client(services, key=key, ca_file=options.ca_file) as client,
        await _entered(client, options) as world,
    ):
        return await _watched(world, options)


async def _entered(client: Client, options: argparse.Namespace) -> World:
    how = {"picture_format": options.format, "on_notice": _say_notice}
    if options.session:
        return await client.join(options.session, os.environ.get("AAPT_TOKEN", ""), **how)
    if options.wait:
        return await client.wait(_say_place, seed=options.seed, **how)
    return await client.open(seed=options.seed, **how)


async def _watched(world: World, options: argparse.Namespace) -> str:
    control = world.hold(*options.hold)
    count, pictures_bytes, begun_s, played_s = 0, 0, time.monotonic(), 0.0
    async with aclosing(world.frames()) as frames:
        async for frame in frames:
            begun_s = begun_s if count else time.monotonic()
            count += 1
            pictures_bytes += len(frame.picture)
            played_s = time.monotonic() - begun_s
            if played_s >= options.seconds:
                break
    try:
        obeyed = f"from frame {await asyncio.wait_for(control.obeyed(), ANSWER_S)} on"
    except TimeoutError:
        obeyed = "by none of them yet"
    return (
        f"{count} frames of {world.model.name} in {played_s:.1f} s, {pictures_bytes} bytes;"
        f" the keys are obeyed {obeyed}; {world.comebacks} comebacks"
    )


def _say_place(place: Place) -> None:
    wait = f", for about {place.expected_wait_s:.0f} s" if place.expected_wait_s else ""
    print(f"number {place.position} in the queue{wait}", file=sys.stderr)


def _say_notice(notice: Notice) -> None:
    print(f"the session will be ended: {notice.reason}" if notice.reason else "it goes on", file=sys.stderr)


def main() -> int:
    """0: it played; 2: it was refused, and why is said."""
    try:
        print(asyncio.run(_play(_options())))
    except (Refused, ValueError, OSError) as refusal:
        print(f"cannot play: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
