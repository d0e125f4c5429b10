"""Clients as programs of their own, in front of services that run here."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0  # on a busy machine
# What examples/cpp is built with, as .ci/run installs it on Debian.
TOOLS = ("make", "g++", "pkg-config", "protoc", "grpc_cpp_plugin")


@dataclass(frozen=True)
class Ended:
    """A program that has ended, and what it said."""

    code: int
    out: str
    err: str


async def run(
    *words: str | Path,
    variables: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = lambda line: None,
    until: str | None = None,
) -> Ended:
    """Runs a program to its end, in no folder of ours. variables: its environment, beside PATH and HOME.
    on_line: told each line of its output when it is said. until: its input ends when a line begins so."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in words),
        stdin=asyncio.subprocess.DEVNULL if until is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env={**kept, **(variables or {})},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            complaining = asyncio.create_task(process.stderr.read())
            async for line in process.stdout:
                said.append(line.decode())
                on_line(said[-1])
                if until is not None and process.stdin is not None and said[-1].startswith(until):
                    process.stdin.close()
            err = await complaining
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode or 0, "".join(said), err.decode())


def python_player() -> tuple[str, ...]:
    """The Python client's program, as it is in the sources."""
    paths = f"{ROOT / 'libs/client/src'}:{ROOT / 'gen'}"
    return ("env", f"PYTHONPATH={paths}", sys.executable, "-m", "livevideo_client")


def missing_for_cpp() -> str:
    """What examples/cpp needs and this machine has not; empty: it can be built."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if (
        not missing
        and subprocess.run(("pkg-config", "--exists", "grpc++", "protobuf"), check=False).returncode
    ):
        missing = ["libgrpc++-dev"]
    return ", ".join(missing)


def cpp_player() -> tuple[str, ...]:
    """examples/cpp, built where its sources are newer. Raises CalledProcessError with what make said."""
    return _made("play")


def cpp_steerer() -> tuple[str, ...]:
    """tests/client/steer.cpp, built like it; what to say: an address, and how many controls at once."""
    return _made("steer", f"VPATH={ROOT / 'tests/client'}", "CPPFLAGS=-I.")


def _made(program: str, *variables: str) -> tuple[str, ...]:
    # What is run a few times need not be optimised; it compiles in two thirds of the time.
    words = ("make", "--silent", "-C", str(ROOT / "examples/cpp"), "CXXFLAGS=-O0", *variables)
    subprocess.run((*words, f"../../out/cpp/{program}"), check=True, timeout=1200)
    return (str(ROOT / "out/cpp" / program),)
