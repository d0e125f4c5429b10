"""What Locust finds in loadtests/locustfile.py: a `Player` for each visit, the shape of their `Arrivals`."""

import argparse
import json
import sys
import time
from collections import deque
from typing import Any, ClassVar

import gevent
import grpc
from locust import LoadTestShape, User, constant, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner

from loadtests.player import Addresses, Script, add_addresses, chosen_addresses
from loadtests.timeline import Timeline
from loadtests.visiting.promises import Promises
from loadtests.visiting.visitor import Visitor, check
from loadtests.visiting.visits import Expected, Manner, Visit
from services.errors import BadSetting, ServiceError

AHEAD_S = 2.5  # Locust makes players so long before they are due
REPORT_S = 1.0  # an event of Locust is fired for so much of a session: one for each frame costs too much
BEGUN_LATE_S = 0.5  # where a visit begins so long after its time, it is this process that is too slow
_AT_ONCE = 100.0  # players a second are made, since each waits until it is due


class Run:
    """One test: who is still to come, and what those who came were given."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises ValueError, BadSetting or SystemExit for options that cannot be."""
        if not 1 <= options.last_s <= 604_800:
            raise ValueError(f"--last-s is {options.last_s}; it must be from 1 to 604800")
        expected = Expected(
            options.arrivals_per_s,
            options.stay_median_s,
            options.stay_spread,
            options.slow,
            options.vanishing,
        )
        self.addresses: Addresses = chosen_addresses(options)
        self.script = Script.load(options.script)
        self.model: str = options.model
        self.lasts_s: float = options.last_s
        self.visits = deque(expected.visits(options.last_s, options.seed))
        self.due = [visit.at_s for visit in self.visits]
        self.promises = Promises()
        self.begun_s = time.monotonic()


class Player(User):
    """Plays one visit, and is gone."""

    host = "as --sessions, --control and --frames say"  # shown on Locust's page, and nothing else
    wait_time = constant(0)
    run_of: ClassVar[Run | None] = None

    @task
    def visit(self) -> None:
        run = Player.run_of
        if run is None or not run.visits:
            raise StopUser
        visit = run.visits.popleft()
        due_s = run.begun_s + visit.at_s
        gevent.sleep(max(0.0, due_s - time.monotonic()))
        run.promises.visits += 1
        run.promises.begun_late_s = max(run.promises.begun_late_s, time.monotonic() - due_s)
        told = Told(self.environment, run.promises, visit)
        Visitor(run.addresses, visit, run.script, model=run.model).play(due_s, told)
        raise StopUser


class Arrivals(LoadTestShape):
    """As many players as were due until now: Locust counts who has left among them."""

    def reset_time(self) -> None:
        """Locust does so whenever a test begins, before anything else."""
        assert self.runner is not None
        assert self.runner.environment.parsed_options is not None
        Player.run_of = Run(self.runner.environment.parsed_options)

    def tick(self) -> tuple[int, float] | None:
        run = Player.run_of
        if run is None:
            return None
        now_s = time.monotonic() - run.begun_s
        if now_s > run.lasts_s:
            return None
        return sum(at_s <= now_s + AHEAD_S for at_s in run.due), _AT_ONCE


