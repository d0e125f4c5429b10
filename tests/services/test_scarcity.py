"""What becomes of sessions when an engine runs out of memory, or has a full house."""

from collections.abc import Mapping

import pytest
from torch import Tensor

from livevideo.v1.control_pb2 import ControlEvent, Keys
from services.engine.engine import Engine
from services.engine.mailbox import Mailbox
from services.errors import OutOfMemory
from tests.services.small_world import KEYS, PERIOD_S, AtOnce, Clock, Counting, seated, taken


async def test_a_session_that_finds_no_memory_is_refused_and_nobody_else_is_hurt(
    engine: Engine, world: Counting
) -> None:
    world.room = 1
    lucky, unlucky = await seated(engine), engine.admit()
    with pytest.raises(OutOfMemory) as refusal:
        await engine.builder.open(unlucky, Mailbox(KEYS), None, "", 1)
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
        await engine.builder.open(engine.admit(), Mailbox(KEYS), None, "", 1)

    def broken(slot: int, image: Tensor | None, prompt: str, seed: int) -> Tensor:
        raise RuntimeError("no world")

    world.open = broken  # type: ignore[method-assign]
    await engine.probe()
    assert engine.trouble
    assert engine.slots_free == 1
