"""Stage 3: two moves that agree, gradients that flow where they should, and a discriminator that learns."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from aapt.checkpoint import BadCheckpoint, Model, untrained
from aapt.dit.discriminator import Discriminator
from aapt.presets import DEBUG
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.loop import LoopConfig, train
from aapt.train.state import load_players
from aapt.worlds.latents import Batch, Clips

LENGTH = 7  # the window is 4
CLOSE = 1e-5


def stage(model: Model, clips: Clips, **config: object) -> Adversarial:
    chosen = AdversarialConfig(**{"clips": 2, "length": LENGTH, "extensions": 2, **config})  # type: ignore[arg-type]
    return Adversarial(model, model.dit, clips, clips, chosen)


@pytest.mark.parametrize("overlap", [0, 2, 5])
def test_the_pass_with_gradients_makes_the_latents_that_the_rollout_made(
    model: Model, clips: Clips, overlap: int
) -> None:
    adversarial = stage(model, clips, overlap=overlap)
    segments = list(adversarial.play(torch.Generator().manual_seed(3)))
    assert [segment.noise.shape[1] for segment in segments] == [LENGTH, LENGTH - overlap, LENGTH - overlap]
    for segment in segments:
        made = adversarial.again(segment)
        torch.testing.assert_close(made, segment.fake.latents[:, -made.shape[1] :], atol=CLOSE, rtol=0)
        assert segment.fake.latents.shape == segment.real.latents.shape
        assert torch.equal(segment.fake.index, segment.real.index)
    whole = torch.cat([segment.fake.index[0, -segment.noise.shape[1] :] for segment in segments])
    assert whole.tolist() == list(range(1, len(whole) + 1))


def test_gradients_flow_through_keys_and_values_and_stop_at_the_border(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips)
    first, second, _ = adversarial.play(torch.Generator().manual_seed(3))
    first.noise.requires_grad_()
    adversarial.again(first)[:, 2].sum().backward()
    assert first.noise.grad is not None
    reached = first.noise.grad.flatten(2).abs().sum((0, 2))
    assert (reached[:3] > 0).all()
    assert not reached[3:].any()
    assert not second.fake.latents.requires_grad
    assert second.past is not None
    assert not second.past.cache.keys.requires_grad


def test_extensions_are_compared_with_clips_that_do_not_begin_with_a_picture(
    model: Model, clips: Clips
) -> None:
    first, second, third = stage(model, clips).play(torch.Generator().manual_seed(3))
    pictures = torch.cat([episode.firsts for episode in clips.episodes])

    def begins_with_a_picture(batch: Batch) -> list[bool]:
        return [bool((pictures == row).flatten(1).all(1).any()) for row in batch.previous[:, 0]]

    assert all(begins_with_a_picture(first.real))
    assert not any(begins_with_a_picture(second.real))
    assert not any(begins_with_a_picture(second.fake))
    new = second.noise.shape[1]
    assert torch.equal(second.fake.controls[:, -new:], second.real.controls[:, -new:])
    assert torch.equal(second.fake.latents[:, -2:], third.fake.latents[:, :2])


@pytest.mark.parametrize("is_causal", [True, False])
def test_a_causal_discriminator_judges_a_latent_by_its_past_alone(
    model: Model, clips: Clips, is_causal: bool
) -> None:
    discriminator = Discriminator(model.dit, is_causal=is_causal)
    batch = clips.batch(torch.Generator().manual_seed(1), 2, LENGTH)
    t = torch.full((2,), 0.5)

    def logits(latents: torch.Tensor) -> torch.Tensor:
        judged: torch.Tensor = discriminator(
            latents, batch.previous[:, 0], t, batch.text, batch.controls, batch.index
        )
        return judged

    changed = batch.latents.clone()
    changed[:, 4] += 1
    same = (logits(batch.latents) - logits(changed)).abs() < 1e-6
    assert same.shape == (2, LENGTH)
    assert same[:, :4].all() == is_causal
    assert not same[:, 4].any()


def test_a_discriminator_of_clips_has_one_logit(model: Model, clips: Clips) -> None:
    discriminator = Discriminator(model.dit, judges_latents=False)
    batch = clips.batch(torch.Generator().manual_seed(1), 3, LENGTH)
    t = torch.zeros(3)
    assert discriminator(
        batch.latents, batch.previous[:, 0], t, batch.text, batch.controls, batch.index
    ).shape == (
        3,
        1,
    )


def test_each_player_gains_while_the_other_stands_still(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips, extensions=1, penalty=1.0)
    judges = torch.optim.Adam(adversarial.discriminator.parameters(), lr=1e-3)
    leads = []
    for step in range(15):
        judges.zero_grad()
        generator = torch.Generator().manual_seed(step)
        leads.append(adversarial.learn_discriminator(adversarial.draw(generator), generator)["lead"])
        judges.step()
    assert sum(leads[-3:]) > sum(leads[:3]) + 1
    before = {name: p.clone() for name, p in adversarial.discriminator.named_parameters()}
    makers = torch.optim.Adam(adversarial.model.parameters(), lr=1e-3)
    losses = []
    for step in range(15):
        makers.zero_grad()
        generator = torch.Generator().manual_seed(step)
        losses.append(adversarial.learn_generator(adversarial.draw(generator), generator)["loss"])
        makers.step()
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert all(torch.equal(p, before[name]) for name, p in adversarial.discriminator.named_parameters())


def test_a_world_that_is_taken_up_late_goes_on_from_true_latents(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips, extensions=1)
    first, second = adversarial.play(torch.Generator().manual_seed(3), is_late=True)
    index = first.fake.index[0].tolist()
    assert index == list(range(index[0], index[0] + LENGTH))
    assert index[0] > model.dit.config.window + 2
    assert second.fake.index[0, 0] == index[-2]
    assert torch.equal(first.fake.previous[:, 0], first.real.previous[:, 0])
    assert first.past is not None
    for segment in (first, second):
        made = adversarial.again(segment)
        torch.testing.assert_close(made, segment.fake.latents[:, -made.shape[1] :], atol=CLOSE, rtol=0)


def test_a_step_may_learn_from_some_of_its_segments_and_play_no_further(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips, extensions=3, graded=1)
    begins = set()
    for seed in range(12):
        (segment,) = adversarial.draw(torch.Generator().manual_seed(seed))
        begins.add(int(segment.fake.index[0, 0]))
    new = LENGTH - 2
    assert begins == {1, 1 + new, 1 + 2 * new, 1 + 3 * new}


def test_the_generator_waits_while_the_judge_learns_first(model: Model, clips: Clips, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in model.dit.named_parameters()}
    adversarial = stage(model, clips, extensions=0, judge_first=3)
    judges = {name: p.clone() for name, p in adversarial.discriminator.named_parameters()}
    config = LoopConfig(steps=3, learning_rate=1e-3, evaluate_every=99, optimizer="rmsprop")
    train(adversarial, config, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in model.dit.named_parameters())
    moved = [
        name for name, p in adversarial.discriminator.named_parameters() if not torch.equal(p, judges[name])
    ]
    assert moved
    train(adversarial, replace(config, steps=4), tmp_path)
    assert not all(torch.equal(p, before[name]) for name, p in model.dit.named_parameters())


def test_both_players_go_on_from_an_earlier_run(clips: Clips, tmp_path: Path) -> None:
    first = stage(untrained(DEBUG), clips, extensions=0)
    config = LoopConfig(steps=2, learning_rate=1e-3, evaluate_every=99, optimizer="rmsprop")
    train(first, config, tmp_path / "first")
    second = stage(untrained(DEBUG, seed=5), clips, extensions=1)
    load_players({turn.name: turn.network for turn in second.turns}, tmp_path / "first")
    for mine, theirs in zip(second.turns, first.turns, strict=True):
        stored = theirs.network.state_dict()
        assert all(torch.equal(value, stored[name]) for name, value in mine.network.state_dict().items())
    with pytest.raises(BadCheckpoint, match="is missing"):
        load_players({"generator": second.model}, tmp_path)
    with pytest.raises(BadCheckpoint, match="holds no critic, only discriminator, generator"):
        load_players({"critic": second.model}, tmp_path / "first")


def test_a_teacher_forced_latent_is_made_and_judged_behind_true_ones(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips, extensions=0, teacher_forced=True)
    (segment,) = adversarial.draw(torch.Generator().manual_seed(3))
    assert torch.equal(segment.fake.previous, segment.real.previous)
    discriminator, real, fake, t = adversarial.discriminator, segment.real, segment.fake, torch.rand(2)
    given = (t, real.text, real.controls, real.index)
    judged = discriminator(fake.latents, fake.previous[:, 0], *given, after=real.latents)
    for i in range(LENGTH):
        mixed = torch.cat([real.latents[:, :i], fake.latents[:, i : i + 1], real.latents[:, i + 1 :]], 1)
        alone = discriminator(mixed, real.previous[:, 0], *given)[:, i]
        torch.testing.assert_close(judged[:, i], alone, atol=CLOSE, rtol=0)
    numbers = adversarial.learn_discriminator((segment,), torch.Generator().manual_seed(4))
    assert numbers["penalty"] > 0
    assert adversarial.learn_generator((segment,), torch.Generator().manual_seed(4))["loss"] > 0


def test_without_recycling_a_latent_knows_its_past_by_keys_and_values_alone(clips: Clips) -> None:
    preset = replace(DEBUG, dit=replace(DEBUG.dit, recycles=False))
    model = untrained(preset)
    nn.init.normal_(model.dit.head.weight, std=0.2)
    batch = clips.batch(torch.Generator().manual_seed(1), 2, 5)
    given = (torch.ones(2), batch.text, batch.controls, batch.index)
    made = model.dit(batch.latents, batch.previous, *given)
    other = torch.cat([batch.previous[:, :1], torch.randn_like(batch.previous[:, 1:])], 1)
    assert torch.equal(made, model.dit(batch.latents, other, *given))
    assert not torch.equal(made, model.dit(batch.latents, other.flip(1), *given))
    adversarial = Adversarial(model, model.dit, clips, clips, AdversarialConfig(clips=2, length=LENGTH))
    (segment,) = adversarial.play(torch.Generator().manual_seed(3))
    torch.testing.assert_close(adversarial.again(segment), segment.fake.latents, atol=CLOSE, rtol=0)


def test_a_run_that_was_stopped_goes_on_with_both_players(clips: Clips, tmp_path: Path) -> None:
    def weights(run: str, *stops: int) -> dict[str, dict[str, torch.Tensor]]:
        for steps in stops:
            config = LoopConfig(
                steps=steps, learning_rate=1e-4, warmup_steps=100, evaluate_every=99, optimizer="rmsprop"
            )
            torch.manual_seed(0)  # the heads of the discriminator begin at random
            train(stage(untrained(DEBUG), clips, extensions=0), config, tmp_path / run)
        state: dict[str, dict[str, dict[str, torch.Tensor]]] = torch.load(
            tmp_path / run / "state.pt", weights_only=True
        )
        return state["networks"]

    whole, resumed = weights("whole", 4), weights("resumed", 2, 4)
    assert set(whole) == {"generator", "discriminator"}
    for player in whole:
        assert all(torch.equal(whole[player][name], resumed[player][name]) for name in whole[player])
    last = json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[-1])
    assert "sharpness_15" in last["held_out"]


def test_the_anchor_adds_the_gradient_of_the_distance_from_the_truth(model: Model, clips: Clips) -> None:
    def gradient(anchor: float) -> torch.Tensor:
        torch.manual_seed(0)  # the heads of the discriminator begin at random
        adversarial = stage(model, clips, extensions=0, anchor=anchor)
        segments = adversarial.draw(torch.Generator().manual_seed(3))
        adversarial.learn_generator(segments, torch.Generator().manual_seed(4))
        found = model.dit.patch.weight.grad
        assert found is not None
        model.dit.zero_grad()
        return found

    added = gradient(2.0) - gradient(0.0)
    random = torch.Generator().manual_seed(4)
    torch.rand(2, generator=random)  # the discriminator's time
    true = clips.batch(random, 2, LENGTH)
    noise = torch.randn(true.latents.shape, generator=random)
    made = noise - model.dit(noise, true.previous, torch.ones(2), true.text, true.controls)
    (2.0 * (made - true.latents).square().mean()).backward()
    assert model.dit.patch.weight.grad is not None
    torch.testing.assert_close(added, model.dit.patch.weight.grad, atol=1e-5, rtol=1e-4)


def test_a_judge_that_is_shown_exchanged_keys_learns_to_look_at_them(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips, extensions=0, penalty=0.0, mismatched=4.0)
    judges = torch.optim.Adam(adversarial.discriminator.parameters(), lr=1e-3)
    segments = adversarial.draw(torch.Generator().manual_seed(0))
    leads = []
    for step in range(15):
        judges.zero_grad()
        numbers = adversarial.learn_discriminator(segments, torch.Generator().manual_seed(step))
        leads.append(numbers["lead_of_own_keys"])
        judges.step()
    assert sum(leads[-3:]) > sum(leads[:3]) + 1
