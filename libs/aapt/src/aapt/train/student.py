"""Stage 3's first move: the student plays, and is taken note of."""

from collections.abc import Iterator, Set
from dataclasses import replace

import torch

from aapt.checkpoint import Model
from aapt.rollout import Past, Rollout, noise
from aapt.shapes import Latents
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.segments import Segment, rolled_out
from aapt.vae.model import VideoVAE
from aapt.worlds.latents import Batch, Clips
from aapt.worlds.watcher import Watcher


class Student:
    """Plays beside real clips: under their controls, or under those of one who sees what it makes.

    sees: the codec to look through; the clips are then of drives by sight, too. What is held while the first
      latent comes about is the clip's: it answers frames from before the clip.
    """

    def __init__(
        self, model: Model, clips: Clips, config: AdversarialConfig, sees: VideoVAE | None = None
    ) -> None:
        before = 2 + model.dit.config.window if config.late else 1 if config.extensions else 0
        clips.check(before + config.length)  # raises now rather than at some step
        self._model = model
        self._clips = clips
        self._config = config
        self._sees = sees

    def play(
        self, generator: torch.Generator, graded: Set[int] | None = None, *, is_late: bool = False
    ) -> Iterator[Segment]:
        """One segment after another.

        graded: the segments to be learnt from, all by default; what follows the last is not played.
        Unless somebody sees, extensions go on under the controls of clips that have nothing to do with what
        was played before: the student must be ready for anything.
        """
        config = self._config
        graded = set(range(1 + config.extensions)) if graded is None else graded
        rollout = Rollout(self._model, config.clips)
        seeds = torch.randint(2**31, (config.clips,), generator=generator).tolist()
        real, seen = (self._take_up if is_late else self._open)(rollout, seeds, generator)
        watchers = self._watchers(seen)
        past = rollout.next_pass(config.length) if is_late and 0 in graded else None
        made, pressed = rolled_out(rollout, real.controls, watchers, held=0 if is_late else 1)
        previous = torch.cat([real.first[:, None], made[:, :-1]], 1)
        fake = replace(real, latents=made, previous=previous, controls=pressed)
        if 0 in graded:
            yield Segment(real, fake, self._noise(seeds, fake), past)
        kept, fresh = slice(config.length - config.overlap, None), slice(config.overlap, None)
        for segment in range(1, 1 + max(graded)):
            index = fake.index + config.length - config.overlap
            real = replace(self._clips.middle(generator, config.clips, config.length), index=index)
            new = real.part(fresh)
            past = rollout.next_pass(new.latents.shape[1]) if segment in graded else None
            made, pressed = rolled_out(rollout, new.controls, watchers)
            latents = torch.cat([fake.latents[:, kept], made], 1)
            before = fake.previous[:, kept] if config.overlap else fake.latents[:, -1:]
            fake = replace(
                fake,
                latents=latents,
                previous=torch.cat([before[:, :1], latents[:, :-1]], 1),
                controls=torch.cat([fake.controls[:, kept], pressed], 1),
                index=index,
            )
            if segment in graded:
                yield Segment(real, fake, self._noise(seeds, fake.part(fresh)), past)

    def _watchers(self, seen: Latents) -> list[Watcher]:
        if self._sees is None:
            return []
        watchers = []
        for first, *others in seen:
            watchers.append(Watcher(self._sees, self._model.preset.keys, first))
            for latent in others:
                watchers[-1].see(latent)
        return watchers

    def _open(self, rollout: Rollout, seeds: list[int], generator: torch.Generator) -> tuple[Batch, Latents]:
        """Real clips, played from their first picture on, and what there was to see by then."""
        real = self._clips.batch(generator, self._config.clips, self._config.length)
        for slot, seed in enumerate(seeds):
            rollout.open_latent(slot, real.first[slot], real.text[slot], seed)
        return real, real.first[:, None]

    def _take_up(
        self, rollout: Rollout, seeds: list[int], generator: torch.Generator
    ) -> tuple[Batch, Latents]:
        """The same for worlds in which somebody has played for long."""
        config = self._config
        window = self._model.dit.config.window
        lived = self._clips.batch(generator, config.clips, 2 + window + config.length, late=1.0)
        lived.index[:] = lived.index[0].clone()  # a pass goes over sessions of one age
        indices, rows = lived.index[0].tolist(), range(2 + window)
        for slot, seed in enumerate(seeds):
            latents = {0: lived.first[slot], indices[1] - 1: lived.previous[slot, 1]}
            past = Past(
                latents | {indices[i]: lived.latents[slot, i] for i in rows},
                {indices[i]: lived.controls[slot, i] for i in rows},
            )
            rollout.resume_latents(slot, past, lived.text[slot], seed)
        newest = lived.latents[:, : len(rows)]
        return lived.part(slice(-config.length, None)), newest[:, -1 - self._model.vae.looks_back :]

    def _noise(self, seeds: list[int], fake: Batch) -> Latents:
        preset, indices = self._model.preset, fake.index[0].tolist()
        return torch.stack([torch.stack([noise(preset, seed, i) for i in indices]) for seed in seeds])
