"""A phase of a curriculum, and what it costs: what it would multiply, and what our loop would hold."""

from dataclasses import dataclass, replace

from aapt.plan.cost import USABLE_MEMORY
from aapt.plan.count import Count, count
from aapt.plan.gpus import GPU, H100
from aapt.plan.training import adapt_flop, adversarial_flop, distill_flop
from aapt.presets import AAPT_8B, AAPT_8B_720P, Preset
from aapt.shapes import FRAMES_PER_LATENT
from aapt.train.adapt import AdaptConfig
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import DistillConfig
from aapt.train.held import Division, divide, most_micro_clips, step_bytes
from aapt.train.loop import LoopConfig

FRAMES_PER_SECOND = 24


@dataclass(frozen=True)
class Phase:
    """One phase.

    stage: its clips are the batch of all rows of ranks together; `row` is what each row of them is told.
    sizes: pictures, each with an equal share of the clips. unstated: what the paper leaves open, and what is
    taken for it.
    """

    name: str
    stage: AdaptConfig | DistillConfig | AdversarialConfig
    loop: LoopConfig
    sizes: tuple[tuple[int, int], ...]
    unstated: str = ""

    def row(self, division: Division) -> AdaptConfig | DistillConfig | AdversarialConfig:
        """The config of a run that is divided so: there, clips are those of a row."""
        return replace(self.stage, clips=division.clips(self.stage.clips))

    @property
    def moments(self) -> int:
        """What the optimizer keeps for each weight."""
        return 1 if self.loop.optimizer == "rmsprop" else 2

    @property
    def latents(self) -> int:
        """Latents of a clip, extensions and all."""
        if isinstance(self.stage, AdversarialConfig):
            return self.stage.length + self.stage.extensions * (self.stage.length - self.stage.overlap)
        return self.stage.length

    @property
    def clip_s(self) -> float:
        """The length of a clip."""
        return self.latents * FRAMES_PER_LATENT / FRAMES_PER_SECOND


@dataclass(frozen=True)
class PhaseCost:
    """What a phase costs; memory is that of one GPU.

    flop: of a step.
    micro_clips: of the `row_clips`, how many are passed at once; memory_bytes: what is held then. 0: not even
    one fits, and memory_bytes is what one would take.
    fitting_gpus: how many GPUs would do; 0: none, however many.
    """

    phase: Phase
    latents: int  # made or seen in a step
    flop: float
    row_clips: int
    micro_clips: int
    memory_bytes: float
    fitting_gpus: int

    def hours(self, gpu: GPU, gpus: int, efficiency: float) -> float:
        """The whole phase."""
        return self.phase.loop.steps * self.flop / (gpus * gpu.bf16_flop_per_s * efficiency) / 3600


def phase_cost(phase: Phase, preset: Preset, gpus: int, gpu: GPU = H100) -> PhaseCost:
    """Cost of `phase` for `preset` on `gpus` such GPUs; a preset that is not the paper's keeps to its own
    picture. Where the clips do not divide over the rows, all rows take as many as the fullest."""
    presets = [preset]
    if preset == AAPT_8B:
        presets = [p for p in (AAPT_8B, AAPT_8B_720P) if (p.width_px, p.height_px) in phase.sizes]
    counts = [count(each) for each in presets]
    division = divide(counts[0], gpus)
    row = phase.row(division)
    clips = row.clips * division.rows
    micro_clips = _micro_clips(phase, counts, gpus, gpu)
    return PhaseCost(
        phase=phase,
        latents=clips * phase.latents,
        flop=clips * sum(_clip_flop(phase, each) for each in counts) / len(counts),
        row_clips=row.clips,
        micro_clips=micro_clips,
        memory_bytes=max(
            step_bytes(row, each, division, micro_clips or 1, moments=phase.moments) for each in counts
        ),
        fitting_gpus=gpus if micro_clips else _fitting_gpus(phase, counts, gpus, gpu),
    )


def _micro_clips(phase: Phase, counts: list[Count], gpus: int, gpu: GPU) -> int:
    division, room = divide(counts[0], gpus), USABLE_MEMORY * gpu.memory_bytes
    row = phase.row(division)
    return min(most_micro_clips(row, each, division, room, moments=phase.moments) for each in counts)


def _fitting_gpus(phase: Phase, counts: list[Count], gpus: int, gpu: GPU) -> int:
    """Twice as many until it fits, or until each row has one clip and more would change little."""
    while phase.row(divide(counts[0], gpus)).clips > 1:
        gpus *= 2
        if _micro_clips(phase, counts, gpus, gpu):
            return gpus
    return 0


def _clip_flop(phase: Phase, counted: Count) -> float:
    stage = phase.stage
    if isinstance(stage, AdversarialConfig):
        return adversarial_flop(counted, stage.length, stage.extensions, stage.overlap)
    flop = adapt_flop if isinstance(stage, AdaptConfig) else distill_flop
    return flop(counted, stage.length)
