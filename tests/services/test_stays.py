"""Who stays in an engine, who takes whose place, and what is kept of those who have left."""

import asyncio

import pytest

from livevideo.v1.engine_pb2 import Latent
from services.engine.residence import Residence
from services.engine.stays import Stay, Stays
from services.errors import SeatTaken, Superseded
from services.trail import Trail
from tests.services.small_world import Clock

NAME = "road-1"


def stays_of(clock: Clock, silence_s: float = 0.5) -> Stays:
    return Stays(silence_s=silence_s, kept_s=30.0, most_kept=2, clock=clock)


def entered(stays: Stays, name: str = NAME, epoch: int = 1) -> Stay:
    stay = stays.enter(name, Residence(0, 0, 0.0, lambda residence: None))
    stay.epoch = epoch
    stay.trail = Trail(4, [Latent(index=7)])
    return stay


async def test_a_viewer_who_comes_while_another_one_is_alive_is_refused(clock: Clock) -> None:
    stays = stays_of(clock, silence_s=30.0)
    stay = entered(stays)
    coming = asyncio.create_task(stays.make_way(NAME))
    await asyncio.sleep(0)
    stay.credited(clock())
    with pytest.raises(SeatTaken, match="has a viewer already"):
        await asyncio.wait_for(coming, 20)


async def test_a_viewer_who_comes_takes_the_seat_of_one_that_is_silent(clock: Clock) -> None:
    stays = stays_of(clock)
    stay = entered(stays)
    clock.now_s += 1.0
    await asyncio.wait_for(stays.make_way(NAME), 20)
    with pytest.raises(Superseded):
        await stay.residence.take()
    trail = stays.trail(NAME, epoch=1)
    assert trail is not None
    assert trail.next_index == 8
    new = entered(stays)
    stays.leave(stay)  # late, as its call ends
    assert len(stays) == 1
    stays.leave(new)
    assert len(stays) == 0


async def test_a_viewer_whose_seat_is_being_left_waits_for_that_and_no_longer(clock: Clock) -> None:
    stays = stays_of(clock, silence_s=30.0)
    stay = entered(stays)
    coming = asyncio.create_task(stays.make_way(NAME))
    await asyncio.sleep(0)
    assert not coming.done()
    stays.leave(stay)
    await asyncio.wait_for(coming, 20)
    assert len(stays) == 0


async def test_latents_are_kept_for_their_epoch_for_a_while_and_for_so_many(clock: Clock) -> None:
    stays = stays_of(clock)
    stays.leave(entered(stays, epoch=3))
    assert stays.trail(NAME, epoch=3) is not None
    assert stays.trail(NAME, epoch=4) is None, "somebody else has played since"
    for name in ("road-2", "road-3"):
        stays.leave(entered(stays, name))
    assert stays.trail(NAME, epoch=3) is None
    assert stays.trail("road-2", epoch=1) is not None
    clock.now_s += 31.0
    assert stays.trail("road-3", epoch=1) is None


async def test_one_that_never_played_leaves_nothing_and_hides_nothing(clock: Clock) -> None:
    stays = stays_of(clock)
    stays.leave(entered(stays))
    stays.leave(stays.enter(NAME, Residence(0, 0, 0.0, lambda residence: None)))
    assert stays.trail(NAME, epoch=1) is not None
    await asyncio.wait_for(stays.until_empty(), 20)
