"""How long a step and a decode take, beside what the cost model says, and where the time goes."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from aapt.checkpoint import Model
from aapt.plan.cost import Hardware, Plan, plan
from aapt.plan.count import count
from aapt.plan.gpus import GPU
from aapt.presets import Preset
from aapt.rollout import Rollout
from aapt.serving import Serving
from aapt.shapes import FRAMES_PER_LATENT
from aapt.vae.streaming import StreamingVAE

PROFILED_STEPS = 3
SHOWN_KERNELS = 12


@dataclass(frozen=True)
class Speed:
    """One way of serving, past the window. Medians by the host's clock: copies and launches are in it.

    roofline_ms, stated_ms: the cost model's step at best and at half of it; None: it has no data sheet.
    """

    preset: str
    way: str
    sessions: int
    ranks: int
    warm_up_s: float
    step_ms: float
    step_p95_ms: float
    memory_gb: float | None  # the most that was allocated; None: not a GPU
    roofline_ms: float | None = None
    stated_ms: float | None = None

    @property
    def frames_per_s(self) -> float:
        """Of one session, if nothing but steps took time."""
        return 1e3 * FRAMES_PER_LATENT / self.step_ms

    @property
    def reached(self) -> float | None:
        """Share of the roofline."""
        return None if self.roofline_ms is None else self.roofline_ms / self.step_ms


@dataclass(frozen=True)
class DecodeSpeed:
    """One latent to four frames on the host."""

    preset: str
    dtype: str
    decode_ms: float
    roofline_ms: float | None = None


@dataclass(frozen=True)
class Profile:
    """The kernels that took most of a step, in milliseconds a step, and the whole trace as a file."""

    preset: str
    way: str
    trace: str
    kernels: list[tuple[str, float]]


def measure_steps(
    model: Model, way: str, serving: Serving, *, sessions: int = 1, steps: int = 30, ranks: int = 1
) -> Speed:
    """Step `sessions` until all are past the window, then against the clock."""
    device = torch.device(serving.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    rollout = Rollout(model, sessions, serving)
    begun_s = time.perf_counter()
    rollout.warm_up()
    warm_up_s = time.perf_counter() - begun_s
    step = playing(rollout, model, sessions)
    taken_s = timed(step, steps)
    return Speed(
        preset=model.preset.name,
        way=way,
        sessions=sessions,
        ranks=ranks,
        warm_up_s=round(warm_up_s, 2),
        step_ms=round(1e3 * statistics.median(taken_s), 4),
        step_p95_ms=round(1e3 * sorted(taken_s)[int(0.95 * (len(taken_s) - 1))], 4),
        memory_gb=round(torch.cuda.max_memory_allocated(device) / 1e9, 3) if device.type == "cuda" else None,
    )


def measure_decode(model: Model, serving: Serving, *, steps: int = 30) -> DecodeSpeed:
    """Decode latents of noise, one after another."""
    codec = StreamingVAE(model.vae)
    latent = torch.randn(model.preset.latent_shape, generator=torch.Generator().manual_seed(0))
    for _ in range(3):  # the first decodes to one frame, and kernels are chosen
        codec.decode(latent)
    taken_s = timed(lambda: codec.decode(latent), steps)
    return DecodeSpeed(model.preset.name, serving.dtype, round(1e3 * statistics.median(taken_s), 4))


def profile_steps(model: Model, way: str, serving: Serving, folder: Path) -> Profile:
    """A trace of a few steps past the window, for chrome://tracing or Perfetto."""
    rollout = Rollout(model, 1, serving)
    rollout.warm_up()
    step = playing(rollout, model, 1)
    is_gpu = torch.device(serving.device).type == "cuda"
    watched = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if is_gpu else [ProfilerActivity.CPU]
    with profile(activities=watched) as profiler:
        for _ in range(PROFILED_STEPS):
            step()
    folder.mkdir(parents=True, exist_ok=True)
    trace = folder / f"trace-{model.preset.name}.json.gz"
    profiler.export_chrome_trace(str(trace))
    # On a GPU kernels stand beside the operations that launched them, and both have the kernel's time.
    spent = [
        (event.key, event.self_device_time_total if is_gpu else event.self_cpu_time_total)
        for event in profiler.key_averages()
        if event.device_type.name == ("CUDA" if is_gpu else "CPU")
    ]
    longest = sorted(spent, key=lambda kernel: -kernel[1])[:SHOWN_KERNELS]
    kernels = [(name[:100], round(spent_us / 1e3 / PROFILED_STEPS, 4)) for name, spent_us in longest]
    return Profile(model.preset.name, way, trace.name, kernels)


def playing(rollout: Rollout, model: Model, sessions: int) -> Callable[[], object]:
    """What steps `sessions` new sessions once, all of them past the window already."""
    controls = torch.zeros(FRAMES_PER_LATENT, model.dit.controls.values_per_frame)
    first = torch.zeros(model.preset.latent_shape)
    for slot in range(sessions):
        rollout.open_latent(slot, first, model.text.encode(model.preset.prompt), seed=slot)
    held = dict.fromkeys(range(sessions), controls)
    for _ in range(model.preset.dit.window + 2):
        rollout.step(held)
    return lambda: rollout.step(held)


def timed(work: Callable[[], object], times: int) -> list[float]:
    """Seconds of each of `times` calls; a step returns when its latents are on the host."""
    taken_s = []
    for _ in range(times):
        begun_s = time.perf_counter()
        work()
        taken_s.append(time.perf_counter() - begun_s)
    return taken_s


def predict(preset: Preset, gpu: GPU | None, serving: Serving, ranks: int = 1) -> Plan | None:
    """What the cost model says; None where it has no data sheet, or the heads do not divide."""
    if gpu is None or serving.dtype != "bfloat16" or preset.dit.heads % ranks:
        return None
    return plan(count(preset), Hardware(gpu, ranks, linear="fp8" if serving.fp8 else "bf16"))


def forget() -> None:
    """Give memory back, and compiled code: each preset's blocks are compiled anew."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
