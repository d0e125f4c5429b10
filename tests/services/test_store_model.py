"""SessionStore against a plain Python model of it: any row of calls, on Valkey and on Debian's Redis."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.services.servers import REDIS, VALKEY, Server
from tests.services.store_model import StoreAgainstModel


@pytest.fixture(
    params=[
        pytest.param(REDIS, marks=pytest.mark.skipif(not REDIS, reason="redis-server is not installed")),
        VALKEY,
    ],
    ids=["redis", "valkey"],
)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Server(request.param, tmp_path_factory.mktemp("server"))
    with asyncio.Runner() as runner:
        yield runner.run(server.start())
        runner.run(server.kill())


@pytest.mark.slow
def test_a_store_does_what_its_model_does(url: str) -> None:
    run_state_machine_as_test(
        lambda: StoreAgainstModel(url),  # type: ignore[arg-type]
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[*HealthCheck],
            # A failure is told as it was found: making it shorter takes minutes.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )
