"""How refusals are held back from who asks again at once."""

import asyncio
import time
from collections.abc import Awaitable, Iterable

from livevideo.v1.session_pb2 import OpenRequest
from services import errors
from services.sessions.brake import Brake
from tests.services.asking import Sessions, refused
from tests.services.small_world import Clock


def asked(brake: Brake, clock: Clock, tenant: str, seconds: float, askers: int) -> int:
    """How often `askers` are refused in that time, who each ask again as soon as they have their answer."""
    clock.now_s += 60.0
    ends_s, due_s, answers = clock() + seconds, [clock()] * askers, 0
    while (now_s := min(due_s)) < ends_s:
        clock.now_s = now_s
        due_s[due_s.index(now_s)] = now_s + 0.001 + brake.wait_s(tenant)
        answers += 1
    return answers


def test_a_flood_is_answered_at_the_pace_that_is_set() -> None:
    clock = Clock()
    assert 100 <= asked(Brake(10.0, clock), clock, "loud", seconds=10.0, askers=5) <= 115


def test_nobody_waits_longer_than_two_seconds() -> None:
    clock = Clock()
    clock.now_s = 60.0
    brake = Brake(10.0, clock)
    assert max(brake.wait_s("loud") for _ in range(1000)) == 2.0


def test_one_tenants_flood_does_not_hold_up_anothers_refusals() -> None:
    clock = Clock()
    clock.now_s = 60.0
    brake = Brake(10.0, clock)
    for _ in range(1000):
        brake.wait_s("loud")
    assert brake.wait_s("quiet") == 0.0


def test_who_has_stopped_is_answered_at_once_again() -> None:
    clock = Clock()
    clock.now_s = 60.0
    brake = Brake(10.0, clock)
    for _ in range(1000):
        brake.wait_s("loud")
    clock.now_s += 3.0
    assert [brake.wait_s("loud") for _ in range(10)] == [0.0] * 10
    assert brake.wait_s("loud") > 0


async def took_s(refusals: Iterable[Awaitable[errors.ServiceError]]) -> float:
    """How long it took to be refused so often at once, for want of an engine."""
    begun_s = time.monotonic()
    assert {type(refusal) for refusal in await asyncio.gather(*refusals)} == {errors.NoEngine}
    return time.monotonic() - begun_s


async def test_a_refusal_that_was_held_back_says_the_same(session_stub: Sessions) -> None:
    """Ten come at once, the others a tenth of a second apart."""
    assert await took_s(refused(session_stub.Open(OpenRequest(model="none"))) for _ in range(20)) > 0.8


async def test_who_takes_other_names_is_one_and_the_same(session_stub: Sessions) -> None:
    """Where nobody is asked for a key."""
    named = (OpenRequest(model="none", tenant=f"name-{number}") for number in range(20))
    assert await took_s(refused(session_stub.Wait(each).read()) for each in named) > 0.8
