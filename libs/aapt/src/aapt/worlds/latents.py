"""Recorded play as the stages of the network want it: latents, controls, captions."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from aapt.shapes import FRAMES_PER_LATENT, Controls, Latents, Text, to_video
from aapt.text import HashedWords
from aapt.vae.model import VideoVAE
from aapt.worlds.clips import Episode

START_EVERY = 4  # clips may begin at every fourth latent
LATENTS_AT_ONCE = 16  # what is encoded together fits the processor's cache


@dataclass(frozen=True)
class Batch:
    """Clips of 1 + t latents: the first picture, then what came of it under the controls."""

    first: Float[Tensor, "b c y x"]
    latents: Latents
    controls: Controls
    text: Text

    @property
    def previous(self) -> Latents:
        """What each latent's recycled channels hold under teacher forcing: the true latent before it."""
        return torch.cat([self.first[:, None], self.latents[:, :-1]], 1)


@dataclass(frozen=True)
class EncodedEpisode:
    """firsts[j]: frame 16·j as the first picture of a clip. latents[i]: frames 4i+1 .. 4i+4, made under
    controls[i]."""

    firsts: Float[Tensor, "s c y x"]
    latents: Float[Tensor, "n c y x"]
    controls: Float[Tensor, "n 4 k"]
    caption: str


class Clips:
    """Random clips from encoded episodes."""

    def __init__(self, episodes: list[EncodedEpisode], text: HashedWords) -> None:
        self.episodes = episodes
        self.text = text

    def batch(self, generator: torch.Generator, clips: int, length: int) -> Batch:
        """`clips` clips of `length` latents after the first picture."""
        return self.pick([self._place(generator, length) for _ in range(clips)], length)

    def pick(self, places: list[tuple[int, int]], length: int) -> Batch:
        """The clips that begin at (episode, start) in `places`; start counts in units of 16 frames."""
        parts = []
        for number, start in places:
            episode = self.episodes[number]
            span = slice(start * START_EVERY, start * START_EVERY + length)
            parts.append(
                (
                    episode.firsts[start],
                    episode.latents[span],
                    episode.controls[span],
                    self.text.encode(episode.caption),
                )
            )
        first, latents, controls, text = (torch.stack(list(x)).float() for x in zip(*parts, strict=True))
        return Batch(first, latents, controls, text)

    def _place(self, generator: torch.Generator, length: int) -> tuple[int, int]:
        number = int(torch.randint(len(self.episodes), (), generator=generator))
        starts = (len(self.episodes[number].latents) - length) // START_EVERY + 1
        return number, int(torch.randint(starts, (), generator=generator))


@torch.inference_mode()
def encode(vae: VideoVAE, paths: list[Path], cache: Path) -> list[EncodedEpisode]:
    """Encode recorded episodes once, with a progress bar; later calls read `cache`.

    Raises ValueError where `cache` holds another number of episodes.
    """
    if cache.exists():
        stored = torch.load(cache, weights_only=True)
        if len(stored) != len(paths):
            raise ValueError(f"{cache} holds {len(stored)} episodes, {len(paths)} are asked for; delete it")
        return [EncodedEpisode(**episode) for episode in stored]
    episodes = [encode_episode(vae, path) for path in tqdm(paths, desc="encoding", unit="episode")]
    cache.parent.mkdir(parents=True, exist_ok=True)
    torch.save([vars(episode) for episode in episodes], cache)
    return episodes


@torch.inference_mode()
def encode_episode(vae: VideoVAE, path: Path) -> EncodedEpisode:
    """One recorded episode as latents, in half precision."""
    recorded = Episode.load(path)
    length = 1 + FRAMES_PER_LATENT * ((len(recorded.frames) - 1) // FRAMES_PER_LATENT)
    frames = torch.from_numpy(recorded.frames[:length])
    starts = to_video(frames[:: START_EVERY * FRAMES_PER_LATENT])
    controls = torch.from_numpy(recorded.controls[1:length]).float()
    span = LATENTS_AT_ONCE * FRAMES_PER_LATENT
    # A latent depends on its own frames alone, so a recording may be encoded in pieces.
    latents = [
        vae.encode(to_video(frames[i : i + span + 1])[None])[0, 1:] for i in range(0, length - 1, span)
    ]
    return EncodedEpisode(
        torch.cat([vae.encode(start[:, None])[:, 0] for start in starts.split(LATENTS_AT_ONCE)]).half(),
        torch.cat(latents).half(),
        controls.unflatten(0, (-1, FRAMES_PER_LATENT)),
        recorded.caption,
    )
