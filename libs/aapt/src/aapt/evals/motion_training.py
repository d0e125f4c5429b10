"""How the motion regressor learns: from real recordings, a handful in memory at a time."""

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from aapt.evals.motion import (
    FRAMES_SEEN,
    Motion,
    MotionError,
    MotionRegressor,
    Windows,
    motion_errors,
    true_motion,
    windows,
)
from aapt.shapes import FRAMES_PER_LATENT, Frames, to_video
from aapt.worlds.clips import Episode

BATCH = 64
RECORDINGS_AT_ONCE = 24  # of 40 s: 700 MB
LEARNING_RATE = 2e-3
BLUR, NOISE = 0.7, 0.04  # the most that pictures are worsened by; they have values in [-1, 1]


def train_regressor(
    learning: list[Path], held_out: list[Path], steps: int, seed: int = 0, *, bfloat16: bool = False
) -> tuple[MotionRegressor, MotionError]:
    """Learn from the recordings `learning`, and measure on `held_out`."""
    frames, motion = _read(learning[0])
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    regressor = MotionRegressor(frames.shape[1], frames.shape[2])
    regressor.scale.copy_(motion.square().mean(0).sqrt().clamp_min(1e-2))
    optimizer = torch.optim.AdamW(regressor.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    with tqdm(total=steps, desc="motion regressor", unit="step") as progress:
        for seen, true in _batches(learning, generator, steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                named = regressor(seen)
            scale = regressor.scale
            loss = nn.functional.smooth_l1_loss(named.float() / scale, true / scale, beta=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update()
            progress.set_postfix(loss=f"{float(loss.detach()):.4f}")
    regressor.eval()
    return regressor, measure_regressor(regressor, held_out)


@torch.inference_mode()
def measure_regressor(regressor: MotionRegressor, paths: list[Path]) -> MotionError:
    """Mean error over all latents of recordings."""
    errors = []
    for path in paths:
        frames, motion = _read(path)
        for seen, true in zip(windows(to_video(frames)).split(BATCH), motion.split(BATCH), strict=True):
            errors.append(torch.stack(motion_errors(regressor(seen), true)))
    rotation_deg, translation_m = torch.cat(errors, 1).mean(1).tolist()
    return MotionError(round(rotation_deg, 4), round(translation_m, 4))


def _read(path: Path) -> tuple[Frames, Float[Tensor, "k 3"]]:
    recorded = Episode.load(path)
    length = 1 + FRAMES_PER_LATENT * ((len(recorded.frames) - 1) // FRAMES_PER_LATENT)
    return torch.from_numpy(recorded.frames[:length]), true_motion(torch.from_numpy(recorded.poses[:length]))


def _batches(paths: list[Path], generator: torch.Generator, steps: int) -> Iterator[tuple[Windows, Motion]]:
    """`steps` random batches: some recordings, every latent of them once, then others."""
    while True:
        for some in torch.randperm(len(paths), generator=generator).split(RECORDINGS_AT_ONCE):
            read = [_read(paths[i]) for i in some.tolist()]
            places = [(frames, motion, k) for frames, motion in read for k in range(len(motion))]
            for batch in torch.randperm(len(places), generator=generator).split(BATCH):
                if steps == 0:
                    return
                steps -= 1
                chosen = [places[n] for n in batch.tolist()]
                starts = [(frames, FRAMES_PER_LATENT * k) for frames, _, k in chosen]
                seen = torch.cat([to_video(frames[at : at + FRAMES_SEEN]) for frames, at in starts])
                true = torch.stack([motion[k] for _, motion, k in chosen])
                yield _augmented(seen.unflatten(0, (-1, FRAMES_SEEN)), true, generator)


def _augmented(seen: Windows, motion: Motion, generator: torch.Generator) -> tuple[Windows, Motion]:
    """Every other one mirrored; some blurred or noisy, so that nothing hangs on what no codec carries."""
    seen[::2] = seen[::2].flip(-1)
    motion[::2] *= torch.tensor([-1.0, 1.0, -1.0])
    clear = seen[::4].flatten(0, 1)
    blurred = nn.functional.avg_pool2d(clear, 3, stride=1, padding=1, count_include_pad=False)
    seen[::4].lerp_(
        blurred.unflatten(0, (-1, FRAMES_SEEN)), BLUR * float(torch.rand((), generator=generator))
    )
    seen[1::4] += NOISE * torch.randn(seen[1::4].shape, generator=generator)
    return seen, motion
