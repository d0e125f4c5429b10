"""What tracing costs: `python -m services.bench.tracing [--keep]`.

Three copies of all services: one traces nothing, one 1 % of the controls, and one all. A player plays at each
in turn, again and again; what is counted is the processor time of their processes. The collector takes
everything, in the process of the player.
"""

import argparse
import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aapt.bench.results import RESULTS, keep, machine, table
from aapt.shapes import FRAMES_PER_LATENT
from livevideo.v1.session_pb2 import OpenRequest
from loadtests.player import Addresses, Player, Script
from loadtests.report import Report
from services.bench.running import Running, running

SHARE = 0.01
SHARES = (0.0, SHARE, 1.0)
PROMISED = 0.01  # of the processor time
WARM_UP_S = 3.0


@dataclass(frozen=True)
class Costs:
    """Processor time of a latent, by the share of controls that is traced: in each round, in its order."""

    seconds: float  # of play in each round, at each
    latent_s: dict[str, list[float]]
    controls_per_latent: float

    def more(self, share: float) -> list[float]:
        """Than without tracing, as a share of that, round by round."""
        pairs = zip(self.latent_s[f"{share:g}"], self.latent_s["0"], strict=True)
        return [traced / untraced - 1 for traced, untraced in pairs]

    def rows(self) -> list[tuple[str, str, str]]:
        """What, what was aimed at, what was measured."""
        off_s = statistics.median(self.latent_s["0"])
        every_s = statistics.median(self.more(1.0)) * off_s / max(self.controls_per_latent, 1e-9)
        of_share = 100 * SHARE * statistics.median(self.more(1.0))
        return [
            ("processor time of a latent, nothing traced", "", f"{1e3 * off_s:.2f} ms"),
            (f"{SHARE:.0%} of the controls traced", f"< {PROMISED:.0%}", _more(self.more(SHARE))),
            ("all controls traced", "", _more(self.more(1.0))),
            ("a traced control, by that", "", f"{1e6 * every_s:.0f} us"),
            (f"{SHARE:.0%} of the controls, by that", f"< {PROMISED:.0%}", f"{of_share:+.3f} %"),
        ]


def _more(shares: Sequence[float]) -> str:
    low, median, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else 3 * [shares[0]]
    return f"{100 * median:+.2f} %, half of the rounds from {100 * low:+.2f} to {100 * high:+.2f} %"


@contextmanager
def _collector() -> Iterator[str]:
    """Takes every trace; its URL."""

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


async def measure(rounds: int, seconds: float, script: Script) -> Costs:
    """Each round plays `seconds` at each copy, and begins with another one."""
    latent_s: dict[str, list[float]] = {f"{share:g}": [] for share in SHARES}
    controls, latents = 0, 0.0
    async with AsyncExitStack() as stack:
        endpoint = stack.enter_context(_collector())
        copies = {share: await stack.enter_async_context(_traced(share, endpoint)) for share in SHARES}
        for copy in copies.values():
            await _play(copy, WARM_UP_S, script)
        for number in range(rounds):
            first = number % len(SHARES)
            for share in (*SHARES[first:], *SHARES[:first]):
                took_s, report = await _play(copies[share], seconds, script)
                latent_s[f"{share:g}"].append(took_s)
                controls += report.controls_sent
                latents += report.frames / FRAMES_PER_LATENT
    return Costs(seconds, latent_s, controls / latents)


@asynccontextmanager
async def _traced(share: float, endpoint: str) -> AsyncIterator[Running]:
    """All services, which trace this share of the controls."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "TRACE_SAMPLING": f"{share:g}"} if share else {}
    async with running(**variables) as copy:
        yield copy


async def _play(copy: Running, seconds: float, script: Script) -> tuple[float, Report]:
    """Processor time of each latent, and what the player measured."""
    player = Player(Addresses(copy.address, copy.address, copy.address))
    before_s = _processor_s(copy.pid)
    try:
        report = await player.play(script, seconds, wanted=OpenRequest(seed=1))
    finally:
        await player.close()
    return (_processor_s(copy.pid) - before_s) * FRAMES_PER_LATENT / report.frames, report


def _processor_s(pid: int) -> float:
    """Of the process so far, its threads included and its Valkey not."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) names


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.bench.tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=15.0, help="of play at each copy, in each round")
    parser.add_argument("--script", default="road-lap")
    parser.add_argument("--keep", action="store_true", help=f"the numbers, in {RESULTS}")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("there is 1 round or more, of more than 0 seconds")
    costs = asyncio.run(measure(options.rounds, options.seconds, Script.load(options.script)))
    if options.keep:
        keep("tracing", asdict(costs))
    print(table(f"{machine()}, tracing", costs.rows()))


if __name__ == "__main__":
    main()
