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


async def until(fleet: Fleet, answer: type, seats: bool) -> None:
    """A newcomer gets such an answer, and the gauge says whether there are seats."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if isinstance(await asked(fleet), answer) and bool(free()) is seats:
                return
            await asyncio.sleep(0.1)


async def test_an_engine_with_a_bad_gpu_seats_nobody_until_it_is_sound(fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.gpus.trouble = lambda: "GPU 0 is lost"  # type: ignore[method-assign]
    await until(fleet, EngineFull, seats=False)
    for engine in fleet.engines:
        engine.gpus.trouble = lambda: None  # type: ignore[method-assign]
    await until(fleet, Session, seats=True)
