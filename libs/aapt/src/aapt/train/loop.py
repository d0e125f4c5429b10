"""The training loop that every stage shares: steps, moving average, checkpoints, logs, pictures.

A step draws everything random from a generator seeded by (seed, step), so a run that was stopped and resumed
takes the very steps of a run that was not.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from aapt.train.chance import device_of
from aapt.train.log import RunLog
from aapt.train.observe import Observed, observed
from aapt.train.ranges import ABOVE_0, ANY, COUNT, check_ranges
from aapt.train.sharding import Ranks, norm_of
from aapt.train.state import RunState

LOG_EVERY = 20  # steps
OBSERVE_EVERY = 100  # steps from one look inside the networks to the next
_TOTALS = ("loss", "gradient_norm")  # named after the terms that spoil them


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast a stage learns."""

    steps: int
    learning_rate: float
    warmup_steps: int = 50
    final_rate: float = 0.05  # of the learning rate, at the end of the cosine
    weight_decay: float = 0.01
    clip_norm: float = 1.0  # of a network's gradient; infinity: it is never clipped
    ema_decay: float = 0.995
    evaluate_every: int = 200
    save_every_s: float = 180.0
    seed: int = 0
    bfloat16: bool = False  # multiply in bfloat16; weights, sums and losses stay in float32
    optimizer: str = "adamw"  # or "muon" for the matrices of the blocks, or "rmsprop" (stage 3)
    kind: Mapping[str, str] = field(default_factory=dict)  # stage, preset and so on: see `RunState`
    is_compiled: bool = False  # whether networks were compiled

    def __post_init__(self) -> None:
        above_0 = dict.fromkeys(("learning_rate", "clip_norm"), ABOVE_0)
        check_ranges(self, steps=COUNT, evaluate_every=COUNT, warmup_steps=ANY, **above_0)

    @property
    def whole_kind(self) -> dict[str, str]:
        """All that a run is not to change half way."""
        return {**self.kind, "optimizer": self.optimizer, "seed": str(self.seed)}


Drawn = TypeVar("Drawn")  # what a step learns from: clips, or what the student has made of them


@dataclass(frozen=True)
class Turn(Generic[Drawn]):
    """A network's turn within a step.

    learn: adds gradients to the network from what was drawn, all randomness from the generator; returns
      numbers to log, "loss" among them.
    rate: of the learning rate.
    first_step: the turn is left out before.
    """

    name: str
    network: nn.Module
    learn: Callable[[Drawn, torch.Generator], dict[str, float]]
    rate: float = 1.0
    first_step: int = 0


@runtime_checkable
class Stage(Protocol[Drawn]):
    """One stage of the recipe: what is trained, what it is told, how it is judged."""

    @property
    def model(self) -> nn.Module:
        """What comes of the stage: its moving average is kept and judged."""
        ...

    @property
    def turns(self) -> Sequence[Turn[Drawn]]:
        """Who learns in a step, in this order."""
        ...

    def draw(self, generator: torch.Generator) -> Drawn:
        """What all turns of a step learn from."""
        ...

    def evaluate(self, model: nn.Module, folder: Path | None, step: int) -> dict[str, float]:
        """Held-out numbers of `model` (the moving average); pictures go into `folder`, if there is one."""
        ...


def train(stage: Stage[Drawn], config: LoopConfig, run: Path, ranks: Ranks | None = None) -> None:
    """Train until `config.steps`, going on from the last checkpoint in `run` if there is one.

    Leaves in `run`: state.pt (to resume), weights.pt (the moving average), log.jsonl and its like for
    TensorBoard, and pictures. SIGTERM and Ctrl-C finish the step and save; the second one does not wait.

    ranks: the processes that train together; by default all of the process group, if there is one.
    Raises FloatingPointError, naming the term, before a step that is not finite, and BadCheckpoint where
    `run` is one of another stage or preset.
    """
    ranks = Ranks() if ranks is None else ranks
    run.mkdir(parents=True, exist_ok=True)
    state = _begin(stage, config, ranks)
    state.restore(run)
    saved_at = time.monotonic()
    with (
        RunLog(run if ranks.is_first else None, state.step) as log,
        _Interrupts() as interrupts,
        tqdm(total=config.steps, initial=state.step, desc=run.name, disable=not ranks.is_first) as progress,
    ):
        while state.step < config.steps:
            numbers = _step(stage, config, state, ranks, log)
            state.step += 1
            for name, value in numbers.items():
                state.smooth[name] = 0.95 * state.smooth.get(name, value) + 0.05 * value
            progress.update()
            progress.set_postfix({k: f"{v:.4f}" for k, v in state.smooth.items() if k.endswith("loss")})
            if state.step % LOG_EVERY == 0:
                log.write(state.step, {k: round(v, 6) for k, v in state.smooth.items()})
            if state.step % config.evaluate_every == 0 or state.step == config.steps:
                ranks.gather(state.average.module)
                folder = run if ranks.is_first else None
                held_out = stage.evaluate(state.average.module, folder, state.step)
                ranks.scatter(state.average.module)
                log.write(state.step, {"held_out": held_out})
                progress.write(f"step {state.step} held out: {held_out}")
            is_due, is_stopping = ranks.any(
                time.monotonic() - saved_at > config.save_every_s, interrupts.is_stopping
            )
            if is_due or is_stopping or state.step == config.steps:
                state.save(run, ranks)
                saved_at = time.monotonic()
            if is_stopping:
                progress.write(f"stopped at step {state.step}; the same command goes on from there")
                return


