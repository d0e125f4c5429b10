"""What a preset's passes multiply and read, counted on the real modules.

They live on the meta device, where tensors have shapes and no numbers: eight billion parameters cost seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aapt.dit.discriminator import Discriminator
from aapt.dit.model import CachePass, DiT
from aapt.presets import Preset
from aapt.shapes import FRAMES_PER_LATENT, Controls, Latents
from aapt.vae.model import VideoVAE


@dataclass(frozen=True)
class Work:
    """One pass. A multiplication and its addition are two FLOP.

    weights: parameters that it reads. maps: numbers that convolutions read and write besides.
    """

    linear_flop: int
    attention_flop: int
    convolution_flop: int
    weights: int
    maps: int

    @property
    def flop(self) -> int:
        """All of them together."""
        return self.linear_flop + self.attention_flop + self.convolution_flop


@dataclass(frozen=True)
class Count:
    """A preset in numbers, for one session.

    first: the step that makes latent 1, with an empty cache. step: any step with a full one.
    cache, text_cache: keys and values that are kept of a session's latents, and of its prompt.
    """

    preset: Preset
    tokens: int  # of one latent
    first: Work
    step: Work
    text: Work  # once per prompt
    encode: Work  # once per session: its first picture
    decode: Work  # once per latent
    cache: int
    text_cache: int
    dit_weights: int
    vae_weights: int

    def step_flop(self, places: int) -> float:
        """FLOP of a step whose latent sees `places` latents, itself included: attention grows with them."""
        per_place = (self.step.flop - self.first.flop) / (self.preset.dit.window + 1)
        return self.first.flop + (places - 1) * per_place


def seen_latents(window: int, latents: int, after: int = 0) -> list[int]:
    """How many each of `latents` latents sees that follow `after` others, itself included."""
    return [min(i, window + 2) for i in range(after + 1, after + latents + 1)]


@cache
def count(preset: Preset) -> Count:
    """Count `preset`'s passes; nothing is computed and no weights are needed."""
    with torch.device("meta"), torch.inference_mode():
        dit, vae = DiT(preset.dit), VideoVAE(preset.vae)
        latent, controls = _inputs(preset, dit)
        kept = dit.new_cache(1, *latent.shape[-2:])
        text = torch.empty(1, preset.dit.text_tokens, preset.dit.text_dim)
        moment = dit.moment(torch.ones(1))  # made once, as a rollout does

        def step(index: int) -> Work:
            cache_pass = CachePass(kept, (0,), ((index,),))
            return _work(dit, lambda: dit(latent, latent, moment, None, controls, cache=cache_pass))

        _, tails = vae.decode_after(latent, None)
        return Count(
            preset=preset,
            tokens=kept.tokens,
            first=step(1),
            step=step(preset.dit.window + 2),
            text=_work(dit, lambda: dit.read_text(text, kept, 0)),
            encode=_work(vae, lambda: vae.encode(torch.empty(1, 1, 3, preset.height_px, preset.width_px))),
            decode=_work(vae, lambda: vae.decode_after(latent, tails)),
            cache=kept.keys.numel() + kept.values.numel(),
            text_cache=kept.text_keys.numel() + kept.text_values.numel(),
            dit_weights=_weights(dit),
            vae_weights=_weights(vae),
        )


@dataclass(frozen=True)
class HeadsCount:
    """What a discriminator has and does beyond the network that it is made of."""

    flop_per_latent: int
    weights: int


@cache
def count_heads(preset: Preset) -> HeadsCount:
    """Count the heads of `preset`'s discriminator."""
    with torch.device("meta"), torch.inference_mode():
        dit = DiT(preset.dit)
        discriminator = Discriminator(dit)
        latent, controls = _inputs(preset, dit)
        text = torch.empty(1, preset.dit.text_tokens, preset.dit.text_dim)
        given = (torch.ones(1), text, controls, torch.ones(1, 1, dtype=torch.long))
        whole = _work(discriminator, lambda: discriminator(latent, latent[:, 0], *given))
        backbone = _work(dit, lambda: dit.hidden(latent, latent, *given))
        return HeadsCount(whole.flop - backbone.flop, _weights(discriminator) - _weights(dit))


def _inputs(preset: Preset, dit: DiT) -> tuple[Latents, Controls]:
    latent = torch.empty(1, 1, *preset.latent_shape)
    return latent, torch.empty(1, 1, FRAMES_PER_LATENT, dit.controls.values_per_frame)


def _work(network: nn.Module, run: Callable[[], object]) -> Work:
    used: set[nn.Module] = set()
    maps: list[int] = []

    def note(module: nn.Module, given: tuple[object, ...], made: object) -> None:
        used.add(module)
        if isinstance(module, nn.Conv2d):
            maps.extend(x.numel() for x in (*given, made) if isinstance(x, Tensor))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    with FlopCounterMode(display=False) as counter:
        run()
    for hook in hooks:
        hook.remove()
    flop = {"linear": 0, "attention": 0, "convolution": 0}
    for operation, number in counter.get_flop_counts()["Global"].items():
        flop[_kind(str(operation))] += number
    return Work(
        linear_flop=flop["linear"],
        attention_flop=flop["attention"],
        convolution_flop=flop["convolution"],
        weights=sum(p.numel() for module in used for p in module.parameters(recurse=False)),
        maps=sum(maps),
    )


def _kind(operation: str) -> str:
    # Only attention multiplies batches of matrices: that is how it shows where it is not fused.
    if "attention" in operation or "bmm" in operation:
        return "attention"
    return "convolution" if "conv" in operation else "linear"


def _weights(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
