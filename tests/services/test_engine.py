"""Slots, ticks and credits, under a clock that only moves when it is told to."""

import asyncio
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from livevideo.v1.control_pb2 import ControlEvent, Keys
from services.engine.engine import Engine, Tick
from services.errors import EngineFull, ServiceStopping, StepFailed, ViewerGone
from tests.services.small_world import KEYS, PERIOD_S, AtOnce, Clock, Counting, seated, taken


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


async def test_stopping_twice_is_no_error(engine: Engine) -> None:
    await engine.stop()
    await engine.stop()
    assert engine.slots_offered == 0
