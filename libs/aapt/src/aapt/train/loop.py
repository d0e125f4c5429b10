"""The training loop that every stage shares: steps, moving average, checkpoints, logs, pictures.

A step draws everything random from a generator seeded by (seed, step), so a run that was stopped and resumed
takes the very steps of a run that was not.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast a stage learns."""

    steps: int
    learning_rate: float
    warmup_steps: int = 50
    final_rate: float = 0.05  # of the learning rate, at the end of the cosine
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.995
    evaluate_every: int = 200
    save_every_s: float = 180.0
    seed: int = 0
    bfloat16: bool = False  # multiply in bfloat16; weights, sums and losses stay in float32
    optimizer: str = "adamw"  # or "muon" for the matrices of the blocks, or "rmsprop" (stage 3)


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AMX): ten times faster than float32.

    A processor that emulates it is seventy times slower.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


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

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        """Held-out numbers of `model` (the moving average); pictures go into `folder`."""
        ...


def train(stage: Stage[Drawn], config: LoopConfig, run: Path) -> None:
    """Train until `config.steps`, going on from the last checkpoint in `run` if there is one.

    Leaves in `run`: state.pt (to resume), weights.pt (the moving average), log.jsonl, and pictures.
    SIGTERM and Ctrl-C save first.
    """
    run.mkdir(parents=True, exist_ok=True)
    model = stage.model
    turns = stage.turns
    optimizers = [_optimizers(turn.network, config) for turn in turns]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=False)
    first_step = _restore(run, turns, average, optimizers)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    saved_at = time.monotonic()
    smooth: dict[str, float] = {}
    with (
        (run / "log.jsonl").open("a") as log,
        tqdm(total=config.steps, initial=first_step, desc=run.name) as progress,
    ):
        step = first_step
        try:
            for step in range(first_step, config.steps):
                generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
                with _precision(config):
                    drawn = stage.draw(generator)
                for turn, each in zip(turns, optimizers, strict=True):
                    if step < turn.first_step:
                        continue
                    prefix = "" if len(turns) == 1 else f"{turn.name}_"
                    for name, value in _take_turn(turn, each, config, step, drawn, generator).items():
                        name = prefix + name
                        smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
                average.update_parameters(model)
                progress.update()
                progress.set_postfix({k: f"{v:.4f}" for k, v in smooth.items() if k.endswith("loss")})
                if (step + 1) % 20 == 0:
                    log.write(
                        json.dumps({"step": step + 1, **{k: round(v, 6) for k, v in smooth.items()}}) + "\n"
                    )
                    log.flush()
                if (step + 1) % config.evaluate_every == 0 or step + 1 == config.steps:
                    held_out = stage.evaluate(average.module, run, step + 1)
                    log.write(json.dumps({"step": step + 1, "held_out": held_out}) + "\n")
                    progress.write(f"step {step + 1} held out: {held_out}")
                if time.monotonic() - saved_at > config.save_every_s or stopping:
                    _save(run, turns, average, optimizers, step + 1)
                    saved_at = time.monotonic()
                if stopping:
                    return
        except KeyboardInterrupt:
            progress.write(f"stopped at step {step}; the same command goes on from there")
            _save(run, turns, average, optimizers, step)
            return
    _save(run, turns, average, optimizers, config.steps)


def _precision(config: LoopConfig) -> torch.autocast:
    # Casts of weights that are made without gradients must not serve those that want them.
    return torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16, cache_enabled=False)


def _take_turn(
    turn: Turn[Drawn],
    optimizers: list[Optimizer],
    config: LoopConfig,
    step: int,
    drawn: Drawn,
    generator: torch.Generator,
) -> dict[str, float]:
    turn.network.zero_grad(set_to_none=True)
    with _precision(config):
        numbers = turn.learn(drawn, generator)
    norm = float(nn.utils.clip_grad_norm_(turn.network.parameters(), config.clip_norm))
    if not math.isfinite(norm):
        raise FloatingPointError(f"step {step}: gradient norm is {norm}; lower the learning rate")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * turn.rate * _rate(step - turn.first_step, config)
        optimizer.step()
    return {**numbers, "gradient_norm": norm}


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


def _save(
    run: Path,
    turns: Sequence[Turn[Drawn]],
    average: AveragedModel,
    optimizers: list[list[Optimizer]],
    step: int,
) -> None:
    state = {
        "step": step,
        "networks": {turn.name: turn.network.state_dict() for turn in turns},
        "average": average.state_dict(),
        "optimizers": [[optimizer.state_dict() for optimizer in each] for each in optimizers],
    }
    for name, content in (("state.pt", state), ("weights.pt", average.module.state_dict())):
        partial = run / f"{name}.partial"
        torch.save(content, partial)
        partial.replace(run / name)


def _restore(
    run: Path, turns: Sequence[Turn[Drawn]], average: AveragedModel, optimizers: list[list[Optimizer]]
) -> int:
    if not (run / "state.pt").exists():
        return 0
    state = torch.load(run / "state.pt", weights_only=True)
    for turn in turns:
        turn.network.load_state_dict(state["networks"][turn.name])
    average.load_state_dict(state["average"])
    for each, stored in zip(optimizers, state["optimizers"], strict=True):
        for optimizer, content in zip(each, stored, strict=True):
            optimizer.load_state_dict(content)
    return int(state["step"])
