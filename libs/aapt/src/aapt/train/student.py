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

    sees: the codec to look through; the clips are then of drives by sight, too.
    """

    def __init__(
        self, model: Model, clips: Clips, config: AdversarialConfig, sees: VideoVAE | None = None
    ) -> None:
        self._model = model
        self._clips = clips
        self._config = config
        self._sees = sees

    def play(
        self, generator: torch.Generator, graded: Set[int] | None = None, *, is_late: bool = False
    ) -> Iterator[Segment]:
        """One segment after another.

        graded: the segments to be learnt from, all by default; what follows the last is not played.
        Extensions go on under the controls of clips that have nothing to do with what was played before: the
        student must be ready for anything.
        """
        config = self._config
        graded = set(range(1 + config.extensions)) if graded is None else graded
        rollout = Rollout(self._model, config.clips)
        seeds = torch.randint(2**31, (config.clips,), generator=generator).tolist()
        begin = self._take_up if is_late else self._open
        watchers = self._watchers()
        real = begin(rollout, seeds, generator, watchers)
        past = rollout.next_pass(config.length) if is_late and 0 in graded else None
        made, held = rolled_out(rollout, real.controls, watchers)
        previous = torch.cat([real.first[:, None], made[:, :-1]], 1)
        fake = replace(real, latents=made, previous=previous, controls=held)
        if 0 in graded:
            yield Segment(real, fake, self._noise(seeds, fake), past)
        kept, fresh = slice(config.length - config.overlap, None), slice(config.overlap, None)
        for segment in range(1, 1 + max(graded)):
            index = fake.index + config.length - config.overlap
            real = replace(self._clips.middle(generator, config.clips, config.length), index=index)
            new = real.part(fresh)
            past = rollout.next_pass(new.latents.shape[1]) if segment in graded else None
            made, held = rolled_out(rollout, new.controls, watchers)
            latents = torch.cat([fake.latents[:, kept], made], 1)
            before = fake.previous[:, kept] if config.overlap else fake.latents[:, -1:]
            fake = replace(
                fake,
                latents=latents,
                previous=torch.cat([before[:, :1], latents[:, :-1]], 1),
                controls=torch.cat([fake.controls[:, kept], held], 1),
                index=index,
            )
            if segment in graded:
                yield Segment(real, fake, self._noise(seeds, fake.part(fresh)), past)

    def _watchers(self) -> list[Watcher]:
        if self._sees is None:
            return []
        return [Watcher(self._sees, self._model.preset.keys) for _ in range(self._config.clips)]

    def _open(
        self,
        rollout: Rollout,
        seeds: list[int],
        generator: torch.Generator,
        watchers: list[Watcher],
    ) -> Batch:
        real = self._clips.batch(generator, self._config.clips, self._config.length)
        for slot, seed in enumerate(seeds):
            rollout.open_latent(slot, real.first[slot], real.text[slot], seed)
        for watcher, first in zip(watchers, real.first, strict=False):
            watcher.see(first)
        return real

    def _take_up(
        self,
        rollout: Rollout,
        seeds: list[int],
        generator: torch.Generator,
        watchers: list[Watcher],
    ) -> Batch:
        config = self._config
        window = self._model.dit.config.window
        lived = self._clips.batch(generator, config.clips, 2 + window + config.length, late=1.0)
        lived.index[:] = lived.index[0].clone()  # a pass goes over sessions of one age
        indices = lived.index[0].tolist()
        for slot, seed in enumerate(seeds):
            latents = {0: lived.first[slot], indices[1] - 1: lived.previous[slot, 1]}
            rows = range(2 + window)
            past = Past(
                latents | {indices[i]: lived.latents[slot, i] for i in rows},
                {indices[i]: lived.controls[slot, i] for i in rows},
            )
            rollout.resume_latents(slot, past, lived.text[slot], seed)
        for slot, watcher in enumerate(watchers):
            for i in rows[-1 - self._model.vae.looks_back :]:
                watcher.see(lived.latents[slot, i])
        return lived.part(slice(-config.length, None))

    def _noise(self, seeds: list[int], fake: Batch) -> Latents:
        preset, indices = self._model.preset, fake.index[0].tolist()
        return torch.stack([torch.stack([noise(preset, seed, i) for i in indices]) for seed in seeds])
