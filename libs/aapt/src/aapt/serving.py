"""`ServedNetwork`: the network of a rollout on its device. All that is CUDA's stands here.

Latents come and go on the host in float32; weights and cache are where `Serving` says. Past the window every
step has the same shapes and addresses (`dit/steady.py`), so there it can be compiled, and recorded once for
each slot as a CUDA graph. Several sessions that are due then run one after another; before the window is
full they run as ever.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from aapt.checkpoint import Model
from aapt.dit.kv_cache import KVCache
from aapt.dit.model import CachePass, DiT, Moment
from aapt.dit.steady import steady_pass
from aapt.flow import clean_estimate
from aapt.shapes import Controls, Latents, Text
from aapt.vae.model import VideoVAE

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FP8_CAPABILITY = (8, 9)  # compute capability of the first GPUs that multiply fp8: Ada, then Hopper
HOPPER = (9, 0)
WARM_RUNS = 3  # before a step is recorded: kernels are chosen and libraries loaded


class CannotServe(ValueError):
    """The model cannot be served as was asked on this machine."""


@dataclass(frozen=True)
class Serving:
    """Where and how the network is evaluated.

    dtype: "float32" or "bfloat16", of weights and cache; latents and sums of the sampler stay in float32.
    is_compiled: blocks go through torch.compile, once for all of them, for steps past the window.
    uses_cuda_graphs: steps past the window are recorded once for each slot and replayed. A CPU has no such
      graphs: there the same steps of fixed shapes run as they are.
    fp8: linear layers of the blocks multiply in fp8, by torchao.
    """

    device: str = "cpu"
    dtype: str = "float32"
    is_compiled: bool = False
    uses_cuda_graphs: bool = False
    fp8: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in PRECISIONS:
            raise CannotServe(f"dtype is {self.dtype!r}; choose one of {', '.join(PRECISIONS)}")
        if self.fp8 and (self.dtype != "bfloat16" or torch.device(self.device).type != "cuda"):
            raise CannotServe(
                f"fp8 was asked for on {self.device} in {self.dtype}; it needs a GPU and bfloat16 around it"
            )

    @property
    def is_steady(self) -> bool:
        """Whether steps past the window are of fixed shapes, one session after another."""
        return self.is_compiled or self.uses_cuda_graphs


AS_IT_IS = Serving()


def best_serving(device: str = "", *, is_compiled: bool = False, fp8: bool = False) -> Serving:
    """What suits `device`, or where none is named the first GPU, or the CPU where there is none.

    On GPUs bfloat16 and CUDA graphs, on a CPU float32. Raises CannotServe for a device that is not there.
    """
    gpus = torch.cuda.device_count()
    device = device or ("cuda:0" if gpus else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise CannotServe(f"device {device!r} is none that torch knows; try cpu, cuda or cuda:1") from error
    if chosen.type == "cpu":
        return Serving(device, is_compiled=is_compiled, fp8=fp8)
    if chosen.type != "cuda" or (chosen.index or 0) >= gpus:
        raise CannotServe(
            f"device {device!r} is not there: torch {torch.__version__} sees {gpus} GPUs; choose one, or cpu"
        )
    return Serving(device, "bfloat16", is_compiled=is_compiled, uses_cuda_graphs=True, fp8=fp8)


def place(model: Model, serving: Serving) -> Model:
    """Move `model`'s networks to where and how they are served, in place. Raises CannotServe."""
    model.dit.to(serving.device, PRECISIONS[serving.dtype])
    if serving.fp8:
        quantise(model.dit, torch.device(serving.device))
    place_codec(model.vae, serving)
    return model


def place_codec(vae: VideoVAE, serving: Serving) -> VideoVAE:
    """The same for a codec alone."""
    return vae.to(serving.device, PRECISIONS[serving.dtype])


class ServedNetwork:
    """One network with one cache, where its weights are. They must not change: what follows from them alone,
    such as what t = 1 does in every layer, is kept.

    Raises CannotServe where the network cannot be compiled.
    """

    def __init__(self, dit: DiT, cache: KVCache, serving: Serving = AS_IT_IS) -> None:
        self._dit = dit
        self._cache = cache
        self._serving = serving
        self._device = cache.keys.device
        self._one_moment: Moment | None = None
        self._steady_dit = compiled(dit) if serving.is_compiled else dit
        self._steps: dict[int, SteadyStep] = {}  # by slot
        self._recorder = Recorder(self._device) if serving.uses_cuda_graphs else None

    def read_text(self, text: Text, slot: int) -> None:
        """Store a prompt's keys and values in `slot`."""
        self._dit.read_text(text.to(self._device, self._cache.keys.dtype), self._cache, slot)

    def evaluate(
        self,
        noise: Latents,
        previous: Latents,
        controls: Controls,
        slots: tuple[int, ...],
        indices: tuple[tuple[int, ...], ...],
    ) -> Latents:
        """Row i: latents `indices[i]` of the session in `slots[i]`. All tensors are on the host."""
        given = (noise, previous, controls)
        steady = [row for row, index in enumerate(indices) if self._is_steady(index)]
        if not steady:
            return to_host([self._together(given, CachePass(self._cache, slots, indices))])[0]
        made: dict[int, Tensor] = {}
        young = [row for row in range(len(slots)) if row not in steady]
        if young:
            here = CachePass(self._cache, tuple(slots[i] for i in young), tuple(indices[i] for i in young))
            together = self._together([x[young] for x in given], here)
            made |= zip(young, together.split(1), strict=True)
        with best_attention(self._device, is_steady=True):
            for row in steady:
                alone = self._alone([x[row : row + 1] for x in given], slots[row], indices[row][0])
                made[row] = alone.clone()  # graphs share their memory: the next may use that of this one
        return torch.cat(to_host([made[row] for row in range(len(slots))]))

    def _is_steady(self, index: tuple[int, ...]) -> bool:
        return self._serving.is_steady and len(index) == 1 and self._cache.is_full(index[0])

    def _together(self, given: Sequence[Tensor], here: CachePass) -> Latents:
        noise, previous, controls = (to_device(x, self._device) for x in given)
        moment = self._moment().repeated(len(noise))
        with best_attention(self._device, is_steady=False):
            velocity = self._dit(noise, previous, moment, None, controls, cache=here)
        return clean_estimate(noise, velocity, moment.t)

    def _alone(self, given: Sequence[Tensor], slot: int, index: int) -> Latents:
        if slot not in self._steps:
            self._steps[slot] = SteadyStep(
                self._steady_dit, self._cache, slot, self._moment(), given, self._recorder
            )
        return self._steps[slot](given, index)

    def _moment(self) -> Moment:
        # Made of one session, or its last digits would depend on how many share a step.
        if self._one_moment is None:
            self._one_moment = self._dit.moment(torch.ones(1, device=self._device))
        return self._one_moment


