"""The engine's deployment in a process of its own, for those who do not want Ray in theirs."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.errors import NoCluster, ServiceError
from services.settings import settings_to_env

_STOP_S = 45.0  # replicas drain, then Serve and Ray end


@asynccontextmanager
async def deployed(*settings: object, **chosen: object) -> AsyncIterator[asyncio.subprocess.Process]:
    """`services.engine.deployment` for as long as the block lasts, and no longer than this process lives.

    settings: dataclasses that it reads from its environment; chosen: single ones. Raises NoCluster where Ray
    is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise NoCluster(
            "engines on Ray need the package ray, which is not installed; make play RAY=1 installs it, and so"
            f" does: {sys.executable} -m pip install '.[ray]'"
        )
    given: dict[str, str] = {}
    for each in settings:
        given |= settings_to_env(each)
    given |= {name.upper(): str(value) for name, value in {**chosen, "ends_with_stdin": True}.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.engine.deployment"),
        stdin=asyncio.subprocess.PIPE,  # its end is noticed there, also when this process is killed
        env={**_inherited(), **given},
        start_new_session=True,  # Ctrl-C is for this process, which then ends that one
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _inherited() -> dict[str, str]:
    """The environment, but for what lets *sessions* into Redis: an engine has no business there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}


async def until_ended(process: asyncio.subprocess.Process) -> None:
    """Raises a ServiceError when the deployment ends before it was told to."""
    raise ServiceError(f"the engine's deployment ended with {await process.wait()}; what it said is above")
