"""How long a latent step takes on given GPUs, what it holds in memory, and how many sessions that serves.

Time is at best the roofline: all FLOP at the peak rate, or all bytes at full bandwidth, whichever is longer.
What is reached is a stated share of that. Launching kernels is not counted, so steps of much less than a
millisecond are longer than it says.
"""

import math
from dataclasses import dataclass, replace

from aapt.plan.count import Count, Work
from aapt.plan.gpus import GPU
from aapt.shapes import FRAMES_PER_LATENT

BYTES = {"bf16": 2, "fp8": 1}
USABLE_MEMORY = 0.9  # the rest is for feature maps, CUDA itself and what falls between allocations
# The paper's light decoder, a latent's FLOP for each pixel of the picture: 6.9 TFLOP at 736x416. From the
# layers of its public sibling (ByteDance's SeedVR) at the paper's widths, full 3x3x3 convolutions.
LIGHT_DECODER_FLOP_PER_PIXEL = 22.6e6


@dataclass(frozen=True)
class Hardware:
    """One replica: `gpus` of a kind, joined by Ulysses (arXiv:2309.14509), and how well they are used.

    efficiency: of the roofline. linear, attention: "bf16" or "fp8"; the cache is kept in attention's.
    collective_s: what an all-to-all costs beside its bytes.
    """

    gpu: GPU
    gpus: int = 1
    efficiency: float = 0.5
    linear: str = "bf16"
    attention: str = "bf16"
    collective_s: float = 30e-6

    def __post_init__(self) -> None:
        if self.gpus < 1 or not 0 < self.efficiency <= 1:
            raise ValueError(
                f"{self.gpus} GPUs at efficiency {self.efficiency}: give 1 GPU or more, above 0 and up to 1"
            )
        for precision in (self.linear, self.attention):
            self.gpu.flop_per_s(precision)


@dataclass(frozen=True)
class Times:
    """One latent of one session, by what takes the time."""

    compute_s: float
    memory_s: float
    collectives_s: float
    decode_s: float

    @property
    def step_s(self) -> float:
        """The network's evaluation."""
        return max(self.compute_s, self.memory_s) + self.collectives_s

    @property
    def serial_s(self) -> float:
        """Step, then decode, on the same GPUs."""
        return self.step_s + self.decode_s

    @property
    def pipelined_s(self) -> float:
        """A latent is decoded on another GPU while the next is made."""
        return max(self.step_s, self.decode_s)

    @property
    def limit(self) -> str:
        """What takes longest."""
        parts = {
            "DiT compute": self.compute_s,
            "DiT memory": self.memory_s,
            "collectives": self.collectives_s,
            "decode": self.decode_s,
        }
        return max(parts, key=parts.__getitem__)


@dataclass(frozen=True)
class Plan:
    """A preset on one replica; memory and collective bytes are those of one GPU.

    roofline: at peak rates, collectives at link speed. stated: at the stated efficiency, with the latency of
    collectives.
    """

    count: Count
    hardware: Hardware
    roofline: Times
    stated: Times
    prompt_s: float
    encode_s: float
    collectives: int  # per step
    collective_bytes: float  # sent per step
    weights_bytes: int
    cache_bytes: float  # of one session

    @property
    def period_s(self) -> float:
        """The time in which each session must gain one latent."""
        return FRAMES_PER_LATENT / self.count.preset.frames_per_second

    @property
    def sessions_in_memory(self) -> int:
        """How many caches fit beside the weights."""
        room = USABLE_MEMORY * self.hardware.gpu.memory_bytes - self.weights_bytes
        return max(0, math.floor(room / self.cache_bytes))

    def sessions(self, *, is_pipelined: bool) -> int:
        """How many sessions one replica plays in real time, one after the other, if nothing is kept back."""
        taken_s = self.stated.pipelined_s if is_pipelined else self.stated.serial_s
        return min(self.sessions_in_memory, math.floor(self.period_s / taken_s))


def plan(count: Count, hardware: Hardware) -> Plan:
    """What `count`'s preset costs on `hardware`.

    Queries stay with their tokens; keys of the latents are split by heads, keys of the prompt are held whole.
    Raises ValueError where the heads do not divide over the GPUs.
    """
    config, gpus = count.preset.dit, hardware.gpus
    if config.heads % gpus:
        ways = ", ".join(str(n) for n in range(1, config.heads + 1) if config.heads % n == 0)
        raise ValueError(
            f"{config.heads} heads of {count.preset.name} do not divide over {gpus} GPUs; choose from {ways}"
        )
    tokens = math.ceil(count.tokens / gpus)  # of one GPU: the last shard is padded
    share = tokens / count.tokens
    numbers_kept = count.cache / gpus + count.text_cache
    numbers_made = 2 * tokens * config.dim * config.layers
    step_bytes = (
        count.step.weights * BYTES[hardware.linear]
        + (numbers_kept + numbers_made) * BYTES[hardware.attention]
    )
    # Queries, keys and values in one all-to-all, the output in another, and in the end the latent for all.
    collectives = 2 * config.layers + 1 if gpus > 1 else 0
    numbers_sent = (4 * config.layers * config.dim + 4 * config.latent_channels) * tokens * (gpus - 1) / gpus
    sent_bytes = numbers_sent * BYTES["bf16"]
    best = Times(
        compute_s=_compute_s(count.step, hardware) * share,
        memory_s=step_bytes / hardware.gpu.memory_bytes_per_s,
        collectives_s=sent_bytes / hardware.gpu.link_bytes_per_s,
        decode_s=_alone_s(count.decode, hardware),
    )
    reached = hardware.efficiency
    return Plan(
        count=count,
        hardware=hardware,
        roofline=best,
        stated=Times(
            compute_s=best.compute_s / reached,
            memory_s=best.memory_s / reached,
            collectives_s=best.collectives_s / reached + collectives * hardware.collective_s,
            decode_s=best.decode_s / reached,
        ),
        prompt_s=_alone_s(count.text, hardware) / reached,
        encode_s=_alone_s(count.encode, hardware) / reached,
        collectives=collectives,
        collective_bytes=sent_bytes,
        weights_bytes=count.dit_weights * BYTES[hardware.linear] + count.vae_weights * BYTES["bf16"],
        cache_bytes=numbers_kept * BYTES[hardware.attention],
    )


def with_light_decoder(count: Count) -> Count:
    """`count` as if latents were decoded by the paper's light decoder; of its memory nothing is known."""
    pixels = count.preset.width_px * count.preset.height_px
    flop = round(LIGHT_DECODER_FLOP_PER_PIXEL * pixels)
    return replace(count, decode=replace(count.decode, convolution_flop=flop, weights=0, maps=0))


def _compute_s(work: Work, hardware: Hardware) -> float:
    gpu = hardware.gpu
    return (
        work.linear_flop / gpu.flop_per_s(hardware.linear)
        + work.attention_flop / gpu.flop_per_s(hardware.attention)
        + work.convolution_flop / gpu.flop_per_s("bf16")
    )


def _alone_s(work: Work, hardware: Hardware) -> float:
    """On one GPU of the replica, whatever the others do."""
    moved = (work.weights + work.maps) * BYTES["bf16"]
    return max(_compute_s(work, hardware), moved / hardware.gpu.memory_bytes_per_s)