def step_generator(seed: int, step: int, row: int = 0) -> torch.Generator:
    """All randomness of a step, for one row of ranks."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step + (row << 40))


def _begin(stage: Stage[Drawn], config: LoopConfig, ranks: Ranks) -> RunState:
    model, turns = stage.model, stage.turns
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=False)
    ranks.shard(average.module, stays_gathered=True)
    for turn in turns:
        ranks.shard(turn.network, stays_gathered=turn.network is model)
    return RunState(
        config.whole_kind,
        {turn.name: turn.network for turn in turns},
        average,
        [_optimizers(turn.network, config) for turn in turns],
    )


def _step(
    stage: Stage[Drawn], config: LoopConfig, state: RunState, ranks: Ranks, log: RunLog
) -> dict[str, float]:
    generator = step_generator(config.seed, state.step, ranks.row)
    # Played latent by latent, and not equally often on all ranks: it must not ask the others each time.
    ranks.gather(stage.model)
    with _precision(stage.model, config):
        drawn = stage.draw(generator)
    numbers: dict[str, float] = {}
    turns = stage.turns
    for turn, optimizers in zip(turns, state.optimizers, strict=True):
        if state.step < turn.first_step:
            continue
        looking: AbstractContextManager[Observed] = nullcontext({})
        if state.step % OBSERVE_EVERY == 0:
            looking = observed(turn.network, ranks, is_compiled=config.is_compiled)
        with looking as inside:
            taken = _learn(turn, optimizers, drawn, generator, config, ranks)
        taken = _move(turn, optimizers, taken, state, config)
        if inside:
            log.write(state.step + 1, {"observed": {turn.name: inside}})
        prefix = "" if len(turns) == 1 else f"{turn.name}_"
        numbers |= {prefix + name: value for name, value in taken.items()}
    ranks.scatter(stage.model)  # it is gathered still where its turn was left out
    state.average.update_parameters(stage.model)
    return numbers


def _learn(
    turn: Turn[Drawn],
    optimizers: Sequence[Optimizer],
    drawn: Drawn,
    generator: torch.Generator,
    config: LoopConfig,
    ranks: Ranks,
) -> dict[str, float]:
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    with _precision(turn.network, config):
        return ranks.mean(turn.learn(drawn, generator))


def _move(
    turn: Turn[Drawn],
    optimizers: Sequence[Optimizer],
    numbers: dict[str, float],
    state: RunState,
    config: LoopConfig,
) -> dict[str, float]:
    learning = [p for p in turn.network.parameters() if p.grad is not None]
    norm = norm_of([p.grad for p in learning if p.grad is not None])
    numbers = {**numbers, "gradient_norm": norm}
    broken = {name: value for name, value in numbers.items() if not math.isfinite(value)}
    if broken:
        terms = ", ".join(f"{name} is {broken[name]}" for name in sorted(broken, key=_TOTALS.__contains__))
        left = "nothing is saved yet: begin again with a lower learning rate"
        if state.saved_step is not None:
            left = f"step {state.saved_step} is saved: a lower learning rate goes on from there"
        raise FloatingPointError(f"step {state.step}: {turn.name} {terms}; it has not moved, and {left}")
    nn.utils.clip_grads_with_norm_(learning, config.clip_norm, torch.tensor(norm))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * turn.rate * _rate(state.step - turn.first_step, config)
        optimizer.step()
    return numbers


class _Interrupts:
    """SIGTERM and Ctrl-C are remembered, so that a step is finished and saved; a second one acts at once."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interrupts":
        self._before = {n: signal.signal(n, self._remember) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: object) -> None:
        self.is_stopping = True
        signal.signal(number, self._before[number])


def _precision(network: nn.Module, config: LoopConfig) -> torch.autocast:
    device = device_of(network).type
    # Casts of weights that are made without gradients must not serve those that want them.
    return torch.autocast(device, torch.bfloat16, enabled=config.bfloat16, cache_enabled=False)


def _optimizers(network: nn.Module, config: LoopConfig) -> list[Optimizer]:
    learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "rmsprop":
        return [torch.optim.RMSprop(learning.values(), lr=rate, alpha=0.9, weight_decay=decay)]
    is_muon = config.optimizer == "muon"
    matrices = {n for n, p in learning.items() if is_muon and "blocks." in n and p.ndim == 2}
    rest = [p for name, p in learning.items() if name not in matrices]
    optimizers: list[Optimizer] = [
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    ]
    if matrices:
        chosen = [p for name, p in learning.items() if name in matrices]
        # Scaled so that a learning rate means what it means to AdamW.
        optimizers.append(
            torch.optim.Muon(chosen, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def _rate(step: int, config: LoopConfig) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
