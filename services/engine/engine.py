"""`Engine`: slots, ticks and credits. Nothing here knows gRPC, Redis or the model."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aapt.shapes import FRAMES_PER_LATENT
from services import memory, telemetry
from services.engine.builder import Builder
from services.engine.capacity import Capacity
from services.engine.mailbox import still
from services.engine.residence import Made, Residence
from services.engine.world import World, timed_steps
from services.engine.worldthread import RETRY_AFTER_S, WorldThread
from services.errors import EngineFull, OutOfMemory, ServiceStopping, StepFailed, ViewerGone

log = telemetry.logger("engine")

_PATIENT_PERIODS = 3
_STUCK_S = 2.0


@dataclass(frozen=True)
class Tick:
    """What one tick was like, for those who measure."""

    lateness_s: Sequence[float]  # of this tick and of those that were missed before it
    step_s: float  # 0: nobody was due, or the step failed
    skipped: Sequence[tuple[Residence, str]]  # who had no latent, and why
    traceparent: str = ""  # of a control that the step obeyed; empty: none is traced


class Engine:
    """Seats sessions in the slots of a world and turns it: each session has a tick every 4 video frames.

    A session's ticks come in its phase, one of `phases` in each period (0: as `Capacity.settle` chooses). Who
    shares a phase shares a step, which is cheaper where the chip is not full; phases take turns, so
    that none waits for the others.

    The world runs in a thread of its own, one call after the other, so the event loop never waits for it.
    """

    def __init__(
        self,
        world: World,
        *,
        keys: Sequence[str],
        tracks: Sequence[str] = ("keys",),
        frames_per_second: float,
        credit_timeout_s: float = 2.0,
        headroom: float = 0.8,
        phases: int = 0,
        session_bytes: int = 0,
        torch_threads: int = 1,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        available_bytes: Callable[[], int | None] = memory.available_bytes,
        on_tick: Callable[[Tick], None] = lambda tick: None,
    ) -> None:
        self.period_s = FRAMES_PER_LATENT / frames_per_second
        self.keys = tuple(keys)
        self.clock = clock
        self._world = world
        # At a slow pace a viewer needs longer than that to show a latent's last frame.
        self._credit_timeout_s = max(credit_timeout_s, _PATIENT_PERIODS * self.period_s)
        self._capacity = Capacity(period_s=self.period_s, phases=phases, headroom=headroom, clock=clock)
        self._stepping_since_s: float | None = None
        executor = executor or ThreadPoolExecutor(1, "world", torch.set_num_threads, (torch_threads,))
        self._thread = WorldThread(
            world, executor, session_bytes=session_bytes, available_bytes=available_bytes
        )
        self.builder = Builder(world, self._thread, keys=keys, tracks=tracks, clock=clock)
        self._sleep = sleep
        self._on_tick = on_tick
        self._residents: dict[int, Residence] = {}
        self._free_slots = deque(range(world.slots))
        self._ticking = asyncio.Lock()
        self._is_stopping = False

    @property
    def slots_free(self) -> int:
        return len(self._free_slots)

    @property
    def past_needed(self) -> int:
        """How many of a session's last latents the world needs to go on, besides the first two."""
        return self._world.window + 2

    @property
    def step_s(self) -> float:
        """What a step takes for one session. 0: not measured yet."""
        return self._capacity.step_s(1)

    @property
    def slots_offered(self) -> int:
        """How many sessions may be seated at once: as many as there are slots and time in every period."""
        return 0 if self._is_stopping or self.trouble else self._capacity.seats(self._world.slots)

    @property
    def seats_free(self) -> int:
        """How many more sessions may be seated now."""
        return max(0, self.slots_offered - (self._world.slots - self.slots_free))

    @property
    def trouble(self) -> str | None:
        """Why nobody can be seated, where that is so: no slot could be had, or a step does not end."""
        since_s = self._stepping_since_s
        if since_s is not None and (runs_s := self.clock() - since_s) > max(_STUCK_S, 4 * self.period_s):
            return f"a step has been running for {runs_s:.1f} s"
        return self._thread.shortage

    def admit(self) -> Residence:
        """Take a slot for a session. Raises EngineFull, OutOfMemory or ServiceStopping.

        Every slot counts, also where fewer are offered by now: who was promised a seat gets it.
        """
        if self._is_stopping:
            raise _stopping()
        if not self._free_slots:
            raise EngineFull(
                f"all {self._world.slots} slots of this engine are taken; try again",
                retry_after_s=RETRY_AFTER_S,
            )
        self._thread.check_memory()
        in_phase = Counter(residence.phase for residence in self._residents.values())
        phase = min(range(self._capacity.phases), key=lambda phase: in_phase[phase])
        residence = Residence(self._free_slots.popleft(), phase, self.clock(), self._free)
        self._residents[residence.slot] = residence
        return residence

    async def warm_up(self, steps: int) -> None:
        """Play alone and in a full house, so that the first session finds everything ready, its cost known.

        From then on there are as many phases as there will be.

        Raises OutOfMemory where a full house does not fit.
        """
        rows = self.builder.steering().rows(still(self.keys))
        for sessions in self._capacity.sizes(self._world.slots):
            play = partial(timed_steps, self._world, sessions, steps, rows, self.clock)
            for step_s in await self._thread.call(play):
                self._capacity.measured(sessions, step_s)
        self._capacity.settle(self._world.slots)

    async def probe(self) -> None:
        """Whether a slot can be had again, after it could not; `trouble` says what came out."""
        if self._free_slots:
            slot = self._free_slots.popleft()
            try:
                await self._thread.probe(slot)
            finally:
                self._free_slots.append(slot)

    async def run(self) -> None:
        """Tick at start + n periods, each phase in its turn, until `stop`.

        Ticks that are a period late are left out, for good.
        """
        start_s, phases = self.clock(), self._capacity.phases
        n = 0
        while not self._is_stopping:
            n += 1
            due_s = start_s + n * self.period_s / phases
            await self._sleep(max(0.0, due_s - self.clock()))
            late_s = max(0.0, self.clock() - due_s)
            missed = int(late_s // self.period_s)
            n += missed * phases
            late = [(residence, "engine_late") for residence in self._residents.values() if residence.is_due]
            for residence in self._residents.values():
                # Credits may have come and lie unread: a long delay is the engine's, not the viewers'.
                residence.credit_at_s += late_s if missed else 0.0
            lateness_s = [late_s - i * self.period_s for i in range(missed + 1)]
            await self.tick(lateness_s, late * missed, phase=n % phases)

    async def tick(
        self,
        lateness_s: Sequence[float] = (0.0,),
        skipped: Sequence[tuple[Residence, str]] = (),
        *,
        phase: int = 0,
    ) -> None:
        """One latent for every session of `phase` that has credit; whoever had none for too long must go."""
        async with self._ticking:
            now_s = self.clock()
            for residence in list(self._residents.values()):
                if residence.is_ready and now_s - residence.credit_at_s >= self._credit_timeout_s:
                    residence.end(
                        ViewerGone(
                            f"no credit came for {self._credit_timeout_s:g} s, so the seat was given up"
                        )
                    )
            here = [residence for residence in self._residents.values() if residence.phase == phase]
            due = [residence for residence in here if residence.is_due]
            without = [(each, "no_credit") for each in here if each.is_ready and not each.is_due]
            step_s, traceparent = await self._step(due, now_s) if due else (0.0, "")
            self._on_tick(Tick(lateness_s, step_s, [*skipped, *without], traceparent))

    async def stop(self) -> None:
        """Seat nobody any more, let the step that runs finish and its latents go out, and end every stay.

        Stopping twice is no error.
        """
        if self._is_stopping:
            return
        self._is_stopping = True
        async with self._ticking:
            for residence in list(self._residents.values()):
                residence.end(_stopping())
        await self._thread.stop()  # once the slots are closed

    async def _step(self, due: list[Residence], now_s: float) -> tuple[float, str]:
        """What it took, 0 where it failed; and the traceparent of a control that it obeyed, or nothing."""
        turns = {residence.slot: residence.mailbox.take() for residence in due}
        controls = {each.slot: each.steering.rows(turns[each.slot]) for each in due}

        def timed() -> tuple[dict[int, Tensor], float, float]:
            start_s = self.clock()
            made = self._thread.turn({each.slot: (turns[each.slot], controls[each.slot]) for each in due})
            return made, self.clock() - start_s, time.time()

        while True:
            self._stepping_since_s = self.clock()
            try:
                latents, step_s, made_at_s = await self._thread.call(timed)
                break
            except OutOfMemory as error:
                # The newest has to leave, since there was memory before it came; the others go on at once.
                max(due, key=lambda each: each.since_s).end(error)
                due[:] = [each for each in due if self._residents.get(each.slot) is each]
                if not due:
                    return 0.0, ""
            except Exception as error:
                log.exception("step failed", error, sessions=len(due))
                for residence in due:
                    residence.end(
                        StepFailed("the step that this session shared failed; go on from its last latents")
                    )
                return 0.0, ""
            finally:
                self._stepping_since_s = None
        self._capacity.measured(len(due), step_s)
        for residence in due:
            # Who left while the step ran gets nothing; the slot may be another's by now.
            if self._residents.get(residence.slot) is residence:
                slot, turn = residence.slot, turns[residence.slot]
                wait_s = now_s - turn.arrived_at_s if turn.seqs else 0.0
                index, latent = residence.next_index, latents[slot]
                rows, sessions = controls[slot], len(due)
                residence.deliver(Made(index, latent, rows, turn, wait_s, step_s, made_at_s, sessions))
        return step_s, next((each.traceparent for turn in turns.values() for each in turn.traced), "")

    def _free(self, residence: Residence) -> None:
        # The slot may be taken at once: the world's thread closes it before it opens it again.
        del self._residents[residence.slot]
        self._free_slots.append(residence.slot)
        self._thread.close(residence.slot)


def _stopping() -> ServiceStopping:
    return ServiceStopping("this engine stops; go on with another", retry_after_s=0.5)
