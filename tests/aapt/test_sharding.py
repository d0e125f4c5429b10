"""Two processes that share a network learn what one process learns from the clips of both."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from aapt.train.adapt import Adapt, AdaptConfig
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import Distill, DistillConfig
from aapt.train.loop import LoopConfig, Stage, Turn, step_generator, train
from aapt.train.sharding import Ranks
from tests.aapt.players import noise_clips, restless
from tests.aapt.ranks import gather_from_ranks

pytestmark = pytest.mark.slow
CLOSE = {"adapt": 1e-5, "distill": 1e-3, "adversarial": 1e-5}  # distillation multiplies in bfloat16
STEPS = 3
NAMES = tuple(CLOSE)


def stage(name: str, ranks: Ranks, micro_clips: int = 0) -> Stage[Any]:
    model = restless(ranks.parallel)
    model.dit.is_checkpointed = name == "adapt"
    clips = noise_clips(model)
    if name == "adapt":
        # How often the network is asked for its own history is drawn, and so differs between rows.
        config = AdaptConfig(clips=2, length=5, own_history=0.5, own_steps=3)
        return Adapt(model, clips, clips, config, micro_clips=micro_clips)
    if name == "distill":
        drawn = DistillConfig(clips=2, length=5, grid_steps=4)
        distill = Distill(model, clips, clips, drawn, micro_clips=micro_clips)
        ranks.shard(distill.teacher, stays_gathered=False)
        return distill
    # Whether a world is late, and whether it is driven by sight, differs between rows, too.
    played = AdversarialConfig(
        clips=2, length=5, extensions=1, late=0.5, penalty=1.0, judge_first=1, by_sight=0.5
    )
    return Adversarial(model, model.dit, clips, clips, played, sighted=clips, micro_clips=micro_clips)


def config(name: str, steps: int = STEPS) -> LoopConfig:
    optimizer = {"adapt": "muon", "distill": "adamw", "adversarial": "rmsprop"}[name]
    return LoopConfig(
        steps=steps,
        learning_rate=1e-3,
        warmup_steps=100,
        evaluate_every=99,
        optimizer=optimizer,
        kind={"stage": name},
        bfloat16=name == "distill",
    )


class Rows:
    """One process that learns from the clips of `rows` rows."""

    def __init__(self, stage: Stage[Any], rows: int) -> None:
        self.model = stage.model
        self.evaluate = stage.evaluate
        self._stage = stage
        self._rows = rows
        self._step = 0

    @property
    def turns(self) -> Sequence[Turn[Any]]:
        return [replace(turn, learn=self._all_of(turn)) for turn in self._stage.turns]

    def draw(self, generator: torch.Generator) -> Any:
        randoms = [step_generator(0, self._step, row) for row in range(self._rows)]
        self._step += 1
        return [(self._stage.draw(random), random) for random in randoms]

    def _all_of(self, turn: Turn[Any]) -> Any:
        def learn(drawn: Any, generator: torch.Generator) -> dict[str, float]:
            numbers = [turn.learn(*each) for each in drawn]
            for p in turn.network.parameters():
                if p.grad is not None:
                    p.grad /= self._rows
            return {name: sum(each[name] for each in numbers) / self._rows for name in numbers[0]}

        return learn


def on_two_ranks(folder: Path) -> dict[str, int]:
    """Trains every kind of run, and tells how many parameters this rank keeps, and how often the two have
    added up gradients."""
    kept = {}
    reduce = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
    for name in NAMES:
        for run, sequence_shards, micro_clips in (("1", 1, 0), ("2", 2, 0), ("micro", 1, 1)):
            ranks = Ranks(sequence_shards)
            learning = stage(name, ranks, micro_clips)
            with patch.object(dist, reduce, wraps=getattr(dist, reduce)) as reductions:
                train(learning, config(name), folder / f"{name}-{run}", ranks)
            kept[f"{name}-{run} reductions"] = reductions.call_count
            for turn in learning.turns:
                own = [p.to_local() for p in turn.network.parameters() if isinstance(p, DTensor)]
                kept[f"{name} {turn.name}"] = sum(p.numel() for p in own)
    return kept


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    kept = gather_from_ranks(2, on_two_ranks, folder, folder)
    for name in NAMES:
        for turn in stage(name, Ranks()).turns:
            whole = sum(p.numel() for p in turn.network.parameters())
            assert sum(rank[f"{name} {turn.name}"] for rank in kept) == whole
            assert all(rank[f"{name} {turn.name}"] < 0.6 * whole for rank in kept)
    return folder


def state(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(run / "state.pt", weights_only=True)
    for name in ("judge.0.bias", "judge.1.bias"):
        # Only differences of logits count, so these learn from rounding alone.
        loaded["networks"].get("discriminator", {}).pop(name, None)
    return loaded


def assert_close(found: object, expected: object, close: float, at: str = "state") -> None:
    assert type(found) is type(expected), at
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key in expected:
            assert_close(found[key], expected[key], close, f"{at} {key}")
    elif isinstance(expected, list):
        assert isinstance(found, list)
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, other, close, f"{at} {i}")
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, atol=close, rtol=1e-3, msg=at)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3), at
    else:
        assert found == expected, at


@pytest.mark.parametrize("name", NAMES)
def test_two_rows_learn_what_one_process_learns_from_the_clips_of_both(
    runs: Path, name: str, tmp_path: Path
) -> None:
    train(Rows(stage(name, Ranks()), rows=2), config(name, STEPS), tmp_path)
    assert_close(state(runs / f"{name}-1"), state(tmp_path), CLOSE[name])


@pytest.mark.parametrize("name", NAMES)
def test_two_ranks_that_share_every_clip_learn_what_one_process_learns(
    runs: Path, name: str, tmp_path: Path
) -> None:
    train(stage(name, Ranks()), config(name, STEPS), tmp_path)
    assert_close(state(runs / f"{name}-2"), state(tmp_path), CLOSE[name])
    assert len(list((runs / f"{name}-2").glob("sheet-*.png"))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_what_two_saved_one_goes_on_with(runs: Path, name: str, tmp_path: Path) -> None:
    for source in ("two", "one"):
        run = tmp_path / source
        if source == "one":
            train(stage(name, Ranks()), config(name, STEPS), run)
        else:
            run.mkdir()
            (run / "state.pt").write_bytes((runs / f"{name}-2" / "state.pt").read_bytes())
        train(stage(name, Ranks()), config(name, STEPS + 2), run)
    assert state(tmp_path / "two")["step"] == STEPS + 2
    assert_close(state(tmp_path / "two"), state(tmp_path / "one"), CLOSE[name])


@pytest.mark.parametrize("name", NAMES)
def test_ranks_that_pass_one_clip_at_a_time_learn_the_same_and_reduce_gradients_as_often(
    runs: Path, name: str
) -> None:
    assert_close(state(runs / f"{name}-micro"), state(runs / f"{name}-1"), CLOSE[name])
    for rank in range(2):
        counts = torch.load(runs / f"rank-{rank}.pt", weights_only=True)
        assert counts[f"{name}-micro reductions"] == counts[f"{name}-1 reductions"] > 0


def test_processes_that_do_not_divide_into_rows_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="1 processes do not divide into rows of 2"):
        Ranks(sequence_shards=2)