class Told:
    """Tells Locust's page and the promises what one visitor gets. An `Audience`."""

    def __init__(self, environment: Environment, promises: Promises, visit: Visit) -> None:
        self._environment = environment
        self._promises = promises
        # What a slow viewer sees late is its own doing; that it is seated, served and let go is not.
        self._is_slow = visit.manner is Manner.SLOW
        self._reported_at_s = 0.0
        self._frames = self._late = 0
        self._stalled_s = 0.0
        self._bytes = 0
        self._controls = 0

    def opened(self, took_s: float) -> None:
        self._fire("Open", took_s)

    def refused(self, reason: str, took_s: float) -> None:
        self._promises.refused[reason] += 1
        self._fire(f"Open, told to come again: {reason}", took_s)

    def first_frame(self, took_s: float) -> None:
        self._promises.first_frame(took_s)
        self._fire("first frame", took_s)

    def saw(self, timeline: Timeline, frame_bytes: int, now_s: float) -> None:
        self._bytes += frame_bytes
        if now_s < self._reported_at_s + REPORT_S:
            return
        self._reported_at_s = now_s
        frames, pace = len(timeline.indices), timeline.pace
        controls_s = timeline.control_to_frame_s[self._controls :]
        if not self._is_slow:
            new = frames - self._frames
            self._promises.frames(
                new, pace.late_frames - self._late, new * pace.period_s, pace.stalled_s - self._stalled_s
            )
            for took_s in controls_s:
                self._promises.controls(took_s)
        name = "a second of frames, slow viewer" if self._is_slow else "a second of frames"
        self._fire(name, timeline.latest_s(self._frames), self._bytes)
        for took_s in controls_s:
            self._fire("control to frame, slow viewer" if self._is_slow else "control to frame", took_s)
        self._frames, self._late, self._stalled_s = frames, pace.late_frames, pace.stalled_s
        self._controls, self._bytes = len(timeline.control_to_frame_s), 0

    def failed(self, what: str, error: Exception) -> None:
        self._promises.session(is_kept=False)
        self._fire(what, 0.0, error=error)

    def ended(self, timeline: Timeline) -> None:
        if not self._is_slow:
            for took_s in timeline.control_to_frame_s[self._controls :]:
                self._promises.controls(took_s)
        self._promises.session(is_kept=True)

    def _fire(self, name: str, took_s: float, size_bytes: int = 0, error: Exception | None = None) -> None:
        self._environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=1000 * took_s,
            response_length=size_bytes,
            exception=error,
            context={},
        )


def _add_options(parser: Any) -> None:
    add_addresses(parser)
    parser.add_argument("--model", default="", help="default: the only one there is")
    parser.add_argument("--script", default="road-lap", help="a name in loadtests/scripts, or a path")
    parser.add_argument("--arrivals-per-s", type=float, default=0.2, help="of players, on average")
    parser.add_argument(
        "--stay-median-s", type=float, default=30.0, help="how long half of them stay at most"
    )
    parser.add_argument("--stay-spread", type=float, default=0.8, help="of the logarithm of how long")
    parser.add_argument("--slow", type=float, default=0.1, help="share of those who read late now and then")
    parser.add_argument(
        "--vanishing", type=float, default=0.1, help="share of those who leave without a word"
    )
    parser.add_argument("--last-s", type=float, default=300.0, help="nobody comes or plays after so long")
    parser.add_argument("--seed", type=int, default=1, help="who comes when is drawn from it")


def _prepare(environment: Environment, **_: Any) -> None:
    """Nothing begins where it could not be played, or where the options cannot be."""
    options = environment.parsed_options
    assert options is not None
    if not isinstance(environment.runner, LocalRunner):
        sys.exit(
            "one process is one stream of arrivals; start another Locust with another --seed: rates add up"
        )
    try:
        run = Run(options)
        check(run.addresses, run.model)
    except (ValueError, BadSetting, ServiceError) as error:
        sys.exit(f"cannot begin: {error}")
    except grpc.RpcError as error:
        sys.exit(f"cannot begin: at {options.sessions} there is no service of ours ({error.code().name})")


def _conclude(environment: Environment, **_: Any) -> None:
    """Prints what was kept, and decides how Locust ends."""
    run = Player.run_of
    if run is None:
        return
    promises = run.promises
    is_late = promises.begun_late_s > BEGUN_LATE_S
    if is_late:
        said = f"visits began up to {promises.begun_late_s:.1f} s after their time: this process is too slow"
        print(f"{said} to ask for so much", file=sys.stderr)
    environment.process_exit_code = 1 if promises.broken() or is_late or not promises.visits else 0


def _tell(exit_code: int, **_: Any) -> None:
    """After all that Locust has to say."""
    if Player.run_of is not None:
        print(Player.run_of.promises.table(), end="\n\n")
        print(json.dumps(Player.run_of.promises.numbers()), flush=True)


events.init_command_line_parser.add_listener(_add_options)
events.init.add_listener(_prepare)
events.quitting.add_listener(_conclude)
events.quit.add_listener(_tell)
