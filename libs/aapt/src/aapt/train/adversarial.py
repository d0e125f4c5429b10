"""Stage 3, adversarial student forcing: the generator learns from what it makes of its own past.

Paper, section 2.2 and appendix B. A segment takes two moves: `Rollout` plays it without gradients, which
gives the student's own past; then one pass over the whole segment under the block-causal rule, on the same
noise and that past, gives the same latents with gradients. They flow through keys and values inside the
segment and stop at the recycled latents and at the segment's border.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from aapt.checkpoint import Model
from aapt.dit.discriminator import Discriminator
from aapt.dit.model import DiT
from aapt.flow import Time, clean_estimate
from aapt.rollout import Past, Rollout, noise
from aapt.shapes import Latents
from aapt.train.adapt import judge
from aapt.train.chance import device_of, normal, uniform
from aapt.train.log import Means
from aapt.train.loop import Turn
from aapt.train.parts import shares, spans
from aapt.train.ranges import ABOVE_0, ANY, COUNT, SHARE, check_ranges
from aapt.train.segments import Segment, perturbed, rolled_out
from aapt.worlds.latents import Batch, Clips


@dataclass(frozen=True)
class AdversarialConfig:
    """The paper: penalty 1000, perturbation 0.1 (a standard deviation), logits of single latents, causal.

    length: latents of the first segment. extensions: further segments, each of `length` - `overlap` new
    latents; the discriminator sees them behind the last `overlap` of the segment before (paper: one second).
    graded: how many of a step's segments are learnt from, drawn anew each time; the others are only played,
      which costs a tenth, and what follows the last of them is not played at all. 0: all (paper).
    late: share of steps that take up worlds in which somebody has played for long (`Clips.batch`).
    judge_rate: the discriminator's learning rate, of the generator's. judge_first: steps in which it learns
      alone. RMSProp takes steps of full length however little a gradient says, and a judge whose heads are
      still random leads a small generator astray within fifty of them.
    anchor: weight, in the generator's loss, of its squared distance from the truth one step behind true
      latents. The judge asks for a likely video; this holds the generator to the one that the keys ask for.
      0: none (paper).
    mismatched: weight, in the discriminator's loss, of real clips under the keys of others, which are to fall
      below the same clips under their own. Without it the judge hardly looks at the keys. 0: none (paper).
    teacher_forced: each latent is made and judged behind true ones; the paper's ablation (appendix D).
    """

    clips: int = 4
    length: int = 10
    extensions: int = 0
    overlap: int = 2
    graded: int = 0
    late: float = 0.0
    penalty: float = 1000.0
    perturbation: float = 0.1
    is_causal: bool = True
    judges_latents: bool = True
    judge_rate: float = 1.0
    judge_first: int = 0
    anchor: float = 0.0
    mismatched: float = 0.0
    teacher_forced: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, clips=COUNT, length=COUNT, extensions=ANY, graded=ANY, late=SHARE, judge_first=ANY)
        check_ranges(self, penalty=ANY, perturbation=ANY, judge_rate=ABOVE_0, anchor=ANY, mismatched=ANY)
        if not 0 <= self.overlap < self.length:
            raise ValueError(
                f"overlap {self.overlap} of {self.length} latents leaves nothing new; choose less"
            )
        if self.mismatched and self.clips < 2:
            raise ValueError("mismatched gives a clip the keys of another; take 2 clips or more")
        rollouts = self.extensions or self.late
        if self.teacher_forced and (rollouts or not self.is_causal or not self.judges_latents):
            raise ValueError(
                "teacher forcing plays nothing, so it has no extensions and no late worlds, and its judge is"
                " causal and judges latents; leave these options out"
            )


class Adversarial:
    """Discriminator and generator take turns on the same rollouts: neither changes what was made of them.

    micro_clips: as in `Adapt`; all clips are played at once.
    """

    def __init__(
        self,
        model: Model,
        adapted: DiT,
        clips: Clips,
        held_out: Clips,
        config: AdversarialConfig,
        *,
        is_compiled: bool = False,
        micro_clips: int = 0,
    ) -> None:
        self.model = model.dit
        self._device = device_of(model.dit)
        judge = Discriminator(adapted, is_causal=config.is_causal, judges_latents=config.judges_latents)
        self.discriminator = judge.to(self._device)
        # The generator stays as it is: its passes differ in where they are in a session, and each would be
        # compiled again.
        self._judge = torch.compile(self.discriminator) if is_compiled else self.discriminator
        self._whole = model
        self._clips = clips
        self._held_out = held_out
        self._config = config
        self._micro_clips = micro_clips

    @property
    def turns(self) -> tuple[Turn[tuple[Segment, ...]], ...]:
        rate, alone = self._config.judge_rate, self._config.judge_first
        return (
            Turn("discriminator", self.discriminator, self.learn_discriminator, rate),
            Turn("generator", self.model, self.learn_generator, first_step=alone),
        )

    def draw(self, generator: torch.Generator) -> tuple[Segment, ...]:
        config = self._config
        if config.teacher_forced:
            return (self._forced(generator),)
        is_late = float(torch.rand((), generator=generator)) < config.late
        count = 1 + config.extensions
        graded = torch.randperm(count, generator=generator)[: config.graded or count].tolist()
        return tuple(
            segment.to(self._device) for segment in self.play(generator, set(graded), is_late=is_late)
        )

    def learn_discriminator(
        self, segments: tuple[Segment, ...], generator: torch.Generator
    ) -> dict[str, float]:
        """Real above fake, latent by latent, and little change in small surroundings of both (R1, R2)."""
        config, numbers = self._config, Means()
        for segment in segments:
            times = uniform((config.clips,), generator, self._device)
            near = perturbed(segment.real, config.perturbation, generator)
            fake_near = perturbed(segment.fake, config.perturbation, generator)
            # The same t in all four: the penalty is not to measure how logits change with t.
            shown = (segment.real, near, segment.fake, fake_near)
            others = replace(segment.real, controls=segment.real.controls.roll(1, 0))
            for some, share in self._shares(self.discriminator, is_last=segment is segments[-1]):
                t = times[some]
                real, real_near, fake, beside = self._judged(tuple(each.rows(some) for each in shown), t)
                adversarial = softplus(fake - real).mean()
                penalty = ((real - real_near).square() + (fake - beside).square()).mean()
                loss = adversarial + config.penalty * penalty
                numbers.add(share, adversarial=adversarial, penalty=penalty, lead=(real - fake).mean())
                if config.mismatched:
                    (wrong,) = self._logits((others.rows(some),), t)
                    loss = loss + config.mismatched * softplus(wrong - real).mean()
                    numbers.add(share, lead_of_own_keys=(real - wrong).mean())
                (share * loss / len(segments)).backward()
                numbers.add(share, loss=loss)
        return numbers.means()

    def learn_generator(self, segments: tuple[Segment, ...], generator: torch.Generator) -> dict[str, float]:
        """Fake above real, latent by latent; one backward for each segment."""
        config, numbers = self._config, Means()
        self.discriminator.requires_grad_(False)
        for segment in segments:
            t = uniform((config.clips,), generator, self._device)
            is_last = segment is segments[-1] and not config.anchor
            for some, share in self._shares(self.model, is_last=is_last):
                loss = self._fooled(segment.rows(some), t[some])
                (share * loss / len(segments)).backward()
                numbers.add(share, loss=loss)
        self.discriminator.requires_grad_(True)
        if config.anchor:
            true = self._clips.batch(generator, config.clips, config.length, config.late).to(self._device)
            noise = normal(true.latents.shape, generator, self._device)
            for some, share in self._shares(self.model):
                distance = self._distance(true.rows(some), noise[some])
                (share * config.anchor * distance).backward()
                numbers.add(share, anchor=distance)
        return numbers.means()

    def play(
        self, generator: torch.Generator, graded: Set[int] | None = None, *, is_late: bool = False
    ) -> Iterator[Segment]:
        """The first move: the student plays one segment after another, under the controls of real clips.

        graded: the segments to be learnt from, all by default; what follows the last is not played.
        Extensions go on under the controls of clips that have nothing to do with what was played before: the
        student must be ready for anything.
        """
        config = self._config
        graded = set(range(1 + config.extensions)) if graded is None else graded
        rollout = Rollout(self._whole, config.clips)
        seeds = torch.randint(2**31, (config.clips,), generator=generator).tolist()
        real = self._take_up(rollout, seeds, generator) if is_late else self._open(rollout, seeds, generator)
        past = rollout.next_pass(config.length) if is_late and 0 in graded else None
        made = rolled_out(rollout, real)
        fake = replace(real, latents=made, previous=torch.cat([real.first[:, None], made[:, :-1]], 1))
        if 0 in graded:
            yield Segment(real, fake, self._noise(seeds, fake), past)
        kept, fresh = slice(config.length - config.overlap, None), slice(config.overlap, None)
        for segment in range(1, 1 + max(graded)):
            index = fake.index + config.length - config.overlap
            real = replace(self._clips.middle(generator, config.clips, config.length), index=index)
            new = real.part(fresh)
            past = rollout.next_pass(new.latents.shape[1]) if segment in graded else None
            made = rolled_out(rollout, new)
            latents = torch.cat([fake.latents[:, kept], made], 1)
            before = fake.previous[:, kept] if config.overlap else fake.latents[:, -1:]
            fake = replace(
                fake,
                latents=latents,
                previous=torch.cat([before[:, :1], latents[:, :-1]], 1),
                controls=torch.cat([fake.controls[:, kept], new.controls], 1),
                index=index,
            )
            if segment in graded:
                yield Segment(real, fake, self._noise(seeds, fake.part(fresh)), past)

    def again(self, segment: Segment) -> Latents:
        """The second move: the new latents of a segment once more, in one pass and with gradients."""
        new = segment.fake.part(slice(-segment.noise.shape[1], None))
        t: Time = torch.ones(len(segment.noise), device=self._device)
        index = new.index if segment.past is None else None
        given = (new.previous, t, new.text, new.controls, index)
        predicted = self.model(segment.noise, *given, cache=segment.past)
        return clean_estimate(segment.noise, predicted, t)

    def evaluate(self, model: nn.Module, folder: Path | None, step: int) -> dict[str, float]:
        assert isinstance(model, DiT)
        return judge(self._whole, model, self._held_out, folder, step)

    def _open(self, rollout: Rollout, seeds: list[int], generator: torch.Generator) -> Batch:
        real = self._clips.batch(generator, self._config.clips, self._config.length)
        for slot, seed in enumerate(seeds):
            rollout.open_latent(slot, real.first[slot], real.text[slot], seed)
        return real

    def _take_up(self, rollout: Rollout, seeds: list[int], generator: torch.Generator) -> Batch:
        config = self._config
        window = self.model.config.window
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
        return lived.part(slice(-config.length, None))

    def _noise(self, seeds: list[int], fake: Batch) -> Latents:
        preset, indices = self._whole.preset, fake.index[0].tolist()
        return torch.stack([torch.stack([noise(preset, seed, i) for i in indices]) for seed in seeds])

    def _shares(self, network: nn.Module, *, is_last: bool = True) -> Iterator[tuple[slice, float]]:
        return shares(network, self._config.clips, self._micro_clips, is_last=is_last)

    def _fooled(self, segment: Segment, t: Time) -> Float[Tensor, ""]:
        made = self.again(segment)
        old = segment.fake.latents[:, : -made.shape[1]]
        shown = replace(segment.fake, latents=torch.cat([old, made], 1))
        (fake,) = self._logits((shown,), t, after=segment.real if self._config.teacher_forced else None)
        with torch.no_grad():
            (real,) = self._logits((segment.real,), t)
        return softplus(real - fake).mean()

    def _distance(self, true: Batch, noise: Latents) -> Float[Tensor, ""]:
        t: Time = torch.ones(len(true.latents), device=self._device)
        predicted = self.model(noise, true.previous, t, true.text, true.controls, true.index)
        return (clean_estimate(noise, predicted, t) - true.latents).square().mean()

    @torch.no_grad()
    def _forced(self, generator: torch.Generator) -> Segment:
        real = self._clips.batch(generator, self._config.clips, self._config.length).to(self._device)
        segment = Segment(real, real, normal(real.latents.shape, generator, self._device), None)
        made = [self.again(segment.rows(some)) for some in spans(len(real.latents), self._micro_clips)]
        return replace(segment, fake=replace(real, latents=torch.cat(made)))

    def _judged(self, shown: tuple[Batch, ...], t: Time) -> tuple[Float[Tensor, "b judged"], ...]:
        """Logits of real, near, fake and fake_near."""
        if not self._config.teacher_forced:
            return self._logits(shown, t)
        return self._logits(shown[:2], t) + self._logits(shown[2:], t, after=shown[0])

    def _logits(
        self, shown: tuple[Batch, ...], t: Time, *, after: Batch | None = None
    ) -> tuple[Float[Tensor, "b judged"], ...]:
        """Of several batches in one pass, each clip at the same time in all of them."""
        seen = Batch.joined(shown)
        true = None if after is None else torch.cat([after.latents] * len(shown))
        before = seen.previous[:, 0]
        given = (seen.latents, before, t.repeat(len(shown)), seen.text, seen.controls, seen.index)
        return self._judge(*given, after=true).chunk(len(shown))
