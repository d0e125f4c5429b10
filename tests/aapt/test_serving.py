"""A rollout where it is served: steps of fixed shapes make the same latents, in one precision or another.

Nothing here needs a GPU: what a CUDA graph would record runs as it is.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from aapt.checkpoint import Model
from aapt.dit.kv_cache import KVCache
from aapt.dit.steady import steady_pass
from aapt.gpu_check.models import random_model
from aapt.presets import AAPT_8B, DEBUG, Preset
from aapt.rollout import Past, Rollout
from aapt.serving import (
    AS_IT_IS,
    CannotServe,
    ServedNetwork,
    Serving,
    best_serving,
    compiled,
    place,
    quantise,
)
from tests.aapt.players import restless

CLOSE = 1e-5
CLOSE_BF16 = 0.05  # of the latents' root mean square
STEADY = Serving(uses_cuda_graphs=True)
WINDOW = DEBUG.dit.window


def keys(latents: int, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 2, (4, 4), generator=random).float() for _ in range(latents)]


def play(model: Model, serving: Serving, slots: int = 3) -> dict[str, Tensor]:
    """Four sessions that come one after another, one changed prompt, and one slot that is used twice."""
    rollout = Rollout(model, slots, serving)
    made: dict[str, list[Tensor]] = {}

    def step(held: Tensor, **names: int) -> None:
        latents = rollout.step({slot: held for slot in names.values()})
        for name, slot in names.items():
            made.setdefault(name, []).append(latents[slot])

    held = keys(40)
    rollout.open(2, None, "a test", 5)
    for i in range(5):
        step(held[i], old=2)
    rollout.open(0, None, "somebody else", 6)
    for i in range(5, 15):
        step(held[i], young=0, old=2)
    rollout.set_prompt(2, "other words")
    rollout.open(1, None, "a third", 7)
    for i in range(15, 25):
        step(held[i], third=1, old=2, young=0)
    rollout.close(0)
    rollout.open(0, None, "who comes later", 8)
    for i in range(25, 40):
        step(held[i], later=0, third=1)
    return {name: torch.stack(latents) for name, latents in made.items()}


def test_steps_of_fixed_shapes_make_the_latents_of_ordinary_ones() -> None:
    model = restless()
    expected, found = play(model, AS_IT_IS), play(model, STEADY)
    assert found.keys() == expected.keys()
    for name, latents in expected.items():
        torch.testing.assert_close(found[name], latents, atol=CLOSE, rtol=0, msg=name)


def test_a_session_that_is_taken_up_goes_on_with_steps_of_fixed_shapes() -> None:
    model, held = restless(), keys(30)
    rollout = Rollout(model, 1)
    alone = [rollout.open(0, None, "a test", 5)] + [rollout.step({0: control})[0] for control in held]
    past = Past(dict(enumerate(alone[:20])), {i: held[i - 1] for i in range(1, 20)})
    made = {}
    for name, serving in (("ordinary", AS_IT_IS), ("steady", STEADY)):
        taken_up = Rollout(model, 1, serving)
        taken_up.resume(0, past, "a test", 5)
        made[name] = torch.stack([taken_up.step({0: control})[0] for control in held[19:]])
    torch.testing.assert_close(made["steady"], made["ordinary"], atol=CLOSE, rtol=0)


def test_warming_up_leaves_no_trace() -> None:
    model = restless()
    for serving in (AS_IT_IS, STEADY):
        cold, warm = Rollout(model, 2, serving), Rollout(model, 2, serving)
        warm.warm_up()
        for rollout in (cold, warm):
            rollout.open(1, None, "a test", 5)
        for control in keys(WINDOW + 5):
            assert torch.equal(cold.step({1: control})[1], warm.step({1: control})[1])


def test_a_rollout_in_bfloat16_takes_and_gives_float32_and_stays_close() -> None:
    expected = play(restless(), AS_IT_IS)
    for uses_cuda_graphs in (False, True):
        serving = Serving(dtype="bfloat16", uses_cuda_graphs=uses_cuda_graphs)
        model = place(restless(), serving)
        rollout = Rollout(model, 1, serving)
        assert rollout.cache_bytes == Rollout(restless(), 1).cache_bytes / 2
        for name, latents in play(model, serving).items():
            assert latents.dtype == torch.float32
            error = (latents - expected[name]).square().mean().sqrt() / expected[name].square().mean().sqrt()
            assert float(error) < CLOSE_BF16, name


def test_the_moment_of_a_pass_is_its_time_to_the_bit() -> None:
    dit = restless().dit
    random = torch.Generator().manual_seed(2)
    noisy, previous = (torch.randn(3, 2, 4, 4, 4, generator=random) for _ in range(2))
    given = (torch.randn(3, 4, 8, generator=random), torch.ones(3, 2, 4, 4))
    for t in (torch.ones(3), torch.tensor([0.1, 0.5, 1.0])):
        with torch.inference_mode():
            assert torch.equal(dit(noisy, previous, dit.moment(t), *given), dit(noisy, previous, t, *given))


@pytest.mark.parametrize("latent", range(WINDOW + 2, 3 * WINDOW))
def test_a_place_in_the_ring_is_the_same_as_number_and_as_tensor(latent: int) -> None:
    cache = KVCache(
        layers=1, slots=2, window=WINDOW, tokens=3, text_tokens=1, heads=1, text_heads=1, head_dim=2
    )
    here = steady_pass(cache, 1, torch.tensor([[latent]]))
    first = cache.place(latent) * cache.tokens
    assert here.layers[0].tokens.tolist() == list(range(first, first + cache.tokens))
    here.layer(0).write(torch.ones(1, 3, 1, 2), torch.ones(1, 3, 1, 2))
    assert cache.keys[0, 1].sum() == cache.keys.sum() == 6  # in place, and nobody else's


def test_a_compiled_network_has_the_same_weights_and_is_another_object() -> None:
    dit = restless().dit
    twin = compiled(dit)
    assert all(own is its for own, its in zip(dit.parameters(), twin.parameters(), strict=True))
    assert twin.blocks[0] is not dit.blocks[0]


@pytest.mark.parametrize("preset", [DEBUG, AAPT_8B], ids=["keys", "camera"])
@pytest.mark.parametrize("serving", [AS_IT_IS, STEADY], ids=["ordinary", "steady"])
def test_whatever_a_step_makes_is_made_on_its_networks_device(preset: Preset, serving: Serving) -> None:
    # "meta" stands in for a GPU: what meets a tensor of the CPU there is refused.
    dit = random_model(preset, "meta", "bfloat16").dit
    cache = dit.new_cache(2, *preset.latent_shape[1:])
    network, window = ServedNetwork(dit, cache, serving), preset.dit.window
    network.read_text(torch.zeros(1, preset.dit.text_tokens, preset.dit.text_dim), 0)
    for indices in (((1,), (2,)), ((window + 2,), (window + 3,)), ((5,), (window + 9,)), ((1, 2, 3),)):
        shape = (len(indices), len(indices[0]))
        latents = torch.zeros(*shape, *preset.latent_shape)
        controls = torch.zeros(*shape, 4, dit.controls.values_per_frame)
        with torch.inference_mode():
            made = network.evaluate(latents, latents, controls, (0, 1)[: len(indices)], indices)
        assert (made.device.type, made.dtype, made.shape) == ("meta", torch.float32, latents.shape)


COMPILED = """
import torch
from aapt.rollout import Rollout
from aapt.serving import Serving
from tests.aapt.players import restless
made = []
for serving in (Serving(), Serving(is_compiled=True, uses_cuda_graphs=True)):
    rollout = Rollout(restless(), 2, serving)
    rollout.open(0, None, "a test", 5)
    rollout.open(1, None, "another", 6)
    steps = [rollout.step({0: torch.ones(4, 4), 1: torch.zeros(4, 4)}) for _ in range(14)]
    made.append(torch.stack([latent for step in steps for latent in step.values()]))
torch.testing.assert_close(made[1], made[0], atol=1e-5, rtol=0)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "each block was compiled for itself"
"""


@pytest.mark.slow
def test_blocks_are_compiled_once_for_all_and_make_the_same_latents() -> None:
    # In a process of its own: the checks of shapes that tests install are no code to compile.
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=300, cwd=Path(__file__).parents[2])


def test_what_cannot_be_served_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotServe, match="float32, bfloat16"):
        Serving(dtype="float16")
    with pytest.raises(CannotServe, match="needs a GPU and bfloat16"):
        Serving(dtype="bfloat16", fp8=True)
    with pytest.raises(CannotServe, match="try cpu, cuda or cuda:1"):
        best_serving("gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(CannotServe, match="sees 0 GPUs; choose one, or cpu"):
        best_serving("cuda:3")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(CannotServe, match=r"pip install 'aapt\[fp8\]'"):
        quantise(restless().dit, torch.device("cuda"))


def test_a_cpu_serves_as_ever_and_a_gpu_in_bfloat16_with_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert best_serving() == AS_IT_IS
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert best_serving() == Serving("cuda:0", "bfloat16", uses_cuda_graphs=True)
