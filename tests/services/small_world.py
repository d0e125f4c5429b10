"""A world in six lines, and a clock that only moves when it is told to: what the engine's tests drive."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any

import torch
from torch import Tensor

from services.engine.engine import Engine
from services.engine.mailbox import Mailbox
from services.engine.residence import Residence

KEYS = ("left", "right")
PERIOD_S = 4 / 24


class Counting:
    """A world in six lines: a latent is how old its session is, and whether "right" is held."""

    def __init__(self, slots: int = 2) -> None:
        self.slots, self.ages, self.fails = slots, dict[int, int](), False
        self.room = slots  # for how many sessions there is memory
        self.window = 2

    def open(self, slot: int, image: Tensor | None, prompt: str, seed: int) -> Tensor:
        assert slot not in self.ages
        if len(self.ages) == self.room:
            raise MemoryError
        self.ages[slot] = 0
        return torch.zeros(1, 1, 2)

    def step(self, controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        if self.fails:
            raise RuntimeError("out of dreams")
        if len(controls) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        for slot in controls:
            self.ages[slot] += 1
        return {slot: torch.tensor([[[self.ages[slot], held[0, 1]]]]) for slot, held in controls.items()}

    def set_prompt(self, slot: int, prompt: str) -> None: ...

    def resume(self, slot: int, past: Any, prompt: str, seed: int) -> None: ...

    def extend(self, slot: int, past: Any) -> None: ...

    def close(self, slot: int) -> None:
        self.ages.pop(slot, None)


class AtOnce(Executor):
    """Runs each call when it is submitted."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Clock:
    """Seconds that pass only in `sleep`, and where a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


async def seated(engine: Engine, credits: int = 100) -> Residence:
    residence = engine.admit()
    await engine.builder.open(residence, Mailbox(KEYS), None, "", 1)
    residence.grant(credits, engine.clock())
    assert (await taken(residence)) == (0, 0.0)
    return residence


async def taken(residence: Residence) -> tuple[int, float]:
    """Index of the next latent, and whether "right" was held."""
    made = await asyncio.wait_for(residence.take(), 10)
    assert made is not None
    return made.index, float(made.latent.flatten()[1])
