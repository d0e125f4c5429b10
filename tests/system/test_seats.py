"""An engine offers seats, and says how many are free, by what it can play; not by the slots of its cache."""

import asyncio

import grpc
from prometheus_client import REGISTRY

from livevideo.v1.session_pb2 import OpenRequest, Session
from services.errors import EngineFull
from services.relay import refusal_in
from tests.system.conftest import DEADLINE_S
from tests.system.fleet import Fleet


async def asked(fleet: Fleet) -> Session | Exception | None:
    try:
        return await fleet.sessions.Open(OpenRequest())
    except grpc.aio.AioRpcError as error:
        return refusal_in(error)


def free() -> float | None:
    return REGISTRY.get_sample_value("seats_free", {"model": "debug"})


async def settled(fleet: Fleet, answer: type) -> float | None:
    """How many seats are free once a newcomer gets such an answer; engines speak once a second."""
    async with asyncio.timeout(DEADLINE_S):
        while not isinstance(await asked(fleet), answer) or bool(free()) is (answer is EngineFull):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return free()


async def test_an_engine_with_a_bad_gpu_seats_nobody_until_it_is_sound(fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.gpus.trouble = lambda: "GPU 0 is lost"  # type: ignore[method-assign]
    assert await settled(fleet, EngineFull) == 0
    for engine in fleet.engines:
        engine.gpus.trouble = lambda: None  # type: ignore[method-assign]
    assert await settled(fleet, Session) == 2
