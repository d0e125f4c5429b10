"""Stage 3, adversarial student forcing: the generator learns from what it makes of its own past.

Paper, section 2.2 and appendix B. A segment takes two moves: `Rollout` plays it without gradients, which
gives the student's own past; then one pass over the whole segment under the block-causal rule, on the same
noise and that past, gives the same latents with gradients. They flow through keys and values inside the
segment and stop at the recycled latents and at the segment's border.
"""

import copy
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from aapt.checkpoint import Model
from aapt.dit.discriminator import Discriminator
from aapt.dit.model import DiT
from aapt.flow import Time, clean_estimate
from aapt.shapes import Latents
from aapt.train.adapt import judge
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.chance import device_of, normal, uniform
from aapt.train.log import Means
from aapt.train.loop import Turn
from aapt.train.parts import shares, spans
from aapt.train.segments import Segment, perturbed
from aapt.train.student import Student
from aapt.vae.streaming import for_serving
from aapt.worlds.latents import Batch, Clips


class Adversarial:
    """Discriminator and generator take turns on the same rollouts: neither changes what was made of them.

    sighted: real clips that were driven by sight, where the config asks for them.
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
        sighted: Clips | None = None,
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
        self._student = Student(model, clips, config)
        self._sighted: Student | None = None
        if config.by_sight:
            if sighted is None:
                raise ValueError("by_sight needs clips that were driven so: --sighted-data names recordings")
            seeing = for_serving(
                copy.deepcopy(model.vae).to(self._device)
            )  # the model's own stays where it is
            self._sighted = Student(model, sighted, config, sees=seeing)
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
        is_sighted = False
        if config.by_sight:  # otherwise nothing is drawn: steps stay what they were
            is_sighted = float(torch.rand((), generator=generator)) < config.by_sight
        count = 1 + config.extensions
        graded = torch.randperm(count, generator=generator)[: config.graded or count].tolist()
        how = {"is_late": is_late, "is_sighted": is_sighted}
        return tuple(segment.to(self._device) for segment in self.play(generator, set(graded), **how))

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
        self,
        generator: torch.Generator,
        graded: Set[int] | None = None,
        *,
        is_late: bool = False,
        is_sighted: bool = False,
    ) -> Iterator[Segment]:
        """The first move: see `Student.play`. is_sighted: as `AdversarialConfig.by_sight` says."""
        student = self._sighted if is_sighted else self._student
        assert student is not None, "the config asks for nothing by sight"
        return student.play(generator, graded, is_late=is_late)

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
