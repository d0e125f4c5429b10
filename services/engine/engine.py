"""`Engine`: slots, ticks and credits. Nothing here knows gRPC, Redis or the model."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from aapt.rollout import Past
from aapt.shapes import FRAMES_PER_LATENT
from services import memory, telemetry
from services.engine.capacity import Capacity
from services.engine.mailbox import Mailbox, Turn
from services.engine.residence import Made, Residence
from services.engine.steering import Steering, steering_by
from services.engine.world import World, timed_steps
from services.errors import EngineFull, OutOfMemory, ServiceStopping, StepFailed, ViewerGone

log = telemetry.logger("engine")
T = TypeVar("T")

_RETRY_AFTER_S = 5.0
_PATIENT_PERIODS = 3
_STUCK_S = 2.0


@dataclass(frozen=True)
class Tick:
    """What one tick was like, for those who measure."""

    lateness_s: Sequence[float]  # of this tick and of those that were missed before it
    step_s: float  # 0: nobody was due, or the step failed
    skipped: Sequence[tuple[Residence, str]]  # who had no latent, and why


class Engine:
    """Seats sessions in the slots of a world and turns it: each session has a tick every 4 video frames.

    A session's ticks come in its phase, one of `phases` in each period. Who shares a phase shares a step,
    which is cheaper where the chip is not full; phases take turns, so that none waits for the others.

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
        phases: int = 1,
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
        self._tracks = tuple(tracks)
        self.clock = clock
        self._world = world
        # At a slow pace a viewer needs longer than that to show a latent's last frame.
        self._credit_timeout_s = max(credit_timeout_s, _PATIENT_PERIODS * self.period_s)
        self._phases = phases
        self._capacity = Capacity(period_s=self.period_s, phases=phases, headroom=headroom, clock=clock)
        self._session_bytes = session_bytes
        self._available_bytes = available_bytes
        self._trouble: str | None = None
        self._stepping_since_s: float | None = None
        self._executor = executor or ThreadPoolExecutor(1, "world", torch.set_num_threads, (torch_threads,))
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
    def trouble(self) -> str | None:
        """Why nobody can be seated, where that is so: no slot could be had, or a step does not end."""
        since_s = self._stepping_since_s
        if since_s is not None and (runs_s := self.clock() - since_s) > max(_STUCK_S, 4 * self.period_s):
            return f"a step has been running for {runs_s:.1f} s"
        return self._trouble

    def admit(self) -> Residence:
        """Take a slot for a session. Raises EngineFull, OutOfMemory or ServiceStopping.

        Every slot counts, also where fewer are offered by now: who was promised a seat gets it.
        """
        if self._is_stopping:
            raise _stopping()
        if not self._free_slots:
            raise EngineFull(
                f"all {self._world.slots} slots of this engine are taken; try again",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._check_memory()
        in_phase = Counter(residence.phase for residence in self._residents.values())
        phase = min(range(self._phases), key=lambda phase: in_phase[phase])
        residence = Residence(self._free_slots.popleft(), phase, self.clock(), self._free)
        self._residents[residence.slot] = residence
        return residence

    async def warm_up(self, steps: int) -> None:
        """Play alone and in a full house, so that the first session finds everything ready, its cost known.

        Raises OutOfMemory where a full house does not fit.
        """
        still = self._steering().rows(self._still)
        for sessions in {1, -(-self._world.slots // self._phases)}:
            play = partial(timed_steps, self._world, sessions, steps, still, self.clock)
            for step_s in await self._in_memory(play):
                self._capacity.measured(sessions, step_s)

    async def probe(self) -> None:
        """Whether a slot can be had again, after it could not; `trouble` says what came out."""
        if self._free_slots:
            slot = self._free_slots.popleft()
            try:
                self._check_memory()
                await self._in_memory(lambda: self._world.open(slot, None, "", 0))
            except OutOfMemory:
                pass
            except Exception as error:
                log.exception("probe failed", error)
            else:
                self._trouble = None
            finally:
                self._executor.submit(self._close, slot)
                self._free_slots.append(slot)

    async def open(
        self,
        residence: Residence,
        mailbox: Mailbox,
        image: Tensor | None,
        prompt: str,
        seed: int,
        again: Sequence[Turn] | None = None,
    ) -> list[Made]:
        """Begin a session at the beginning; its latent 0 goes out with the first credit.

        again: turns from latent 1 on that are made at once, since they were made before. What was made so is
        returned, and does not go out. Raises OutOfMemory.
        """
        residence.check()
        latent = await self._in_memory(lambda: self._world.open(residence.slot, image, prompt, seed))
        self._trouble = None
        steering, still = self._steering(), replace(self._still, standing_prompt=prompt)
        first = Made(0, latent, self._steering().rows(still), still)
        if again is None:
            residence.begin(mailbox, steering, 1, first, self.clock())
            return []
        made = [first, *await self._make_again(residence, steering, 1, again)]
        residence.begin(mailbox, steering, len(made), None, self.clock())
        return made

    async def rebuild(self, residence: Residence, past: Past, prompt: str, seed: int) -> None:
        """Build up the world of a session that was played elsewhere; `go_on` lets it play.

        Raises ValueError where `past` does not do, and OutOfMemory.
        """
        residence.check()
        await self._in_memory(lambda: self._world.resume(residence.slot, past, prompt, seed))
        self._trouble = None

    async def extend(self, residence: Residence, since: Past, prompt: str | None) -> None:
        """Take in what was made elsewhere after `rebuild`. prompt: a new one. Raises ValueError."""
        residence.check()

        def extended() -> None:
            if prompt is not None:
                self._world.set_prompt(residence.slot, prompt)
            self._world.extend(residence.slot, since)

        await self._in_memory(extended)

    async def go_on(
        self,
        residence: Residence,
        mailbox: Mailbox,
        next_index: int,
        stood: Turn | None = None,
        again: Sequence[Turn] = (),
    ) -> list[Made]:
        """Let a session play on from `next_index`. stood: what held before.

        again: turns that are made at once, since they were made before; what was made so is returned.
        """
        steering = self._steering()
        if stood is not None:
            steering.rows(stood)
        made = await self._make_again(residence, steering, next_index, again)
        residence.check()
        residence.begin(mailbox, steering, next_index + len(made), None, self.clock())
        return made

    async def run(self) -> None:
        """Tick at start + n periods, each phase in its turn, until `stop`.

        Ticks that are a period late are left out, for good.
        """
        start_s = self.clock()
        n = 0
        while not self._is_stopping:
            n += 1
            due_s = start_s + n * self.period_s / self._phases
            await self._sleep(max(0.0, due_s - self.clock()))
            late_s = max(0.0, self.clock() - due_s)
            missed = int(late_s // self.period_s)
            n += missed * self._phases
            late = [(residence, "engine_late") for residence in self._residents.values() if residence.is_due]
            for residence in self._residents.values():
                # Credits may have come and lie unread: a long delay is the engine's, not the viewers'.
                residence.credit_at_s += late_s if missed else 0.0
            lateness_s = [late_s - i * self.period_s for i in range(missed + 1)]
            await self.tick(lateness_s, late * missed, phase=n % self._phases)

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
            step_s = await self._step(due, now_s) if due else 0.0
            self._on_tick(Tick(lateness_s, step_s, [*skipped, *without]))

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
        await self._in_world(lambda: None)  # the slots are closed before the thread ends
        self._executor.shutdown(wait=False)

    async def _step(self, due: list[Residence], now_s: float) -> float:
        turns = {residence.slot: residence.mailbox.take() for residence in due}
        controls = {each.slot: each.steering.rows(turns[each.slot]) for each in due}

        def timed() -> tuple[dict[int, Tensor], float, float]:
            start_s = self.clock()
            made = self._turn({each.slot: (turns[each.slot], controls[each.slot]) for each in due})
            return made, self.clock() - start_s, time.time()

        while True:
            self._stepping_since_s = self.clock()
            try:
                latents, step_s, made_at_s = await self._in_memory(timed)
                break
            except OutOfMemory as error:
                # The newest has to leave, since there was memory before it came; the others go on at once.
                max(due, key=lambda each: each.since_s).end(error)
                due[:] = [each for each in due if self._residents.get(each.slot) is each]
                if not due:
                    return 0.0
            except Exception as error:
                log.exception("step failed", error, sessions=len(due))
                for residence in due:
                    residence.end(
                        StepFailed("the step that this session shared failed; go on from its last latents")
                    )
                return 0.0
            finally:
                self._stepping_since_s = None
        self._capacity.measured(len(due), step_s)
        for residence in due:
            # Who left while the step ran gets nothing; the slot may be another's by now.
            if self._residents.get(residence.slot) is residence:
                slot, turn = residence.slot, turns[residence.slot]
                wait_s = now_s - turn.arrived_at_s if turn.seqs else 0.0
                index, latent = residence.next_index, latents[slot]
                residence.deliver(Made(index, latent, controls[slot], turn, wait_s, step_s, made_at_s))
        return step_s

    def _turn(self, due: Mapping[int, tuple[Turn, Tensor]]) -> dict[int, Tensor]:
        """In the world's thread: one latent more for each slot, under its turn and what that steers."""
        for slot, (turn, _) in due.items():
            if turn.prompt is not None:
                self._world.set_prompt(slot, turn.prompt)
        return self._world.step({slot: controls for slot, (_, controls) in due.items()})

    async def _make_again(
        self, residence: Residence, steering: Steering, next_index: int, turns: Sequence[Turn]
    ) -> list[Made]:
        """One call each, so that the ticks of others come in between."""
        made = []
        for index, turn in enumerate(turns, next_index):
            residence.check()
            due = {residence.slot: (turn, steering.rows(turn))}
            latents = await self._in_memory(partial(self._turn, due))
            made.append(Made(index, latents[residence.slot], due[residence.slot][1], turn))
        return made

    @property
    def _still(self) -> Turn:
        return Turn(keys=(0.0,) * len(self.keys), control_seq=0)

    def _steering(self) -> Steering:
        return steering_by(self.keys, self._tracks)

    def _free(self, residence: Residence) -> None:
        # The slot may be taken at once: the world's thread closes it before it opens it again.
        del self._residents[residence.slot]
        self._free_slots.append(residence.slot)
        self._executor.submit(self._close, residence.slot)

    def _close(self, slot: int) -> None:
        try:
            self._world.close(slot)
        except Exception as error:
            log.exception("slot not closed", error, slot=slot)

    def _check_memory(self) -> None:
        left = self._available_bytes()
        if left is not None and left < self._session_bytes:
            self._trouble = f"a session takes {self._session_bytes} bytes of memory, and {left} are left"
            raise OutOfMemory(f"{self._trouble}; try again", retry_after_s=_RETRY_AFTER_S)

    async def _in_memory(self, call: Callable[[], T]) -> T:
        """`_in_world`; raises OutOfMemory where memory did not suffice."""
        try:
            return await self._in_world(call)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            log.exception("out of memory", error, sessions=len(self._residents))
            self._trouble = "no memory was left for another session"
            raise OutOfMemory(f"{self._trouble}; try again", retry_after_s=_RETRY_AFTER_S) from error

    async def _in_world(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _stopping() -> ServiceStopping:
    return ServiceStopping("this engine stops; go on with another", retry_after_s=0.5)
