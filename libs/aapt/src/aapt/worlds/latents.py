"""Recorded play as the stages of the network want it: latents, controls, captions."""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from aapt.dit.attention import FIRST_INDEX
from aapt.presets import Preset
from aapt.shapes import FRAMES_PER_LATENT, Controls, Latents, Text, to_video
from aapt.text import HashedWords
from aapt.vae.model import VideoVAE
from aapt.worlds.clips import BadRecording, Episode, each_readable

LATEST_INDEX = 10_000  # half an hour of play
START_EVERY = 4  # clips may begin at every fourth latent
LATENTS_AT_ONCE = 16  # what is encoded or decoded together fits the processor's cache


@dataclass(frozen=True)
class Batch:
    """Clips of 1 + t latents: the first picture, then what came of it under the controls."""

    first: Float[Tensor, "b c y x"]
    latents: Latents
    controls: Controls
    text: Text
    previous: Latents  # what the recycled channels hold under teacher forcing: the true latent before
    index: Int[Tensor, "b t"]  # of each latent in its session

    def to(self, device: torch.device) -> "Batch":
        """The same clips on `device`."""
        return Batch(*(column.to(device) for column in vars(self).values()))

    def rows(self, span: slice) -> "Batch":
        """Some of the clips."""
        return Batch(*(column[span] for column in vars(self).values()))

    def part(self, span: slice) -> "Batch":
        """Some of the latents of every clip; `first` becomes what was recycled for the first of them."""
        previous = self.previous[:, span]
        return Batch(
            previous[:, 0],
            self.latents[:, span],
            self.controls[:, span],
            self.text,
            previous,
            self.index[:, span],
        )

    @staticmethod
    def joined(batches: Sequence["Batch"]) -> "Batch":
        """Equally long clips as one batch, in order."""
        columns = zip(*(vars(batch).values() for batch in batches), strict=True)
        return Batch(*(torch.cat(column) for column in columns))


@dataclass(frozen=True)
class EncodedEpisode:
    """firsts[j]: frame 16·j as the first picture of a clip. latents[i]: frames 4i+1 .. 4i+4, made under
    controls[i]."""

    firsts: Float[Tensor, "s c y x"]
    latents: Float[Tensor, "n c y x"]
    controls: Float[Tensor, "n 4 k"]
    caption: str
    name: str = ""  # of its recording


class Clips:
    """Random clips from encoded episodes."""

    def __init__(self, episodes: list[EncodedEpisode], text: HashedWords) -> None:
        self.episodes = episodes
        self.text = text

    def batch(self, generator: torch.Generator, clips: int, length: int, late: float = 0.0) -> Batch:
        """`clips` clips of `length` latents after the first picture.

        The share `late` of them is seen as a player sees it who has been there for long: after the session's
        first latent come `length` - 1 of a later time, whose indices lie anywhere up to `LATEST_INDEX`.
        Without them a network meets rotary angles in play that it never met in training. Raises BadRecording
        where an episode is shorter than that.
        """
        self.check(length)
        places = [self._place(generator, length) for _ in range(clips)]
        batch = self.pick(places, length)
        for row, (number, start) in enumerate(places[: round(late * clips)]):
            begun = self.pick([(number, int(torch.randint(start + 1, (), generator=generator)))], 1)
            batch.first[row] = batch.previous[row, 0] = begun.first[0]
            batch.latents[row, 0] = begun.latents[0, 0]
            batch.controls[row, 0] = begun.controls[0, 0]
            nearest, farthest = math.log(length), math.log(LATEST_INDEX)
            away = nearest + (farthest - nearest) * float(torch.rand((), generator=generator))
            batch.index[row, 1:] += int(math.exp(away))
        return batch

    def check(self, latents: int) -> None:
        """Raises BadRecording, naming it, where an episode has fewer latents than that."""
        for number in range(len(self.episodes)):
            self._check(number, latents)

    def middle(self, generator: torch.Generator, clips: int, length: int) -> Batch:
        """Clips of a world that is under way: what is recycled for the first latent is a latent like others,
        not a first picture."""
        return self.batch(generator, clips, length + 1).part(slice(1, None))

    def pick(self, places: list[tuple[int, int]], length: int) -> Batch:
        """The clips that begin at (episode, start) in `places`; start counts in units of 16 frames. Raises
        BadRecording where one ends before that."""
        parts = []
        for number, start in places:
            episode = self.episodes[number]
            span = slice(start * START_EVERY, start * START_EVERY + length)
            self._check(number, span.stop)
            parts.append(
                (
                    episode.firsts[start],
                    episode.latents[span],
                    episode.controls[span],
                    self.text.encode(episode.caption),
                )
            )
        first, latents, controls, text = (
            torch.stack([each.float() for each in column]) for column in zip(*parts, strict=True)
        )
        previous = torch.cat([first[:, None], latents[:, :-1]], 1)
        index = torch.arange(FIRST_INDEX, FIRST_INDEX + length).repeat(len(places), 1)
        return Batch(first, latents, controls, text, previous, index)

    def _check(self, number: int, latents: int) -> None:
        episode = self.episodes[number]
        if len(episode.latents) < latents:
            raise BadRecording(
                f"episode {number} {episode.name} has {len(episode.latents)} latents, and {latents} are asked"
                f" for; record {1 + FRAMES_PER_LATENT * latents} frames or more, or choose a shorter length"
            )

    def _place(self, generator: torch.Generator, length: int) -> tuple[int, int]:
        number = int(torch.randint(len(self.episodes), (), generator=generator))
        starts = (len(self.episodes[number].latents) - length) // START_EVERY + 1
        return number, int(torch.randint(starts, (), generator=generator))


