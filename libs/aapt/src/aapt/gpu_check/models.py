"""Models with random weights, made where they are measured, and the ways in which they are served."""

from collections.abc import Iterator

import torch
from torch import nn

from aapt.checkpoint import Model
from aapt.dit.model import DiT
from aapt.parallel import ALONE, SequenceParallel
from aapt.plan.cost import USABLE_MEMORY
from aapt.plan.count import count
from aapt.plan.gpus import GPU, GPUS
from aapt.presets import Preset
from aapt.serving import FP8_CAPABILITY, PRECISIONS, Serving
from aapt.text import HashedWords
from aapt.vae.model import VideoVAE

SEED = 1


def random_model(
    preset: Preset, device: str = "cpu", dtype: str = "float32", parallel: SequenceParallel = ALONE
) -> Model:
    """`preset` with random weights, drawn on `device` itself: eight billion of them never see the host.

    Its last layer is random too; a fresh one answers zero to everything.
    """
    usual = torch.get_default_dtype()
    torch.set_default_dtype(PRECISIONS[dtype])
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(SEED)
            dit, vae = DiT(preset.dit, parallel), VideoVAE(preset.vae)
            nn.init.normal_(dit.head.weight, std=preset.dit.dim**-0.5)
    finally:
        torch.set_default_dtype(usual)
    text = HashedWords(preset.dit.text_tokens, preset.dit.text_dim)
    grey = torch.full((preset.height_px, preset.width_px, 3), 128, dtype=torch.uint8)
    return Model(preset, dit.eval(), vae.eval(), text, [grey])


def ways(device: str, *, is_compiled: bool) -> Iterator[tuple[str, Serving]]:
    """How a network may be served on `device`, from the plainest on, by name."""
    if torch.device(device).type == "cpu":
        yield "float32", Serving(device)
        yield "float32, fixed shapes", Serving(device, uses_cuda_graphs=True)
        yield "bfloat16", Serving(device, "bfloat16")
        if is_compiled:
            yield "float32, compiled", Serving(device, is_compiled=True)
        return
    yield "float32", Serving(device)
    yield "bfloat16", Serving(device, "bfloat16")
    yield "bfloat16, graphs", Serving(device, "bfloat16", uses_cuda_graphs=True)
    if is_compiled:
        yield (
            "bfloat16, compiled, graphs",
            Serving(device, "bfloat16", is_compiled=True, uses_cuda_graphs=True),
        )
        if torch.cuda.get_device_capability(device) >= FP8_CAPABILITY:
            yield (
                "fp8, compiled, graphs",
                Serving(device, "bfloat16", is_compiled=True, uses_cuda_graphs=True, fp8=True),
            )


def needed_bytes(preset: Preset, ranks: int = 1) -> int:
    """Memory of weights and one session's cache in bfloat16, on each of `ranks`: they share its heads."""
    counted = count(preset)
    kept = counted.dit_weights + counted.vae_weights + counted.cache // ranks + counted.text_cache
    return 2 * kept


def fits(preset: Preset, device: str, ranks: int = 1) -> bool:
    """Whether the memory of `device` has room for that; a CPU's is not asked."""
    if torch.device(device).type == "cpu":
        return True
    _, whole_bytes = torch.cuda.mem_get_info(device)
    return needed_bytes(preset, ranks) <= USABLE_MEMORY * whole_bytes


def known_gpu(name: str) -> GPU | None:
    """The data sheet that the cost model has of a GPU that calls itself `name`."""
    return next((gpu for key, gpu in GPUS.items() if key.upper() in name.upper()), None)
