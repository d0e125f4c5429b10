"""A player over gRPC: opens a session, plays a recorded control script, and checks every frame.

    python -m loadtests.player --sessions HOST:PORT --control HOST:PORT --frames HOST:PORT \\
        --script road-lap --seconds 20 --save out/play.mp4

`--script eyes` looks at the frames and keeps the car on the road.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np
from tqdm import tqdm

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FrameFormat
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, GetRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.comeback import Sender, Silence, Viewer
from loadtests.eyes import Eyes
from loadtests.movie import Movie, movie_at, to_rgb
from loadtests.report import Measurements, Report
from services.credentials import bearer, from_file_or_environment
from services.errors import BadSetting

SCRIPTS = Path(__file__).parent / "scripts"
FORMATS = {"rgb8": FrameFormat.FRAME_FORMAT_RGB8, "jpeg": FrameFormat.FRAME_FORMAT_JPEG}
OPEN_DEADLINE_S = 15.0


@dataclass(frozen=True)
class Addresses:
    """Where the three services are that a player speaks to: host:port, or several with commas between.

    Where one is lost, the player comes back through the next. And a key, where tenants need one.
    """

    sessions: str
    control: str
    frames: str
    api_key: str = field(default="", repr=False)
    ca_file: Path | None = None  # PEM, who signs their certificates; None: they are spoken to in plain text

    def one_of_each(self, number: int) -> "Addresses":
        """For a player who uses one instance of each service: players of different numbers take turns."""

        def one(addresses: str) -> str:
            each = addresses.split(",")
            return each[number % len(each)]

        return replace(self, sessions=one(self.sessions), control=one(self.control), frames=one(self.frames))


@dataclass(frozen=True)
class Script:
    """Which keys are down from when on, in seconds; begins again after `length_s`."""

    events: tuple[tuple[float, tuple[str, ...]], ...]
    length_s: float

    @staticmethod
    def load(name: str) -> "Script":
        """A script by its name in loadtests/scripts, or by its path."""
        path = Path(name) if name.endswith(".json") else SCRIPTS / f"{name}.json"
        if not path.exists():
            known = ", ".join(sorted(each.stem for each in SCRIPTS.glob("*.json")))
            raise SystemExit(f"there is no script {name!r}; there are {known} and eyes, or give a .json file")
        content = json.loads(path.read_text())
        return Script(tuple((e["at_s"], tuple(e["down"])) for e in content["events"]), content["length_s"])

    def look(self, picture: np.ndarray) -> None:
        """A script is played blindly."""

    async def play(self) -> AsyncIterator[tuple[str, ...]]:
        """The keys that are down, each time they change, at their time, for ever."""
        start_s = time.monotonic()
        while True:
            for at_s, down in self.events:
                await asyncio.sleep(max(0.0, start_s + at_s - time.monotonic()))
                yield down
            start_s += self.length_s


def add_addresses(parser: argparse.ArgumentParser) -> None:
    """The options that `Addresses` is made of."""
    for name in ("sessions", "control", "frames"):
        parser.add_argument(f"--{name}", default="127.0.0.1:50051", metavar="HOST:PORT[,HOST:PORT]")
    parser.add_argument("--api-key-file", default="", help="the tenant's key (default: AAPT_API_KEY)")
    parser.add_argument("--ca-file", default="", help="PEM, who signs the services' certificates")


def chosen_addresses(options: argparse.Namespace) -> Addresses:
    """What `add_addresses` was given. Raises BadSetting."""
    ca_file = Path(options.ca_file) if options.ca_file else None
    if ca_file is not None and not ca_file.is_file():
        raise BadSetting(f"--ca-file {ca_file} is no file; give the PEM of who signs the certificates")
    api_key = from_file_or_environment(options.api_key_file)
    return Addresses(options.sessions, options.control, options.frames, api_key, ca_file)


class Driver(Protocol):
    """Who presses the keys."""

    def look(self, picture: np.ndarray) -> None:
        """Take in a frame, [h, w, 3] uint8."""

    def play(self) -> AsyncIterator[tuple[str, ...]]:
        """The keys that are down, each time they change, at their time."""
        ...


class Player:
    """One session, from opening to closing."""

    def __init__(self, addresses: Addresses) -> None:
        told = (addresses.sessions, addresses.control, addresses.frames)
        sessions, controls, frames = (each.split(",") for each in told)
        reached = {*sessions, *controls, *frames}
        self._channels = {address: dialled(address, addresses.ca_file) for address in reached}
        self._api_key = addresses.api_key
        self._sessions = SessionServiceStub(self._channels[sessions[0]])
        self._controls = [ControlServiceStub(self._channels[each]) for each in controls]
        self._decoders = [FrameServiceStub(self._channels[each]) for each in frames]

    async def play(
        self,
        driver: Driver,
        seconds: float,
        *,
        wanted: OpenRequest | None = None,
        picture_format: str = "jpeg",
        movie: Movie | None = None,
        on_frame: Callable[[Measurements], None] = lambda _: None,
        waits: bool = False,
    ) -> Report:
        """Play for `seconds` after the first frame, and report. Raises AioRpcError where it is refused.

        `waits`: in the queue, where there is no seat.
        """
        opened_at_s = time.monotonic()
        request = wanted or OpenRequest()
        session = await (self._wait(request) if waits else self._open(request))
        measured = Measurements(1 / session.model.frames_per_second, opened_at_s)
        viewer = Viewer(self._decoders, session, FORMATS[picture_format])
        sender = Sender(self._controls, session)
        keys = asyncio.create_task(self._press(session, driver, sender, measured))
        token = bearer(session.token)
        ends_at_s = float("inf")
        try:
            async with aclosing(viewer.frames()) as frames:
                async for frame in frames:
                    now_s = time.monotonic()
                    measured.frame(frame, now_s)
                    viewer.show(frame.index)
                    picture = to_rgb(frame.picture, picture_format, session.model)
                    driver.look(picture)
                    if movie is not None:
                        movie.add(picture)
                    on_frame(measured)
                    ends_at_s = min(ends_at_s, now_s + seconds)
                    if now_s >= ends_at_s:
                        break
                else:
                    asked = GetRequest(session_id=session.session_id)
                    found = await self._sessions.Get(asked, metadata=token)
                    print(f"the session was ended: {found.ended}", file=sys.stderr)
        finally:
            measured.comebacks = viewer.comebacks.count + sender.comebacks.count
            keys.cancel()
            await asyncio.gather(keys, return_exceptions=True)
            await self._sessions.Close(CloseRequest(session_id=session.session_id), metadata=token)
        return measured.report()

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()

    async def _open(self, wanted: OpenRequest) -> Session:
        # Engines announce themselves once a second: a service that has just started is given that time.
        deadline_s = time.monotonic() + OPEN_DEADLINE_S
        while True:
            try:
                return await self._sessions.Open(
                    wanted,
                    wait_for_ready=True,
                    timeout=OPEN_DEADLINE_S,
                    metadata=bearer(self._api_key),
                )
            except grpc.aio.AioRpcError as refusal:
                if refusal.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(0.1)

    async def _wait(self, wanted: OpenRequest) -> Session:
        async for said in self._sessions.Wait(wanted, metadata=bearer(self._api_key)):
            if said.HasField("session"):
                return said.session
            wait = f", for about {said.place.expected_wait_s:.0f} s" if said.place.expected_wait_s else ""
            print(f"number {said.place.position} in the queue{wait}", file=sys.stderr)
        raise ValueError("the queue has ended without a seat")

    async def _press(self, session: Session, driver: Driver, sender: Sender, measured: Measurements) -> None:
        async def press() -> None:
            seq = 0
            async for down in driver.play():
                seq += 1
                measured.control(seq, time.monotonic())
                sender.send(ControlEvent(session_id=session.session_id, seq=seq, keys=Keys(down=down)))

        pressing = asyncio.create_task(press())
        try:
            async for receipt in sender.receipts():
                outcome = receipt.WhichOneof("outcome")
                measured.controls_accepted += outcome == "accepted"
                measured.controls_obeyed += outcome == "obeyed"
                if outcome == "refused":
                    print(f"control {receipt.seq} refused: {receipt.refused.message}", file=sys.stderr)
        finally:
            pressing.cancel()


def dialled(address: str, ca_file: Path | None, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """A channel to a service, by TLS where it is known who signs its certificate."""
    if ca_file is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca_file.read_bytes()), options)


def _advance(progress: "tqdm[Any]") -> None:
    progress.update()


async def _play(options: argparse.Namespace) -> Report:
    player = Player(chosen_addresses(options))
    movie = movie_at(options.save) if options.save else None
    driver: Driver = Eyes() if options.script == "eyes" else Script.load(options.script)
    wanted = OpenRequest(model=options.model, seed=options.seed, prompt=options.prompt)
    if options.image:
        wanted.image = options.image.read_bytes()
    total = round(options.seconds * 24)
    progress: tqdm[Any]
    with tqdm(total=total, unit="frame", disable=options.json) as progress:
        try:
            return await player.play(
                driver,
                options.seconds,
                wanted=wanted,
                picture_format=options.format,
                movie=movie,
                on_frame=lambda measured: _advance(progress),
                waits=options.wait,
            )
        finally:
            if movie is not None:
                movie.close()
            await player.close()
            if isinstance(driver, Eyes) and driver.on_road:
                share = 100 * sum(driver.on_road) / len(driver.on_road)
                print(f"on the road in {share:.0f} % of {len(driver.on_road)} frames", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.player",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_addresses(parser)
    parser.add_argument("--script", default="road-lap", help="a name in loadtests/scripts, a path, or: eyes")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--format", choices=sorted(FORMATS), default="jpeg")
    parser.add_argument("--model", default="", help="default: the only one there is")
    parser.add_argument("--image", type=Path, help="first picture, PNG or JPEG of the model's size")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--seed", type=int, default=0, help="0: the service chooses")
    parser.add_argument("--wait", action="store_true", help="in the queue, where there is no seat")
    parser.add_argument("--save", type=Path, help="write what was seen, as .mp4 or .webp")
    parser.add_argument("--least-fps", type=float, default=0.0, help="exit 1 below so many frames a second")
    parser.add_argument("--json", action="store_true", help="no progress bar; one line of JSON, last")
    options = parser.parse_args()
    try:
        report = asyncio.run(_play(options))
    except BadSetting as refusal:
        print(refusal.message, file=sys.stderr)
        return 2
    except grpc.aio.AioRpcError as refusal:
        print(f"refused: {refusal.code().name}: {refusal.details()}", file=sys.stderr)
        return 2
    except Silence as silence:
        print(f"given up: {silence}", file=sys.stderr)
        return 2
    print(report.to_json())
    if report.frames < options.least_fps * options.seconds:
        wanted = f"{options.least_fps:g} a second for {options.seconds:g} s were asked for"
        print(f"too slow: {report.frames} frames came; {wanted}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