@torch.inference_mode()
def encode(
    vae: VideoVAE, paths: list[Path], cache: Path, preset: Preset | None = None
) -> list[EncodedEpisode]:
    """Encode recorded episodes once, with a progress bar; later calls read `cache`.

    Damaged recordings, and those of another world than `preset`'s, are named, skipped and counted; `cache`
    knows of them. It is made anew where the codec is another or the recordings are. Raises ValueError where
    it is damaged, BadRecording where no recording is left.
    """
    source = digest_of(vae.state_dict(), paths)
    stored = _read_cache(cache, paths, source) if cache.exists() else None
    if stored is None:
        encoded = each_readable(lambda path: encode_episode(vae, path, preset), paths)
        stored = [None if episode is None else vars(episode) for episode in encoded]
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial")
        torch.save({"source": source, "episodes": stored}, partial)
        partial.replace(cache)
    episodes = [EncodedEpisode(**episode) for episode in stored if episode is not None]
    if not episodes:
        raise BadRecording(
            f"none of {len(paths)} recordings can be read; record new ones, and delete {cache}"
        )
    return episodes


def digest_of(weights: Mapping[str, Tensor], recordings: Sequence[Path] = ()) -> str:
    """What tells these weights, and recordings of these names and sizes, from all others."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    for path in recordings:
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    return digest.hexdigest()


def _read_cache(cache: Path, paths: list[Path], source: str) -> list[dict[str, Any] | None] | None:
    """The stored episodes, or None where they are those of another codec or of other recordings."""
    try:
        content = torch.load(cache, weights_only=True)
    except Exception as error:  # torch has many ways to say that a file is damaged
        raise ValueError(f"{cache} cannot be read ({error}); delete it") from None
    if not isinstance(content, dict) or content["source"] != source:
        tqdm.write(f"{cache} is of another codec or other recordings: encoding anew", file=sys.stderr)
        return None
    stored: list[dict[str, Any] | None] = content["episodes"]
    damaged = [path.name for path, episode in zip(paths, stored, strict=True) if episode is None]
    if damaged:
        tqdm.write(
            f"skipped {len(damaged)} of {len(paths)} recordings that were damaged when {cache} was written:"
            f" {', '.join(damaged)}; once they are recorded again, delete it",
            file=sys.stderr,
        )
    return stored


@torch.inference_mode()
def encode_episode(vae: VideoVAE, path: Path, preset: Preset | None = None) -> EncodedEpisode:
    """One recorded episode as latents, in half precision. Raises BadRecording."""
    recorded = Episode.load(path, preset)
    if len(recorded.frames) <= FRAMES_PER_LATENT:
        raise BadRecording(
            f"{path} has {len(recorded.frames)} frames; one latent after the first picture takes"
            f" {1 + FRAMES_PER_LATENT}: record for longer"
        )
    length = 1 + FRAMES_PER_LATENT * ((len(recorded.frames) - 1) // FRAMES_PER_LATENT)
    frames = torch.from_numpy(recorded.frames[:length])
    starts = to_video(frames[:: START_EVERY * FRAMES_PER_LATENT])
    controls = torch.from_numpy(recorded.controls[1:length]).float()
    span, device = LATENTS_AT_ONCE * FRAMES_PER_LATENT, vae.mean.device
    # A latent depends on its own frames alone, so a recording may be encoded in pieces.
    latents = [
        vae.encode(to_video(frames[i : i + span + 1]).to(device)[None])[0, 1:]
        for i in range(0, length - 1, span)
    ]
    firsts = [vae.encode(start.to(device)[:, None])[:, 0] for start in starts.split(LATENTS_AT_ONCE)]
    return EncodedEpisode(
        torch.cat(firsts).half().cpu(),
        torch.cat(latents).half().cpu(),
        controls.unflatten(0, (-1, FRAMES_PER_LATENT)),
        recorded.caption,
        path.stem,
    )
