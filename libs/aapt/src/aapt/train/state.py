"""A run on disk: state.pt, from which it goes on bit for bit, and weights.pt, the moving average."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from aapt.checkpoint import BadCheckpoint, fill
from aapt.train.sharding import Ranks, load_whole, load_whole_optimizer

LATER = {"by_sight": "0.0"}  # options that came when kinds were noted already, and what was so before


@dataclass
class RunState:
    """All that changes while a stage trains.

    kind: stage, preset, optimizer and all that a run is not to change half way; a run of another kind is not
      gone on with.
    saved_step: the newest that is on disk; None: nothing is.
    """

    kind: dict[str, str]
    networks: dict[str, nn.Module]
    average: AveragedModel
    optimizers: Sequence[Sequence[Optimizer]]
    step: int = 0
    smooth: dict[str, float] = field(default_factory=dict)
    saved_step: int | None = None

    def save(self, run: Path, ranks: Ranks) -> None:
        """Each file whole or not at all; the tensors are whole too, whatever ranks share them."""
        state = {
            "step": self.step,
            "kind": self.kind,
            "smooth": self.smooth,
            "networks": {name: ranks.whole(network.state_dict()) for name, network in self.networks.items()},
            "average": ranks.whole(self.average.state_dict()),
            "optimizers": [[ranks.whole(o.state_dict()) for o in each] for each in self.optimizers],
        }
        weights = ranks.whole(self.average.module.state_dict())
        self.saved_step = self.step
        if not ranks.is_first:
            return
        # The state comes last: where it is, the weights that belong to it are.
        write(weights, run / "weights.pt")
        write(state, run / "state.pt")

    def restore(self, run: Path) -> None:
        """Go on from what was saved in `run`, if anything. Raises BadCheckpoint where it is another kind."""
        path = run / "state.pt"
        if not path.exists():
            return
        state = _read(path)
        _check_kind(path, state, self.kind)
        for name, network in self.networks.items():
            load_whole(network, state["networks"][name])
        load_whole(self.average, state["average"])
        for each, stored in zip(self.optimizers, state["optimizers"], strict=True):
            for optimizer, content in zip(each, stored, strict=True):
                load_whole_optimizer(optimizer, content)
        self.step, self.smooth = state["step"], state.get("smooth", {})
        self.saved_step = self.step


def write(content: object, path: Path) -> None:
    """Save whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    torch.save(content, partial)
    partial.replace(path)


def check_kind(run: Path, kind: Mapping[str, str]) -> None:
    """Raises BadCheckpoint where what is saved in `run` is of another kind, as `RunState.restore` does."""
    path = run / "state.pt"
    if path.exists():
        _check_kind(path, _read(path), kind)


def load_weights(
    network: nn.Module, run: Path, stages: Sequence[str], wanted: Mapping[str, str] | None = None
) -> None:
    """What came of a run of one of `stages`. Raises BadCheckpoint, naming the file and what is wrong.

    wanted: what else its kind must be, where that is known.
    """
    path = run / "weights.pt"
    if not path.exists():
        raise BadCheckpoint(f"{path} is missing; name the run folder of a stage that has saved")
    if (run / "state.pt").exists():
        kind = _read(run / "state.pt").get("kind", {})
        stage = kind.get("stage")
        if stage and stage not in stages:
            raise BadCheckpoint(f"{run} is a run of {stage}; this wants one of {', '.join(stages)}")
        for what, value in (wanted or {}).items():
            if kind.get(what, value) != value:
                raise BadCheckpoint(
                    f"{run} was trained with {what} {kind[what]!r}, this wants {what} {value!r};"
                    " name runs that belong together"
                )
    fill(network, _read(path), path)


def load_players(networks: dict[str, nn.Module], run: Path) -> None:
    """All networks of a run as they were, not their averages. Raises BadCheckpoint where one is not there."""
    path = run / "state.pt"
    if not path.exists():
        raise BadCheckpoint(f"{path} is missing; name the run folder of an adversarial stage, or --adapted")
    stored = _read(path)["networks"]
    if missing := networks.keys() - stored.keys():
        raise BadCheckpoint(
            f"{path} holds no {min(missing)}, only {', '.join(stored)}: it is of another stage;"
            " name a run of stage 3, or --adapted for a new judge"
        )
    for name, network in networks.items():
        fill(network, stored[name], path)


def _check_kind(path: Path, state: Mapping[str, Any], kind: Mapping[str, str]) -> None:
    # What an older version did not note is taken to be as it is now, but for what it could not do.
    theirs = {what: value for what, value in LATER.items() if what in kind} | state.get("kind", {})
    differing = [what for what in theirs if theirs[what] != kind.get(what)]
    if "stage" in differing:
        differing = ["stage"]  # the other options of another stage tell nobody more
    if differing:
        was = ", ".join(f"{what} {theirs[what]!r}" for what in differing)
        now = ", ".join(f"{what} {kind.get(what)!r}" for what in differing)
        raise BadCheckpoint(
            f"{path} was saved by {was}, this is {now}; begin as it was begun, or choose another --run"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has many ways to say that a file is damaged
        raise BadCheckpoint(f"{path} cannot be read ({error}); delete it, or fetch it again") from None
    return content
