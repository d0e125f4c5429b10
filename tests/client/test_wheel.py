"""The client as others install it: a wheel, in an environment of its own, without torch and without us."""

import asyncio
import subprocess
import sys
import venv
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services import together
from tests.client.programs import ROOT, run

Start = Callable[..., Awaitable[together.Addresses]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left behind in the sources."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for part in ("libs/client", "gen/livevideo"):
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(("cp", "-r", ROOT / part, copy / part), check=True)
    wheel = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out)
    subprocess.run(
        (sys.executable, "-m", *wheel, copy / "libs/client"), check=True, capture_output=True, timeout=300
    )
    (built,) = out.iterdir()
    return built


def test_the_wheel_has_the_messages_and_needs_grpc_and_protobuf_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        told = content.read(metadata).decode().splitlines()
    assert {f"livevideo/v1/{each}_pb2_grpc.py" for each in ("session", "control", "frame")} <= names
    assert "livevideo_client/py.typed" in names
    assert not [name for name in names if name.startswith(("services", "aapt"))]
    needed = [line.split()[1] for line in told if line.startswith("Requires-Dist")]
    assert sorted(each.split(">")[0] for each in needed) == ["grpcio", "protobuf"]


async def test_a_stranger_installs_it_and_plays(wheel: Path, start: Start, tmp_path: Path) -> None:
    environment = tmp_path / "stranger"
    await asyncio.to_thread(venv.create, environment)
    python = environment / "bin/python"
    install = (sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install", str(wheel))
    await asyncio.to_thread(subprocess.run, install, check=True, capture_output=True, timeout=300)
    addresses = await start()
    ended = await run(
        python, "-m", "livevideo_client", "--at", addresses.grpc, "--hold", "up", "--seconds", "2"
    )
    assert ended.code == 0, ended
    assert "the keys are obeyed from frame" in ended.out
    found = await run(python, "-c", "import livevideo_client, sys; print('torch' in sys.modules)")
    assert found.out.strip() == "False"
    assert (await run(python, "-c", "import services")).code != 0
