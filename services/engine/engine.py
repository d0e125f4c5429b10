"""`Engine`: slots, ticks and credits. Nothing here knows gRPC, Redis or the model."""

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from aapt.rollout import Past
from aapt.shapes import FRAMES_PER_LATENT
from services import telemetry
from services.engine.mailbox import Mailbox, Turn
from services.engine.residence import Made, Residence
from services.engine.world import World
from services.errors import EngineFull, ServiceStopping, StepFailed, ViewerGone

log = telemetry.logger("engine")
T = TypeVar("T")

_MEASURED_STEPS = 64  # the median is taken over this many
_RETRY_AFTER_S = 5.0
_PATIENT_PERIODS = 3
_STEPS_TO_TRUST = 8  # the first steps of a process are slow and say nothing


@dataclass(frozen=True)
class Tick:
    """What one tick was like, for those who measure."""

    lateness_s: Sequence[float]  # of this tick and of those that were missed before it
    step_s: float  # 0: nobody was due, or the step failed
    skipped: Sequence[tuple[Residence, str]]  # who had no latent, and why


class Engine:
    """Seats sessions in the slots of a world and turns it: one tick every 4 video frames.

    The world runs in a thread of its own, one call after the other, so the event loop never waits for it.
    """

    def __init__(
        self,
        world: World,
        *,
        keys: Sequence[str],
        frames_per_second: float,
        credit_timeout_s: float = 2.0,
        headroom: float = 0.8,
        torch_threads: int = 1,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_tick: Callable[[Tick], None] = lambda tick: None,
    ) -> None:
        self.period_s = FRAMES_PER_LATENT / frames_per_second
        self.keys = tuple(keys)
        self.clock = clock
        self._world = world
        # At a slow pace a viewer needs longer than that to show a latent's last frame.
        self._credit_timeout_s = max(credit_timeout_s, _PATIENT_PERIODS * self.period_s)
        self._headroom = headroom
        self._executor = executor or ThreadPoolExecutor(1, "world", torch.set_num_threads, (torch_threads,))
        self._sleep = sleep
        self._on_tick = on_tick
        self._residents: dict[int, Residence] = {}
        self._free_slots = deque(range(world.slots))
        self._step_s: deque[float] = deque(maxlen=_MEASURED_STEPS)
        self._per_session_s: deque[float] = deque(maxlen=_MEASURED_STEPS)
        self._ticking = asyncio.Lock()
        self._is_stopping = False

    @property
    def slots_free(self) -> int:
        return len(self._free_slots)

    @property
    def step_s(self) -> float:
        """Median time of the last steps. 0: not measured yet."""
        return statistics.median(self._step_s) if self._step_s else 0.0

    @property
    def slots_offered(self) -> int:
        """How many sessions may be seated at once: as many as there are slots and time in every period.

        Time is counted as if sessions did not share a step's cost, since a step for two is not yet measured
        when one plays. One slot is offered always, or a slow moment would be the last that is ever measured.
        """
        if self._is_stopping:
            return 0
        if len(self._per_session_s) < _STEPS_TO_TRUST:
            return self._world.slots
        room = int(self._headroom * self.period_s / max(statistics.median(self._per_session_s), 1e-9))
        return min(self._world.slots, max(1, room))

    def admit(self) -> Residence:
        """Take a slot for a session. Raises EngineFull or ServiceStopping.

        Every slot counts, also where fewer are offered by now: who was promised a seat gets it.
        """
        if self._is_stopping:
            raise _stopping()
        if not self._free_slots:
            raise EngineFull(
                f"all {self._world.slots} slots of this engine are taken; try again",
                retry_after_s=_RETRY_AFTER_S,
            )
        residence = Residence(self._free_slots.popleft(), self.clock(), self._free)
        self._residents[residence.slot] = residence
        return residence

    async def open(
        self, residence: Residence, mailbox: Mailbox, image: Tensor | None, prompt: str, seed: int
    ) -> None:
        """Begin a session at the beginning; its latent 0 goes out with the first credit."""
        residence.check()
        latent = await self._in_world(lambda: self._world.open(residence.slot, image, prompt, seed))
        turn = Turn(keys=(0.0,) * len(self.keys), control_seq=0)
        residence.begin(mailbox, 1, Made(0, latent, self._rows(turn), turn), self.clock())

    async def resume(
        self, residence: Residence, mailbox: Mailbox, past: Past, prompt: str, seed: int
    ) -> None:
        """Go on with a session that was played elsewhere. Raises ValueError where `past` does not do."""
        residence.check()
        await self._in_world(lambda: self._world.resume(residence.slot, past, prompt, seed))
        residence.begin(mailbox, max(past.latents) + 1, None, self.clock())

    async def run(self) -> None:
        """Tick at start + n periods until `stop`. A tick that is a period late is left out, for good."""
        start_s = self.clock()
        n = 0
        while not self._is_stopping:
            n += 1
            due_s = start_s + n * self.period_s
            await self._sleep(max(0.0, due_s - self.clock()))
            late_s = max(0.0, self.clock() - due_s)
            missed = int(late_s // self.period_s)
            n += missed
            late = [(residence, "engine_late") for residence in self._residents.values() if residence.is_due]
            for residence in self._residents.values():
                # Credits may have come and lie unread: a long delay is the engine's, not the viewers'.
                residence.credit_at_s += late_s if missed else 0.0
            await self.tick([late_s - i * self.period_s for i in range(missed + 1)], late * missed)

    async def tick(
        self, lateness_s: Sequence[float] = (0.0,), skipped: Sequence[tuple[Residence, str]] = ()
    ) -> None:
        """One latent for every session that has credit; who has had none for too long must leave."""
        async with self._ticking:
            now_s = self.clock()
            for residence in list(self._residents.values()):
                if residence.is_ready and now_s - residence.credit_at_s >= self._credit_timeout_s:
                    residence.end(
                        ViewerGone(
                            f"no credit came for {self._credit_timeout_s:g} s, so the seat was given up"
                        )
                    )
            due = [residence for residence in self._residents.values() if residence.is_due]
            without = [
                (each, "no_credit") for each in self._residents.values() if each.is_ready and not each.is_due
            ]
            step_s = await self._step(due, now_s) if due else 0.0
            self._on_tick(Tick(lateness_s, step_s, [*skipped, *without]))

    async def stop(self) -> None:
        """Seat nobody any more, let the step that runs finish and its latents go out, and end every stay."""
        self._is_stopping = True
        async with self._ticking:
            for residence in list(self._residents.values()):
                residence.end(_stopping())
        await self._in_world(lambda: None)  # the slots are closed before the thread ends
        self._executor.shutdown(wait=False)

    async def _step(self, due: Sequence[Residence], now_s: float) -> float:
        turns = {residence.slot: residence.mailbox.take() for residence in due}
        controls = {slot: self._rows(turn) for slot, turn in turns.items()}

        def timed() -> tuple[dict[int, Tensor], float]:
            start_s = self.clock()
            for slot, turn in turns.items():
                if turn.prompt is not None:
                    self._world.set_prompt(slot, turn.prompt)
            return self._world.step(controls), self.clock() - start_s

        try:
            latents, step_s = await self._in_world(timed)
        except Exception as error:
            log.exception("step failed", error, sessions=len(due))
            for residence in due:
                residence.end(
                    StepFailed("the step that this session shared failed; go on from its last latents")
                )
            return 0.0
        self._step_s.append(step_s)
        self._per_session_s.append(step_s / len(due))
        for residence in due:
            # Who left while the step ran gets nothing; the slot may be another's by now.
            if self._residents.get(residence.slot) is residence:
                slot, turn = residence.slot, turns[residence.slot]
                wait_s = now_s - turn.arrived_at_s if turn.seqs else 0.0
                made = Made(residence.next_index, latents[slot], controls[slot], turn, wait_s, step_s)
                residence.deliver(made)
        return step_s

    def _rows(self, turn: Turn) -> Tensor:
        """A control counts for all four video frames of its latent."""
        return torch.tensor([turn.keys] * FRAMES_PER_LATENT, dtype=torch.float32)

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

    async def _in_world(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)


def _stopping() -> ServiceStopping:
    return ServiceStopping("this engine stops; go on with another", retry_after_s=0.5)
