"""Slots, ticks and credits, under a clock that only moves when it is told to."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any

import pytest
import torch
from torch import Tensor

from livevideo.v1.control_pb2 import ControlEvent, Keys
from services.engine.engine import Engine, Tick
from services.engine.mailbox import Mailbox
from services.engine.residence import Residence
from services.errors import EngineFull, OutOfMemory, ServiceStopping, StepFailed, ViewerGone

KEYS = ("left", "right")
PERIOD_S = 4 / 24


class Counting:
    """A world in six lines: a latent is how old its session is, and whether "right" is held."""

    def __init__(self, slots: int = 2) -> None:
        self.slots, self.ages, self.fails = slots, dict[int, int](), False
        self.room = slots  # for how many sessions there is memory
        self.window = 2

    def open(self, slot: int, image: Tensor | None, prompt: str, seed: int) -> Tensor:
        assert slot not in self.ages
        if len(self.ages) == self.room:
            raise MemoryError
        self.ages[slot] = 0
        return torch.zeros(1, 1, 2)

    def step(self, controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        if self.fails:
            raise RuntimeError("out of dreams")
        if len(controls) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        for slot in controls:
            self.ages[slot] += 1
        return {slot: torch.tensor([[[self.ages[slot], held[0, 1]]]]) for slot, held in controls.items()}

    def set_prompt(self, slot: int, prompt: str) -> None: ...

    def resume(self, slot: int, past: Any, prompt: str, seed: int) -> None: ...

    def close(self, slot: int) -> None:
        self.ages.pop(slot, None)


class AtOnce(Executor):
    """Runs each call when it is submitted."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Clock:
    """Seconds that pass only in `sleep`, and where a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world() -> Counting:
    return Counting()


@pytest.fixture
def ticks() -> list[Tick]:
    return []


@pytest.fixture
def engine(world: Counting, clock: Clock, ticks: list[Tick]) -> Engine:
    return Engine(
        world, keys=KEYS, frames_per_second=24, executor=AtOnce(), clock=clock, sleep=clock.sleep,
        on_tick=ticks.append,
    )  # fmt: skip


async def seated(engine: Engine, credits: int = 100) -> Residence:
    residence = engine.admit()
    await engine.open(residence, Mailbox(KEYS), None, "", 1)
    residence.grant(credits, engine.clock())
    assert (await taken(residence)) == (0, 0.0)
    return residence


async def taken(residence: Residence) -> tuple[int, float]:
    """Index of the next latent, and whether "right" was held."""
    made = await asyncio.wait_for(residence.take(), 10)
    assert made is not None
    return made.index, float(made.latent.flatten()[1])


async def test_sessions_of_different_age_share_a_tick(engine: Engine) -> None:
    old = await seated(engine)
    await engine.tick()
    young = await seated(engine)
    await engine.tick()
    assert [(await taken(old))[0], (await taken(old))[0], (await taken(young))[0]] == [1, 2, 1]


async def test_a_key_is_obeyed_by_the_latent_of_the_next_tick(engine: Engine) -> None:
    residence = await seated(engine)
    right = ControlEvent(seq=7, keys=Keys(down=["right"]))
    residence.mailbox.put(right, received_at_s=1.0, path_s=0.0, now_s=engine.clock())
    await engine.tick()
    made = await residence.take()
    assert made is not None
    assert (made.turn.control_seq, made.turn.seqs, float(made.latent.flatten()[1])) == (7, (7,), 1.0)
    assert torch.equal(made.controls, torch.tensor([[0.0, 1.0]] * 4))


async def test_a_latent_costs_a_credit_and_who_has_none_costs_no_one_else_a_latent(
    engine: Engine, ticks: list[Tick]
) -> None:
    poor, rich = await seated(engine, credits=2), await seated(engine)
    for _ in range(3):
        await engine.tick()
    assert (poor.next_index, rich.next_index) == (2, 4)
    assert [reason for _, reason in ticks[-1].skipped] == ["no_credit"]


async def test_a_seat_without_credit_for_two_seconds_is_free_again(engine: Engine, clock: Clock) -> None:
    gone, stays = await seated(engine, credits=1), await seated(engine)
    clock.now_s += 1.9
    await engine.tick()
    assert engine.slots_free == 0
    stays.grant(1, clock())
    clock.now_s += 0.2
    await engine.tick()
    assert engine.slots_free == 1
    with pytest.raises(ViewerGone):
        await gone.take()
    await seated(engine)  # the slot can be used again


async def test_at_a_slow_pace_a_seat_outlives_the_time_that_a_latent_is_shown(clock: Clock) -> None:
    engine = Engine(Counting(), keys=KEYS, frames_per_second=1.0, executor=AtOnce(), clock=clock)
    await seated(engine, credits=1)
    clock.now_s += 2 * engine.period_s
    await engine.tick()
    assert engine.slots_free == 1
    clock.now_s += 2 * engine.period_s
    await engine.tick()
    assert engine.slots_free == 2


async def test_a_full_engine_refuses_with_a_retry_time(engine: Engine) -> None:
    await seated(engine)
    await seated(engine)
    with pytest.raises(EngineFull, match="all 2 slots") as refusal:
        engine.admit()
    assert refusal.value.retry_after_s


async def test_a_step_that_fails_ends_its_sessions_and_the_engine_goes_on(
    engine: Engine, world: Counting
) -> None:
    victim = await seated(engine)
    world.fails = True
    await engine.tick()
    with pytest.raises(StepFailed):
        await victim.take()
    world.fails = False
    survivor = await seated(engine)
    await engine.tick()
    assert (await taken(survivor))[0] == 1


async def test_ticks_keep_their_times_and_a_missed_one_is_left_out(
    engine: Engine, world: Counting, clock: Clock, ticks: list[Tick]
) -> None:
    residence = await seated(engine)
    step, starts = world.step, []

    def slow_once(controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        starts.append(clock.now_s / PERIOD_S)
        if len(starts) == 2:
            clock.now_s += 2.5 * PERIOD_S
        if len(starts) == 4:
            residence.end()
            running.cancel()
        return step(controls)

    world.step = slow_once  # type: ignore[method-assign]
    running = asyncio.create_task(engine.run())
    await asyncio.wait([running], timeout=20)
    # The second step ended half a period into the fourth tick: the third is gone, the fourth comes late.
    assert [round(start, 3) for start in starts] == [1, 2, 4.5, 5]
    assert [round(late / PERIOD_S, 3) for late in ticks[2].lateness_s] == [1.5, 0.5]


async def test_only_as_many_seats_are_offered_as_steps_leave_room_for(
    engine: Engine, world: Counting, clock: Clock
) -> None:
    assert engine.slots_offered == 2
    step = world.step

    def slow(controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        clock.now_s += 0.6 * PERIOD_S
        return step(controls)

    world.step = slow  # type: ignore[method-assign]
    await seated(engine)
    for _ in range(10):
        await engine.tick()
    assert engine.slots_offered == 1


async def test_stopping_ends_every_stay_and_seats_nobody(engine: Engine) -> None:
    residence = await seated(engine)
    await engine.stop()
    with pytest.raises(ServiceStopping):
        await residence.take()
    with pytest.raises(ServiceStopping):
        engine.admit()


async def test_phases_take_turns_within_a_period(world: Counting, clock: Clock) -> None:
    world.slots, world.room = 4, 4
    engine = Engine(
        world, keys=KEYS, frames_per_second=24, phases=2, executor=AtOnce(), clock=clock, sleep=clock.sleep
    )
    residences = [await seated(engine) for _ in range(4)]
    assert [residence.phase for residence in residences] == [0, 1, 0, 1]
    step, steps = world.step, list[tuple[float, tuple[int, ...]]]()

    def noted(controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        steps.append((round(clock.now_s / PERIOD_S, 3), tuple(controls)))
        if len(steps) == 4:
            running.cancel()
        return step(controls)

    world.step = noted  # type: ignore[method-assign]
    running = asyncio.create_task(engine.run())
    await asyncio.wait([running], timeout=20)
    assert steps == [(0.5, (1, 3)), (1.0, (0, 2)), (1.5, (1, 3)), (2.0, (0, 2))]


async def test_a_seat_that_was_left_is_filled_in_its_phase(world: Counting) -> None:
    world.slots, world.room = 4, 4
    engine = Engine(world, keys=KEYS, frames_per_second=24, phases=2, executor=AtOnce())
    residences = [await seated(engine) for _ in range(3)]
    residences[1].end()
    assert (await seated(engine)).phase == 1


async def test_a_session_that_finds_no_memory_is_refused_and_nobody_else_is_hurt(
    engine: Engine, world: Counting
) -> None:
    world.room = 1
    lucky, unlucky = await seated(engine), engine.admit()
    with pytest.raises(OutOfMemory) as refusal:
        await engine.open(unlucky, Mailbox(KEYS), None, "", 1)
    unlucky.end(refusal.value)
    assert refusal.value.retry_after_s
    assert engine.trouble
    assert engine.slots_offered == 0
    assert engine.slots_free == 1
    await engine.tick()
    assert (await taken(lucky))[0] == 1
    await engine.probe()
    assert engine.trouble
    world.room = 2
    await engine.probe()
    assert engine.trouble is None
    assert engine.slots_offered == 2
    await seated(engine)  # the probe has left its slot


async def test_a_step_without_memory_costs_the_newest_its_seat_and_the_others_no_latent(
    engine: Engine, world: Counting, clock: Clock
) -> None:
    old = await seated(engine)
    clock.now_s += 1.0
    new = await seated(engine)
    right = ControlEvent(seq=7, keys=Keys(down=["right"]))
    old.mailbox.put(right, received_at_s=1.0, path_s=0.0, now_s=clock())
    world.room = 1
    await engine.tick()
    assert await taken(old) == (1, 1.0)
    with pytest.raises(OutOfMemory):
        await new.take()
    assert engine.slots_free == 1


async def test_a_session_is_refused_where_too_little_memory_is_left(world: Counting) -> None:
    left = [10]
    engine = Engine(
        world, keys=KEYS, frames_per_second=24, session_bytes=11, executor=AtOnce(),
        available_bytes=lambda: left[0],
    )  # fmt: skip
    with pytest.raises(OutOfMemory, match="takes 11 bytes of memory, and 10 are left"):
        engine.admit()
    assert engine.slots_free == 2
    await engine.probe()
    assert engine.trouble
    left[0] = 11
    await engine.probe()
    engine.admit()


async def test_a_warm_engine_knows_what_a_full_house_costs(
    engine: Engine, world: Counting, clock: Clock
) -> None:
    step = world.step

    def slow(controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        clock.now_s += (0.5 + 0.1 * len(controls)) * PERIOD_S
        return step(controls)

    world.step = slow  # type: ignore[method-assign]
    await engine.warm_up(8)
    assert engine.slots_offered == 2
    assert engine.step_s == pytest.approx(0.6 * PERIOD_S)
    await seated(engine)


async def test_a_full_house_that_does_not_fit_is_said_before_anybody_comes(
    engine: Engine, world: Counting
) -> None:
    world.room = 1
    with pytest.raises(OutOfMemory):
        await engine.warm_up(8)


async def test_who_leaves_while_a_step_finds_no_memory_is_not_stepped_again(
    engine: Engine, world: Counting, clock: Clock
) -> None:
    world.slots = world.room = 3
    engine = Engine(world, keys=KEYS, frames_per_second=24, executor=AtOnce(), clock=clock)
    stays, leaves = await seated(engine), await seated(engine)
    clock.now_s += 1.0
    newest = await seated(engine)
    step, sizes = world.step, []

    def scarce(controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        sizes.append(len(controls))
        if len(sizes) == 1:
            leaves.end()
            raise MemoryError
        return step(controls)

    world.step = scarce  # type: ignore[method-assign]
    await engine.tick()
    assert sizes == [3, 1]
    assert (await taken(stays))[0] == 1
    with pytest.raises(OutOfMemory):
        await newest.take()


async def test_a_probe_that_fails_otherwise_costs_nobody_anything(engine: Engine, world: Counting) -> None:
    world.room = 0
    with pytest.raises(OutOfMemory):
        await engine.open(engine.admit(), Mailbox(KEYS), None, "", 1)

    def broken(slot: int, image: Tensor | None, prompt: str, seed: int) -> Tensor:
        raise RuntimeError("no world")

    world.open = broken  # type: ignore[method-assign]
    await engine.probe()
    assert engine.trouble
    assert engine.slots_free == 1


async def test_stopping_twice_is_no_error(engine: Engine) -> None:
    await engine.stop()
    await engine.stop()
