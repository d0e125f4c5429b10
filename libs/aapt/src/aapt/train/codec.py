"""Stage 0: the codec learns to carry recorded frames."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from aapt.evals.drift import save_pairs
from aapt.shapes import Frames, Video, to_frames, to_video
from aapt.train.loop import Turn
from aapt.vae.model import VideoVAE
from aapt.worlds.clips import FRAMES_PER_SECOND, BadRecording

JUDGED_FRAMES = slice(100, 141)


class Codec:
    """L1 on pixels and on their differences (edges count), and a small pull of the posterior to N(0, I).

    Pixels that stand out from their surroundings count more: a plain mean is content to lose a kerb or a car,
    which are few pixels of a picture and all that a player looks at.
    """

    CLIPS = 4
    LATENTS_PER_CLIP = 4
    KL_WEIGHT = 3e-4
    DETAIL_WEIGHT = 8.0
    EDGE_WEIGHT = 0.5

    def __init__(
        self, vae: VideoVAE, episodes: list[Frames], held_out: list[Frames], crop_px: int = 64
    ) -> None:
        self.model = vae
        self._episodes = episodes
        self._held_out = held_out
        self._crop_px = min(crop_px, *(episode.shape[2] for episode in episodes))
        shortest = min(len(episode) for episode in (*episodes, *held_out))
        if shortest < JUDGED_FRAMES.stop:
            raise BadRecording(
                f"the shortest recording has {shortest} frames; the codec is judged on frames up to"
                f" {JUDGED_FRAMES.stop}: record for longer"
            )

    def clips(self, generator: torch.Generator, count: int) -> Video:
        """Random clips, cropped to a vertical band: more different pictures for the same work."""
        frames = 1 + 4 * (self.LATENTS_PER_CLIP - 1)
        clips = []
        for _ in range(count):
            episode = self._episodes[_integer(len(self._episodes), generator)]
            start = _integer(len(episode) - frames + 1, generator)
            left = _integer(episode.shape[2] - self._crop_px + 1, generator)
            clips.append(to_video(episode[start : start + frames, :, left : left + self._crop_px]))
        return torch.stack(clips)

    @property
    def turns(self) -> tuple[Turn[Video], ...]:
        return (Turn("codec", self.model, self.learn),)

    def draw(self, generator: torch.Generator) -> Video:
        return self.clips(generator, self.CLIPS)

    def learn(self, video: Video, generator: torch.Generator) -> dict[str, float]:
        mean, log_variance = self.model.posterior(video)
        noise = torch.randn(mean.shape, generator=generator)
        made, _ = self.model.decoder(mean + noise * (0.5 * log_variance).exp(), None)
        made = made[:, 3:]
        pixels = ((made - video).abs() * (1 + self.DETAIL_WEIGHT * _stands_out(video))).mean()
        edges = sum((made.diff(dim=d) - video.diff(dim=d)).abs().mean() for d in (-1, -2, 1))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = pixels + self.EDGE_WEIGHT * edges + self.KL_WEIGHT * kl
        loss.backward()
        return {"loss": float(loss.detach()), "pixels": float(pixels.detach()), "kl": float(kl.detach())}

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, folder: Path | None, step: int) -> dict[str, float]:
        assert isinstance(model, VideoVAE)
        errors: list[Tensor] = []
        pairs: list[tuple[Frames, Frames]] = []
        for episode in self._held_out[:8]:
            video = to_video(episode[JUDGED_FRAMES])[None]
            made = model.decode(model.encode(video))
            errors.append((made.clamp(-1, 1) - video).square().mean() / 4)
            pairs.append((to_frames(video[0]), to_frames(made[0])))
        if folder is not None:
            rows = [torch.cat(list(frames[4::12]), 1) for pair in pairs[:4] for frames in pair]
            Image.fromarray(torch.cat(rows).numpy()).save(folder / f"sheet-{step:06d}.png")
            save_pairs(folder / f"clip-{step:06d}.mp4", pairs[:4], float(FRAMES_PER_SECOND))
        return {"psnr_db": round(float(-10 * torch.stack(errors).log10().mean()), 2)}


@torch.inference_mode()
def normalise(vae: VideoVAE, episodes: list[Frames]) -> None:
    """Measure mean and deviation of every latent channel, so that the network sees unit variance."""
    vae.mean.zero_()
    vae.std.fill_(1)
    # 1 + 4k frames of each, up to a hundred latents.
    lengths = [1 + 4 * ((min(len(episode), 401) - 1) // 4) for episode in episodes]
    latents = torch.cat(
        [
            vae.encode(to_video(episode[:length])[None])[0]
            for episode, length in zip(episodes, lengths, strict=True)
        ]
    )
    vae.mean.copy_(latents.mean((0, 2, 3)))
    vae.std.copy_(latents.std((0, 2, 3)))


def _stands_out(video: Video) -> Tensor:
    """How far each pixel is from the mean of the 9x9 around it, [b, f, 1, h, w]."""
    flat = video.flatten(0, 1)
    around = nn.functional.avg_pool2d(flat, 9, stride=1, padding=4, count_include_pad=False)
    return (flat - around).abs().amax(1, keepdim=True).unflatten(0, video.shape[:2])


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
