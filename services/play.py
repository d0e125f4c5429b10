"""Every service in one process: what `make play` runs, and what newcomers play with."""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve the others

import uvloop

from services import app, telemetry
from services.errors import BadSetting, ServiceError
from services.sessions.connection import RedisAccess, check_url
from services.settings import settings_from_env
from services.tls import Tls
from services.together import CHECKPOINTS, Settings, running
from services.tracing import Sampling, Tracing

FAST_ENOUGH_LATE_RATIO = 0.01


async def play(settings: Settings, *, opens_browser: bool) -> None:
    """Serve until SIGINT or SIGTERM, which also end a start that is under way."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)

    async def until_stopped() -> None:
        await stopped.wait()

    await app.until_one_ends(_serve(settings, opens_browser), until_stopped())


async def _serve(settings: Settings, opens_browser: bool) -> None:
    """Ends only by a ServiceError, when the world can no longer be played."""
    async with running(settings) as addresses:
        app.set_in_stone()
        print(f"\n  A world is awake. Drive it with the arrow keys:\n\n    page   {addresses.page}")
        print(f"    gRPC   {addresses.grpc}")
        if addresses.admin:
            print(f"    admin  {addresses.admin}")
        print("\n  Ctrl-C stops it.\n", flush=True)
        if opens_browser and _has_screen():
            webbrowser.open(addresses.page)
        await addresses.until_broken()


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


async def check(settings: Settings, seconds: float) -> dict[str, Any]:
    """Play recorded keys for `seconds` on free ports, from a process of its own; what the player measured.

    Raises RuntimeError where the player could not play.
    """
    async with running(settings) as addresses:
        app.set_in_stone()
        address = addresses.grpc
        player = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests.player", "--script", "road-lap", "--seconds", f"{seconds:g}"),
            *("--sessions", address, "--control", address, "--frames", address, "--json"),
            *(("--ca-file", settings.tls.tls_ca_file) if settings.tls.tls_ca_file else ()),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await player.communicate()
    lines = output.decode().strip().splitlines()
    if player.returncode or not lines:
        raise RuntimeError(f"the player stopped with {player.returncode}; what it said is above")
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def played_in_real_time(report: dict[str, Any], frames_per_second: float = 24.0) -> bool:
    """Whether a player would have been content: full pace, next to no late frame, none lost or repeated."""
    return bool(
        report["fps"] >= 0.98 * frames_per_second
        and report["late_ratio"] <= FAST_ENOUGH_LATE_RATIO
        and report["index_gaps"] == 0
    )


def main() -> int:
    options = _options()
    telemetry.start_logging(options.log_level, service="play")
    try:
        settings = _settings(options)
    except ServiceError as refusal:
        print(f"cannot play: {refusal}", file=sys.stderr)
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            if not options.check:
                runner.run(play(settings, opens_browser=not options.no_browser))
                return 0
            report = runner.run(check(settings, options.check))
        except (ServiceError, RuntimeError) as refusal:
            print(f"cannot play: {refusal}", file=sys.stderr)
            return 2
    is_fast_enough = played_in_real_time(report, options.frames_per_second or 24.0)
    if not options.json:
        print("fast enough: it played in real time" if is_fast_enough else "too slow to play in real time")
    print(json.dumps(report))
    return 0 if is_fast_enough else 1


def _settings(options: argparse.Namespace) -> Settings:
    """What is secret comes from the environment, never from flags. Raises BadSetting."""
    chosen = options.checkpoint or CHECKPOINTS / options.preset
    return Settings(
        checkpoint=chosen,
        host=options.host,
        grpc_port=0 if options.check else options.grpc_port,
        web_port=0 if options.check else options.web_port,
        metrics_port=options.metrics_port,
        frames_per_second=options.frames_per_second,
        slots=options.slots,
        redis_url=options.redis_url or os.environ.get("REDIS_URL", ""),
        redis=settings_from_env(RedisAccess),
        tls=settings_from_env(Tls),
        tracing=settings_from_env(Tracing),
        sampling=settings_from_env(Sampling),
        replicas=options.replicas if options.ray else 0,
        shards=options.shards,
        internal_port=0 if options.check else options.internal_port,
        admin_port=options.admin_port,
        api_key_file=options.api_key_file,
    )


def _options() -> argparse.Namespace:
    port = _number(int, 0, 65535)
    parser = argparse.ArgumentParser(prog="python -m services.play", description=__doc__)
    parser.add_argument("--preset", default="road", help="which of checkpoints/ to play (default: road)")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder from elsewhere")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--grpc-port", type=port, default=50051, help="0: a free one (default: 50051)")
    parser.add_argument(
        "--web-port", type=port, default=8080, help="of the page; 0: a free one (default: 8080)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page by itself")
    parser.add_argument("--metrics-port", type=port, default=0, help="for Prometheus (default: none)")
    parser.add_argument(
        "--frames-per-second", type=_number(float, 4, 120), default=0.0, help="default: the model's own"
    )
    parser.add_argument(
        "--slots", type=_number(int, 1, 64), default=4, help="sessions at once, if the machine is fast enough"
    )
    parser.add_argument(
        "--redis-url",
        type=_redis_url,
        default="",
        help="an external Redis or Valkey (default: the variable REDIS_URL, or embedded)",
    )
    parser.add_argument("--ray", action="store_true", help="run the engine as a deployment on Ray Serve")
    parser.add_argument(
        "--shards", type=_number(int, 1, 64), default=1, help="with --ray: ranks that share every latent"
    )
    parser.add_argument("--replicas", type=_number(int, 1, 64), default=1, help="with --ray: engines")
    parser.add_argument(
        "--internal-port", type=port, default=0, help="where our own services call (default: a free one)"
    )
    parser.add_argument(
        "--admin-port", type=port, help="where tenants are administered, on this machine only (default: none)"
    )
    parser.add_argument(
        "--api-key-file", default="", help="with tenants: the key the page plays with (default: AAPT_API_KEY)"
    )
    parser.add_argument("--log-level", default="WARNING", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    parser.add_argument(
        "--check", type=_number(float, 1, 3600), metavar="SECONDS", help="play by itself, measure, and say so"
    )
    parser.add_argument(
        "--json", action="store_true", help="with --check: print nothing but one line of JSON"
    )
    options = parser.parse_args()
    if not options.ray and (options.shards, options.replicas) != (1, 1):
        parser.error("--shards and --replicas are for an engine on Ray; add --ray")
    return options


def _number(kind: Callable[[str], float], least: float, most: float) -> Callable[[str], float]:
    """An argument's type: `kind`, from `least` to `most`."""

    def parsed(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # NaN is nowhere
            wanted = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"is {text!r}; give {wanted} from {least:g} to {most:g}")
        return value

    return parsed


def _redis_url(text: str) -> str:
    if "@" in text:
        raise argparse.ArgumentTypeError(
            "holds a user or a password, which everybody sees in the list of processes; set the variable"
            " REDIS_URL instead"
        )
    try:
        if text:
            check_url(text)
    except BadSetting as refusal:
        raise argparse.ArgumentTypeError(refusal.message) from refusal
    return text


if __name__ == "__main__":
    sys.exit(main())
