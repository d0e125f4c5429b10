"""A gang plays what one process plays; who is missing, hangs or brings another model is named."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aapt.checkpoint import save, untrained
from aapt.lines import FirstRankHangs, Line, Lines, RankLost
from aapt.presets import DEBUG
from aapt.rollout import Past, Rollout
from aapt.sharded import RanksDiffer, ShardedRollout, check_ranks
from tests.aapt.gangs import PATIENT_S, SLOTS, WIDE, Gang, Rank, gang, network

# A thread that watches must end with its gang, and not by an exception.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
CLOSE = 1e-5
NOTICED_S = 10.0  # 2 s where the machine is not busy


def played(world: Rollout | ShardedRollout) -> dict[str, Tensor]:
    """Every verb, in slots of different ages, past the window of 4 and over refusals; by name."""
    random = torch.Generator().manual_seed(3)
    held = {i: torch.randint(0, 2, (4, 4), generator=random).float() for i in range(1, 13)}
    image = torch.randint(0, 256, (WIDE.height_px, WIDE.width_px, 3), generator=random, dtype=torch.uint8)
    latents = {0: world.open(2, image, "a test", 5)}
    for i in range(1, 4):
        latents[i] = world.step({2: held[i]})[2]
    others = [world.open(0, None, "", 6)]
    for i in range(4, 10):
        made = world.step({0: held[i - 3], 2: held[i]})
        latents[i] = made[2]
        others.append(made[0])
    with pytest.raises(ValueError, match="slot 2 of 3 is not free"):
        world.open(2, None, "", 7)
    with pytest.raises(ValueError, match="slot 1 holds no session"):
        world.step({1: held[1]})
    with pytest.raises(ValueError, match="lacks latents or controls"):
        world.resume(1, Past({i: latents[i] for i in (0, 1, 5)}, held), "a test", 5)
    world.resume(1, Past({i: latents[i] for i in range(4)}, held), "a test", 5)
    world.set_prompt(0, "something else")
    resumed = []
    for i in range(4, 8):
        made = world.step({1: held[i], 0: held[i]})
        resumed.append(made[1])
        others.append(made[0])
    world.close(2)
    world.close(2)
    again = [world.open(2, None, "who comes next", 8), world.step({2: held[1]})[2]]
    assert world.step({}) == {}
    return {
        "one": torch.stack([*latents.values()]),
        "other": torch.stack(others),
        "resumed": torch.stack(resumed),
        "again": torch.stack(again),
    }


@pytest.mark.parametrize(
    "ranks", [1, 2, 3, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_gang_plays_what_one_process_plays(ranks: int, tmp_path: Path) -> None:
    alone = Rollout(network(WIDE), SLOTS)
    expected = played(alone)
    with gang(ranks, tmp_path) as several:
        found = played(several.world)
        assert several.world.slots == SLOTS
        shared = several.world.cache_bytes / ranks
        several.world.check()
        several.world.end()
        for process in several.processes:
            process.join(PATIENT_S)
            assert process.exitcode == 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=CLOSE, rtol=0, msg=name)
    assert shared < alone.cache_bytes or ranks == 1


def step(several: Gang) -> None:
    several.world.step({0: torch.zeros(4, 4)})


def check(several: Gang) -> None:
    several.world.check()
    time.sleep(0.05)


def until_noticed(ask: Callable[[Gang], None], several: Gang) -> None:
    ends_at_s = time.monotonic() + NOTICED_S
    while time.monotonic() < ends_at_s:
        ask(several)


@pytest.mark.parametrize("ask", [step, check], ids=["playing", "idle"])
@pytest.mark.parametrize(("sign", "said"), [(signal.SIGKILL, "has died"), (signal.SIGSTOP, "it hangs")])
def test_a_rank_that_dies_or_hangs_is_noticed_and_named(
    sign: signal.Signals, said: str, ask: Callable[[Gang], None], tmp_path: Path
) -> None:
    with gang(3, tmp_path, patience_s=1.2) as several:
        several.world.open(0, None, "", 1)
        for _ in range(3):
            step(several)
        struck_at_s = time.monotonic()
        os.kill(several.process_id(2), sign)
        with pytest.raises(RankLost, match=rf"rank 2 \(process {several.process_id(2)} on .*{said}") as lost:
            until_noticed(ask, several)
        print(f"noticed after {time.monotonic() - struck_at_s:.2f} s: {lost.value}")
        assert "rank 1" not in str(lost.value)
        with pytest.raises(RankLost, match="replace all 3 ranks"):
            several.world.open(1, None, "", 1)
        several.processes[0].join(NOTICED_S)  # rank 1 does not wait for a gang that is no more
        assert several.processes[0].exitcode == 1


def test_ranks_end_when_the_first_one_is_gone(tmp_path: Path) -> None:
    with gang(2, tmp_path) as several:
        several.world._lines.close()
        several.processes[0].join(NOTICED_S)
        assert several.processes[0].exitcode == 1


def test_a_first_rank_that_hangs_is_noticed_by_the_others() -> None:
    lines = Lines(2)
    line = Line(lines.address, lines.key, 1, silence_s=0.3)
    lines.connect()
    line.watch()  # and rank 0 does not
    with pytest.raises(FirstRankHangs, match=r"rank 0 has been silent for 0\.3 s"):
        line.hear()
    line.close()
    lines.close()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Rank(seed=7), r"not have the same weights: rank 0 [0-9a-f]{16}, rank 1 [0-9a-f]{16}; give all"),
        (Rank(slots=2), "not have the same slots: rank 0 3, rank 1 2"),
        (Rank(preset=DEBUG), "not have the same preset: rank 0 wide, rank 1 debug"),
    ],
    ids=["weights", "slots", "preset"],
)
def test_a_rank_that_brings_something_else_is_refused_with_what_it_brought(
    other: Rank, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RanksDiffer, match=message), gang(2, tmp_path, {1: other}):
        pass


def test_a_checkpoint_that_one_rank_cannot_read_is_named_with_its_rank(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    save(untrained(DEBUG), whole, {})
    shutil.copytree(whole, cut)
    weights = cut / "vae.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with (
        pytest.raises(RanksDiffer, match=rf"no model to play on rank 1: .*{weights} cannot be read"),
        gang(2, tmp_path, {0: Rank(folder=whole), 1: Rank(folder=cut)}),
    ):
        pass


def test_more_ranks_than_tokens_are_refused() -> None:
    check_ranks(DEBUG, 4)
    with pytest.raises(
        ValueError, match="5 ranks cannot share a latent of debug, which has 4 tokens; choose"
    ):
        check_ranks(DEBUG, 5)


def test_a_rank_that_does_not_come_is_named() -> None:
    lines = Lines(3)
    with pytest.raises(RankLost, match=r"of 3 ranks 1, 2 did not come within 0\.1 s"):
        lines.connect(0.1)
    lines.close()


def test_who_does_not_know_the_key_is_not_let_in() -> None:
    lines = Lines(2)
    stranger = Line(lines.address, "a guess", 1)
    with pytest.raises(RankLost, match="of 2 ranks 1 did not come"):
        lines.connect(0.5)
    with pytest.raises(RankLost, match="closed the line"):
        stranger.hear()
    lines.close()


def test_a_first_rank_that_cannot_be_reached_is_named_with_its_address() -> None:
    lines = Lines(2)
    lines.close()
    with pytest.raises(RankLost, match=rf"rank 1 cannot reach rank 0 at 127\.0\.0\.1:{lines.address[1]}"):
        Line(lines.address, lines.key, 1)
