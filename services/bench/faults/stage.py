"""One scenario, played on a fleet by some players, and what it came to."""

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from aapt.checkpoint import Model
from livevideo_client.comeback import LEASE_S
from loadtests.ledger import Ledger
from loadtests.returning import Instances, ReturningPlayer
from services.bench.faults.fleet import Fleet, target
from services.bench.faults.links import Link
from services.bench.faults.proof import Proof, prove
from services.bench.faults.scenarios import (
    Cut,
    Drain,
    Event,
    GoOn,
    Hang,
    Kill,
    Mend,
    Recover,
    Restart,
    Scenario,
    Wait,
    Whole,
)
from services.replay.logged import read

LATENTS_BEFORE = 2  # that every player has seen before anything is struck
FRAMES_AFTER = 24
LOGGED_S = 1.2  # until what was played is in the log, if nothing is in its way
LOG_READS = 4  # before it is taken for all that there will be
REST_S = 15.0  # for what was acknowledged to be obeyed, when all is well again


@dataclass
class Outcome:
    """What one run of a scenario came to, for all players; the pause is that of the first, who is struck."""

    scenario: str
    seed: int
    players: int
    kills: int = 0
    hangs: int = 0
    lost_sessions: int = 0
    gaps: int = 0
    duplicates: int = 0
    lost_controls: int = 0
    unproved: int = 0  # sessions whose log is not what must have been; `notes` say why
    replayed_latents: int = 0  # that were made again from the log
    pause_s: float = 0.0
    others_pause_s: float = 0.0
    acknowledged_s: float = 0.0  # the longest that a control of any player waited for its receipt
    drained_in_s: float = 0.0  # 0: nothing was drained
    frames: int = 0
    controls: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Whether every promise was, but for the length of the pause."""
        counts = (self.lost_sessions, self.gaps, self.duplicates, self.lost_controls, self.unproved)
        return not (any(counts) or self.notes)


class Stage:
    """Plays one scenario on a fleet that is whole. Everything random comes from `seed`."""

    def __init__(self, fleet: Fleet, scenario: Scenario, seed: int, players: int, model: Model) -> None:
        """model: the one that is played, to play it again with."""
        self._fleet = fleet
        self._scenario = scenario
        self._model = model
        self._random = random.Random(seed)
        self._outcome = Outcome(scenario.name, seed, players)
        instances = Instances(*(fleet.addresses(kind) for kind in ("sessions", "control", "decoder")))
        self._players = [ReturningPlayer(instances, self._random.randrange(1, 2**31)) for _ in range(players)]
        self._engine = ""  # that the first player's session was known to use
        self._ended: list[str] = []  # processes that a Restart brings back

    async def play(self) -> Outcome:
        """Raises what makes the bench itself fail; what a service does wrong is in the outcome."""
        try:
            for player in self._players:
                await player.begin()
        except grpc.aio.AioRpcError as error:
            self._outcome.notes.append(f"no session could be opened: {error.details()}")
            return self._outcome
        try:
            if not all(await self._frames(1 + 4 * LATENTS_BEFORE)):
                self._outcome.notes.append("a player saw no picture before anything was struck")
            await self._name("engine")
            struck_at_s = time.monotonic()
            for event in self._scenario.events:
                await self._do(event)
            await self._frames(FRAMES_AFTER)
            await asyncio.gather(*(player.rest(REST_S) for player in self._players))
        finally:
            for process in self._fleet.processes.values():
                process.send(signal.SIGCONT)
            await asyncio.gather(*(player.leave() for player in self._players))
        self._conclude(struck_at_s)
        await self._prove()
        return self._outcome

    async def _frames(self, frames: int) -> list[bool]:
        """Until every player has seen so many more, and whether they have."""
        return await asyncio.gather(*(player.until_frames(frames, LEASE_S) for player in self._players))

    async def _do(self, event: Event) -> None:
        match event:
            case Wait():
                await asyncio.sleep(self._random.uniform(event.least_s, event.most_s))
            case Kill():
                names = [await self._name(kind) for kind in event.kinds]
                for name in names:
                    self._fleet.processes[name].send(signal.SIGKILL)
                self._ended += names
                self._outcome.kills += len(names)
            case Hang():
                names = [await self._name(kind) for kind in event.kinds]
                for name in names:
                    self._fleet.processes[name].send(signal.SIGSTOP)
                self._outcome.hangs += len(names)
            case GoOn():
                for process in self._fleet.processes.values():
                    process.send(signal.SIGCONT)
            case Drain():
                await self._drain(event)
            case Cut():
                for link in await self._links(event):
                    link.cut()
            case Mend():
                for link in self._fleet.links.values():
                    link.mend()
            case Restart():
                await self._restart()
            case Whole():
                await self._fleet.mended()
            case Recover():
                await self._players[0].until_frames(FRAMES_AFTER, LEASE_S)

    async def _drain(self, event: Drain) -> None:
        name = await self._name(event.kind)
        process = self._fleet.processes[name]
        process.send(signal.SIGTERM)
        self._ended.append(name)
        try:
            self._outcome.drained_in_s = await process.ended(event.within_s)
        except TimeoutError:
            self._outcome.notes.append(f"{event.kind} had not ended {event.within_s:g} s after SIGTERM")
            process.send(signal.SIGKILL)

    async def _restart(self) -> None:
        while self._ended:
            process = self._fleet.processes[self._ended.pop()]
            if process.is_running:
                await process.ended(5.0)
            await process.start()

    async def _links(self, cut: Cut) -> Sequence[Link]:
        """Those of the instance that the first player uses, where it has a part in it."""
        called = await self._name(cut.called) if cut.called == "engine" else cut.called
        caller = await self._name(cut.caller) if cut.caller in ("engine", "control") else cut.caller
        return self._fleet.between(caller, called)

    async def _name(self, kind: str) -> str:
        """The process of this kind that the first player uses now."""
        player, processes = self._players[0], self._fleet.of(kind)
        match kind:
            case "engine":
                with suppress(grpc.aio.AioRpcError):  # nobody knows now: it is where it was
                    self._engine = await self._fleet.engine_of(player.session.session_id)
                return self._engine
            case "decoder" | "control":
                address = getattr(player, kind)
                return next(each.name for each in processes if each.address == address)
        return self._random.choice(processes).name

    async def _prove(self) -> None:
        """Plays each session again from its log, which may not be whole yet."""
        for player in self._players:
            for _ in range(LOG_READS):
                await asyncio.sleep(LOGGED_S)
                proof = await self._proof(player)
                if not proof.note:
                    break
            self._outcome.replayed_latents += proof.latents
            self._outcome.unproved += bool(proof.note)
            self._outcome.notes += [proof.note] if proof.note else []

    async def _proof(self, player: ReturningPlayer) -> Proof:
        session_id = player.session.session_id
        try:
            logged = await read(target(self._fleet.addresses("sessions")), session_id)
        except grpc.aio.AioRpcError as error:
            return Proof(note=f"the log of {session_id} cannot be read: {error.details()}")
        return await asyncio.to_thread(prove, logged, player.ledger, self._model)

    def _conclude(self, struck_at_s: float) -> None:
        outcome = self._outcome
        for player in self._players:
            ledger = player.ledger
            outcome.lost_sessions += bool(ledger.ended_by)
            outcome.gaps += ledger.gaps
            outcome.duplicates += ledger.duplicates
            outcome.lost_controls += ledger.lost_controls + len(ledger.unanswered)
            outcome.frames += len(ledger.sights)
            outcome.controls += len(ledger.accepted)
        pauses_s = [_pause_s(player.ledger, struck_at_s) for player in self._players]
        outcome.pause_s = round(pauses_s[0], 3)
        outcome.others_pause_s = round(max(pauses_s[1:], default=0.0), 3)
        waited_s = [max(player.ledger.accepted.values(), default=0.0) for player in self._players]
        outcome.acknowledged_s = round(max(waited_s), 3)
        for player in self._players:
            if player.ledger.ended_by:
                outcome.notes.append(f"{player.session.session_id} was lost: {player.ledger.ended_by}")


def _pause_s(ledger: Ledger, since_s: float) -> float:
    """Of a session that was lost, until it was given up."""
    if ledger.ended_by and ledger.sights:
        return max(ledger.pause_s(since_s), ledger.breaks[-1][0] - ledger.sights[-1].at_s)
    return ledger.pause_s(since_s)
