"""The promises of the rollout: cached steps equal one block-causal pass, sessions are strangers, a past can
be taken up."""

import pytest
import torch
from torch import Tensor, nn

from aapt.checkpoint import Model, untrained
from aapt.flow import clean_estimate
from aapt.presets import DEBUG, ROAD, Preset
from aapt.rollout import Past, Rollout, noise

SEED = 5
CLOSE = 1e-5


@pytest.fixture
def model() -> Model:
    made = untrained(DEBUG)
    torch.manual_seed(1)
    nn.init.normal_(made.dit.head.weight, std=0.2)  # a fresh network answers zero to everything
    return made


def controls(latents: int, seed: int = 0) -> dict[int, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {i: torch.randint(0, 2, (4, 4), generator=random).float() for i in range(1, latents + 1)}


def play(
    model: Model, held: dict[int, Tensor], prompt: str = "a test", seed: int = SEED
) -> dict[int, Tensor]:
    rollout = Rollout(model, 1)
    latents = {0: rollout.open(0, None, prompt, seed)}
    for i, control in held.items():
        latents[i] = rollout.step({0: control})[0]
    return latents


def drawn(model: Model, latents: int, seed: int = SEED) -> Tensor:
    return torch.stack([noise(model.preset, seed, i) for i in range(1, latents + 1)])[None]


@pytest.mark.parametrize("length", [1, 3, 5, 6, 7, 17])  # the window is 4
def test_cached_steps_equal_one_block_causal_pass(model: Model, length: int) -> None:
    held = controls(length)
    latents = play(model, held)
    with torch.inference_mode():
        start = drawn(model, length)
        previous = torch.stack([latents[i] for i in range(length)])[None]
        text = model.text.encode("a test")[None]
        t = torch.ones(1)
        whole = clean_estimate(
            start, model.dit(start, previous, t, text, torch.stack([*held.values()])[None]), t
        )
    for i in range(1, length + 1):
        torch.testing.assert_close(whole[0, i - 1], latents[i], atol=CLOSE, rtol=0)


def test_sessions_of_different_age_prompt_and_seed_do_not_see_each_other(model: Model) -> None:
    held, others = controls(20), controls(20, seed=9)
    alone = play(model, held)
    other_alone = play(model, others, "another prompt", seed=77)
    rollout = Rollout(model, 3)
    rollout.open(2, None, "a test", SEED)
    for i in range(1, 8):
        torch.testing.assert_close(rollout.step({2: held[i]})[2], alone[i], atol=CLOSE, rtol=0)
    rollout.open(0, None, "another prompt", 77)
    for i in range(1, 13):
        made = rollout.step({0: others[i], 2: held[i + 7]})
        torch.testing.assert_close(made[2], alone[i + 7], atol=CLOSE, rtol=0)
        torch.testing.assert_close(made[0], other_alone[i], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("preset", [DEBUG, ROAD], ids=lambda preset: preset.name)
def test_a_session_dreams_in_company_what_it_dreams_alone_to_the_bit(preset: Preset) -> None:
    model = untrained(preset)
    torch.manual_seed(1)
    nn.init.normal_(model.dit.head.weight, std=0.2)
    held = controls(preset.dit.window + 6)
    alone = play(model, held)
    rollout = Rollout(model, 5)
    rollout.open(3, None, "a test", SEED)
    others = [slot for slot in range(5) if slot != 3]
    for i, control in held.items():
        company = others[: i % 5]  # nobody, then one more with each latent
        for slot in company:
            rollout.close(slot)
            random = torch.Generator().manual_seed(10 * i + slot)
            image = torch.randint(256, (preset.height_px, preset.width_px, 3), generator=random).byte()
            rollout.open(slot, image, f"another world {slot}", 10 * i + slot)
        made = rollout.step({slot: torch.ones(4, 4) for slot in company} | {3: control})
        assert torch.equal(made[3], alone[i])


def test_a_slot_that_was_used_before_leaves_no_trace(model: Model) -> None:
    held = controls(8)
    alone = play(model, held)
    rollout = Rollout(model, 1)
    rollout.open(0, None, "someone else", 123)
    for control in controls(11, seed=3).values():
        rollout.step({0: control})
    rollout.close(0)
    rollout.open(0, None, "a test", SEED)
    for i, control in held.items():
        torch.testing.assert_close(rollout.step({0: control})[0], alone[i], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("broken_at", [1, 2, 5])
def test_a_resumed_session_goes_on_exactly_where_its_history_fits_the_window(
    model: Model, broken_at: int
) -> None:
    held = controls(12)
    alone = play(model, held)
    rollout = Rollout(model, 1)
    past = Past({i: alone[i] for i in range(broken_at)}, {i: held[i] for i in range(1, broken_at)})
    rollout.resume(0, past, "a test", SEED)
    for i in range(broken_at, 13):
        torch.testing.assert_close(rollout.step({0: held[i]})[0], alone[i], atol=CLOSE, rtol=0)


def test_a_resumed_session_needs_only_the_first_latents_and_the_window(model: Model) -> None:
    held = controls(30)
    alone = play(model, held)
    newest, window = 20, DEBUG.dit.window
    kept = [0, 1, *range(newest - window - 1, newest + 1)]
    rollout = Rollout(model, 1)
    rollout.resume(0, Past({i: alone[i] for i in kept}, {i: held[i] for i in kept if i}), "a test", SEED)
    error = [float((rollout.step({0: held[i]})[0] - alone[i]).square().mean()) for i in range(newest + 1, 31)]
    spread = float(alone[25].var())
    assert max(error) < 0.05 * spread  # close, not exact: deeper layers had seen what is gone


@pytest.mark.parametrize("built_at", [1, 3, 9])
def test_a_session_that_was_played_on_elsewhere_is_caught_up_with(model: Model, built_at: int) -> None:
    held = controls(16)
    alone = play(model, held)
    rollout, ahead = Rollout(model, 2), Rollout(model, 2)
    for each, known in ((rollout, 12), (ahead, built_at)):
        past = Past({i: alone[i] for i in range(known)}, {i: held[i] for i in range(1, known)})
        each.resume(1, past, "a test", SEED)
    since = range(built_at, 12)
    ahead.extend(1, Past({i: alone[i] for i in since}, {i: held[i] for i in since}))
    spread = float(alone[12].var())
    for i in range(12, 17):
        error = (ahead.step({1: held[i]})[1] - rollout.step({1: held[i]})[1]).square().mean()
        assert float(error) < 0.05 * spread  # they began with different windows
    with pytest.raises(ValueError, match="lacks latent 17, which follows 16"):
        ahead.extend(1, Past({18: alone[1]}, {18: held[1]}))


def test_a_past_with_a_gap_is_refused_with_its_place(model: Model) -> None:
    held = controls(12)
    alone = play(model, held)
    past = Past({i: alone[i] for i in range(12) if i != 9}, {i: held[i] for i in range(1, 12)})
    with pytest.raises(ValueError, match=r"lacks latents or controls around \[10\]"):
        Rollout(model, 1).resume(0, past, "a test", SEED)


def test_noise_depends_on_seed_and_index_alone(model: Model) -> None:
    held = controls(6)
    first, again, other = play(model, held), play(model, held), play(model, held, seed=6)
    assert all(torch.equal(first[i], again[i]) for i in first)
    assert not torch.equal(first[3], other[3])


def test_the_prompt_and_the_keys_reach_the_picture(model: Model) -> None:
    still = {i: torch.zeros(4, 4) for i in range(1, 4)}
    left = {i: torch.tensor([[1.0, 0, 0, 0]] * 4) for i in range(1, 4)}
    assert not torch.allclose(play(model, still)[3], play(model, left)[3])
    assert not torch.allclose(play(model, still)[3], play(model, still, "something else")[3])


def test_a_slot_that_is_taken_or_unknown_is_refused(model: Model) -> None:
    rollout = Rollout(model, 1)
    rollout.open(0, None, "", SEED)
    with pytest.raises(ValueError, match="slot 0 of 1 is not free"):
        rollout.open(0, None, "", SEED)
    with pytest.raises(ValueError, match="slot 1 of 1 is not free"):
        rollout.open(1, None, "", SEED)
    with pytest.raises(ValueError, match="slot 3 holds no session"):
        rollout.step({3: torch.zeros(4, 4)})


def test_an_image_of_another_size_is_refused_with_both_sizes(model: Model) -> None:
    with pytest.raises(ValueError, match=r"\(7, 9, 3\).*\(32, 32, 3\)"):
        Rollout(model, 1).open(0, torch.zeros(7, 9, 3, dtype=torch.uint8), "", SEED)


def test_a_new_prompt_changes_what_comes_and_nobody_else(model: Model) -> None:
    held = controls(8)
    alone = play(model, held)
    rollout = Rollout(model, 2)
    rollout.open(0, None, "a test", SEED)
    rollout.open(1, None, "a test", SEED)
    for i in range(1, 5):
        rollout.step({0: held[i], 1: held[i]})
    rollout.set_prompt(1, "something else")
    made = rollout.step({0: held[5], 1: held[5]})
    torch.testing.assert_close(made[0], alone[5], atol=CLOSE, rtol=0)
    assert not torch.allclose(made[1], alone[5])
