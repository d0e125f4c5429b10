"""What a step of a stage holds on one GPU, as `loop` and `sharding` hold it; judging is not counted."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from aapt.plan.count import Count, count_heads
from aapt.plan.memory import (
    FLOAT32,
    gathered_bytes,
    judged_bytes,
    learner_bytes,
    pass_bytes,
    session_bytes,
)
from aapt.train.adapt import AdaptConfig
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import DistillConfig

CLIP_GPUS = 8  # as many share a clip at most, by Ulysses


@dataclass(frozen=True)
class Division:
    """`gpus` in rows of `sequence`, which share each of the row's clips."""

    gpus: int
    sequence: int

    @property
    def rows(self) -> int:
        """Each works on clips of its own."""
        return self.gpus // self.sequence

    def clips(self, batch: int) -> int:
        """What a stage is told: clips of a row, where the batch is that of all rows."""
        return math.ceil(batch / self.rows)


def divide(count: Count, gpus: int) -> Division:
    """As many GPUs share a clip as the heads and the GPUs divide into."""
    heads = count.preset.dit.heads
    return Division(gpus, max(n for n in range(1, CLIP_GPUS + 1) if gpus % n == 0 and heads % n == 0))


def step_bytes(
    stage: AdaptConfig | DistillConfig | AdversarialConfig,
    count: Count,
    division: Division,
    micro_clips: int,
    *,
    moments: int,
    bfloat16: bool = True,
) -> float:
    """The most that one GPU holds in a step; `stage.clips` are those of a row, passed `micro_clips` at once.

    moments: what the optimizer keeps for each weight. Blocks are checkpointed.
    """
    gpus, sequence, weights = division.gpus, division.sequence, count.dit_weights
    parts = math.ceil(stage.clips / micro_clips)
    average = FLOAT32 * weights / gpus
    kept = average + gathered_bytes(count, gpus)
    if not isinstance(stage, AdversarialConfig):
        learner = learner_bytes(weights, gpus, moments, is_accumulated=parts > 1)
        teacher = FLOAT32 * weights / gpus if isinstance(stage, DistillConfig) else 0.0
        passed = micro_clips * pass_bytes(count, stage.length, sequence, bfloat16=bfloat16)
        return kept + learner + teacher + passed
    judge = weights + count_heads(count.preset).weights
    is_accumulated = parts * (stage.graded or 1 + stage.extensions) > 1
    # Each has its turn: meanwhile the other's gradients are shared out.
    turns = {
        name: learner_bytes(weights, gpus, moments, is_accumulated=is_accumulated and name == "generator")
        + learner_bytes(judge, gpus, moments, is_accumulated=is_accumulated and name == "discriminator")
        for name in ("play", "discriminator", "generator")
    }
    session = stage.clips * session_bytes(count, sequence)
    judged = micro_clips * judged_bytes(count, stage.length, sequence, bfloat16=bfloat16)
    again = micro_clips * max(
        pass_bytes(count, new, sequence, after=after, bfloat16=bfloat16) for new, after in _segments(stage)
    )
    turns["play"] += session  # the cache that is played with, beside its copies
    turns["discriminator"] += 4 * judged
    turns["generator"] += again + judged
    return kept + stage.extensions * session + max(turns.values())


def _segments(stage: AdversarialConfig) -> Iterator[tuple[int, int]]:
    """New latents of each segment, and how many come before them."""
    yield stage.length, 0
    for segment in range(stage.extensions):
        new = stage.length - stage.overlap
        yield new, stage.length + segment * new


def most_micro_clips(
    stage: AdaptConfig | DistillConfig | AdversarialConfig,
    count: Count,
    division: Division,
    room_bytes: float,
    *,
    moments: int,
) -> int:
    """How many clips may be passed at once; 0 where not even one fits."""
    ways = [1 << n for n in range(stage.clips.bit_length()) if 1 << n < stage.clips] + [stage.clips]
    return max(
        (n for n in ways if step_bytes(stage, count, division, n, moments=moments) <= room_bytes), default=0
    )