class SteadyStep:
    """One slot's step past the window, with what it is given at addresses that stay."""

    def __init__(
        self, dit: DiT, cache: KVCache, slot: int, moment: Moment, given: Sequence[Tensor],
        recorder: "Recorder | None",
    ) -> None:  # fmt: skip
        device = cache.keys.device
        kept = [torch.empty_like(x, device=device) for x in given]
        number = torch.zeros(1, 1, dtype=torch.long, device=device)

        def run() -> Latents:  # without `self`: a step that is dropped lets go of its network at once
            noise, previous, controls = kept
            here = steady_pass(cache, slot, number)
            velocity = dit(noise, previous, moment, None, controls, number, cache=here)
            return clean_estimate(noise, velocity, moment.t)

        self._given = kept
        self._index = number
        self._recorder = recorder
        self._run: Callable[[], Latents] = run

    def __call__(self, given: Sequence[Tensor], index: int) -> Latents:
        """Latent `index` from noise, the latent before it and controls. The next call overwrites it."""
        for kept, x in zip(self._given, given, strict=True):
            kept.copy_(pinned(x, kept.device), non_blocking=True)
        self._index.fill_(index)
        if self._recorder is not None:
            self._run, self._recorder = self._recorder.record(self._run), None
        return self._run()


class Recorder:
    """Records work as CUDA graphs that share their memory, and so must run one after another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def record(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """`run` as a graph; what it returns is overwritten by the next time. On a CPU, `run` itself.

        It runs some times before it is recorded, so it must come to the same when it is run again.
        """
        if self._pool is None:
            return run
        with torch.cuda.device(self._device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_RUNS):
                    run()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile: a codec, or NCCL's watchdog.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                made = run()

        def replay() -> Tensor:
            graph.replay()
            return made

        return replay


def compiled(dit: DiT) -> DiT:
    """The same network on the same weights, whose blocks are compiled: once, for all of them."""
    if dit.parallel.ranks > 1:
        raise CannotServe(
            f"a network that {dit.parallel.ranks} ranks share cannot be compiled; leave compilation out"
        )
    weights = {id(x): x for x in (*dit.parameters(), *dit.buffers())}
    twin = copy.deepcopy(dit, weights)
    for block in twin.blocks:
        block.compile(fullgraph=True, dynamic=False)
    return twin


def quantise(dit: DiT, device: torch.device) -> None:
    """Let the linear layers of all blocks multiply in fp8, in place. Raises CannotServe."""
    try:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_
    except ImportError as error:
        raise CannotServe(
            "fp8 linear layers need torchao, which is not installed: pip install 'aapt[fp8]'"
        ) from error
    capability = torch.cuda.get_device_capability(device)
    if capability < FP8_CAPABILITY:
        raise CannotServe(
            f"{torch.cuda.get_device_name(device)} (compute capability {capability}) does not multiply fp8;"
            f" it needs {FP8_CAPABILITY}: leave fp8 out"
        )
    quantize_(dit.blocks, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))


def best_attention(device: torch.device, *, is_steady: bool) -> AbstractContextManager[object]:
    """The fused attentions in the order in which torch should try them; no choice on a CPU.

    cuDNN's is the fastest from Hopper on, but plans anew for every number of keys: only steps past the window
    have one number.
    """
    if device.type != "cuda":
        return nullcontext()
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if is_steady and torch.cuda.get_device_capability(device) >= HOPPER:
        order.insert(0, SDPBackend.CUDNN_ATTENTION)
    return sdpa_kernel(order, set_priority=True)


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """`x` where `device` can fetch it beside other work."""
    return x.pin_memory() if device.type == "cuda" else x


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on `device`; the host does not wait for it."""
    return pinned(x, device).to(device, non_blocking=True)


def to_host(made: Sequence[Tensor]) -> list[Tensor]:
    """What was made, on the host, once all of it is there. A CPU's own tensors are returned as they are."""
    device = made[0].device
    if device.type != "cuda":
        return list(made)
    fetched = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in made]
    for there, here in zip(made, fetched, strict=True):
        here.copy_(there, non_blocking=True)
    torch.cuda.current_stream(device).synchronize()
    return fetched
