"""`ShardedRollout`: the verbs of `Rollout` over a gang of ranks, each with a share of every latent.

Every rank holds the same `Rollout` on a network made with `SequenceParallel`. Rank 0 tells the others each
verb, in one message, and plays it itself; `follow` is the loop of all others.
"""

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aapt.checkpoint import Model
from aapt.dit.model import DiT
from aapt.lines import SILENCE_S, START_S, FirstRankHangs, Line, Lines, RankLost
from aapt.parallel import ALONE, SequenceParallel
from aapt.presets import Preset
from aapt.rollout import Control, Past, Rollout
from aapt.serving import AS_IT_IS, Serving
from aapt.shapes import Latent

T = TypeVar("T")

# What all ranks raise alike, before they exchange anything: the gang stays in step.
_REFUSALS = (ValueError, TypeError)
_END = "end"


class RanksDiffer(ValueError):
    """The ranks of a gang do not hold the same model, or one of them has none."""


def meet(
    rank: int, ranks: int, meeting: str, *, backend: str = "gloo", patience_s: float = SILENCE_S
) -> SequenceParallel:
    """The exchange between the ranks of a gang, for the network of this one.

    meeting: where they find each other, a URL as torch.distributed takes it (file:///..., tcp://...).
    patience_s: an exchange over gloo fails when it takes longer, since a rank must be lost. Those over NCCL
      are ended by `ShardedRollout`.
    """
    if ranks == 1:
        return ALONE
    dist.init_process_group(
        backend, init_method=meeting, rank=rank, world_size=ranks, timeout=timedelta(seconds=START_S)
    )
    group = dist.group.WORLD
    assert group is not None
    if backend == "gloo":
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=patience_s), group)
    return SequenceParallel(group)


def check_ranks(preset: Preset, ranks: int) -> None:
    """Raises ValueError where there are more ranks than tokens to share out."""
    tokens = DiT.tokens(torch.empty(1, 1, *preset.latent_shape, device="meta"))
    if not 1 <= ranks <= tokens:
        raise ValueError(
            f"{ranks} ranks cannot share a latent of {preset.name}, which has {tokens} tokens;"
            f" choose from 1 to {tokens}"
        )


class ShardedRollout:
    """Rank 0 of a gang: plays like `Rollout`, with the others.

    A verb that all ranks refuse alike (ValueError, TypeError) leaves the gang in step. When a rank is lost,
    this verb and all later ones raise RankLost, as does `check`, also while nobody plays.
    """

    def __init__(
        self, lines: Lines, load: Callable[[], Model], slots: int, serving: Serving = AS_IT_IS
    ) -> None:
        """All ranks load at once. Raises RanksDiffer, on every rank, where they do not hold the same."""
        held, rollout = _held(load, slots, serving)
        said = {rank: pickle.loads(message) for rank, message in lines.ask().items()}
        refusal = _refusal({0: held, **said}, lines.ranks)
        lines.tell(pickle.dumps(refusal))
        if refusal:
            raise RanksDiffer(refusal)
        assert rollout is not None
        self.slots = slots
        self._lines = lines
        self._rollout = rollout
        self._refused = 0
        lines.watch(on_lost=_abort)

    @property
    def window(self) -> int:
        """See `Rollout.window`."""
        return self._rollout.window

    @property
    def cache_bytes(self) -> int:
        """Memory of the cache, all slots and all ranks together."""
        return self._rollout.cache_bytes * self._lines.ranks

    def check(self) -> None:
        """Raises RankLost, naming the ranks, where the gang is lost. From any thread; costs nothing."""
        self._lines.check()

    def open(self, slot: int, image: Tensor | None, prompt: str, seed: int) -> Latent:
        """See `Rollout.open`."""
        self._tell("open", slot, image, prompt, seed)
        return self._play(lambda: self._rollout.open(slot, image, prompt, seed))

    def step(self, controls: Mapping[int, Control]) -> dict[int, Latent]:
        """See `Rollout.step`."""
        if not controls:
            return {}
        # An array is written in a twentieth of the time that a tensor takes.
        self._tell("step", {slot: control.numpy(force=True) for slot, control in controls.items()})
        return self._play(lambda: self._rollout.step(controls))

    def set_prompt(self, slot: int, prompt: str) -> None:
        """See `Rollout.set_prompt`."""
        self._tell("set_prompt", slot, prompt)
        self._play(lambda: self._rollout.set_prompt(slot, prompt))

    def resume(self, slot: int, past: Past, prompt: str, seed: int) -> None:
        """See `Rollout.resume`."""
        self._tell("resume", slot, past, prompt, seed)
        self._play(lambda: self._rollout.resume(slot, past, prompt, seed))

    def extend(self, slot: int, past: Past) -> None:
        """See `Rollout.extend`."""
        self._tell("extend", slot, past)
        self._play(lambda: self._rollout.extend(slot, past))

    def close(self, slot: int) -> None:
        """See `Rollout.close`."""
        self._tell("close", slot)
        self._play(lambda: self._rollout.close(slot))

    def end(self) -> None:
        """Let the other ranks go. Ending twice, or when the gang is lost, is no error."""
        with contextlib.suppress(RankLost):
            self._lines.part(self._message(_END))
        self._lines.close()

    def _tell(self, verb: str, *given: object) -> None:
        self._lines.tell(self._message(verb, *given))

    def _message(self, verb: str, *given: object) -> bytes:
        return pickle.dumps((verb, self._refused, given), protocol=5)

    def _play(self, verb: Callable[[], T]) -> T:
        try:
            made = verb()
            self._lines.check()  # an exchange that was broken off on GPUs leaves numbers without meaning
            return made
        except RankLost:
            raise
        except _REFUSALS:
            self._refused += 1
            raise
        except Exception as error:
            raise self._lines.blame(f"rank 0 failed: {type(error).__name__}: {error}") from error


def follow(line: Line, load: Callable[[], Model], slots: int, serving: Serving = AS_IT_IS) -> None:
    """Play whatever rank 0 plays, until it ends.

    Raises RanksDiffer, RankLost or FirstRankHangs, and what makes this rank fail. All ranks need the same
    arguments.
    """
    held, rollout = _held(load, slots, serving)
    line.say(pickle.dumps(held))
    if refusal := pickle.loads(line.hear()):
        raise RanksDiffer(refusal)
    assert rollout is not None
    line.watch()
    try:
        _follow(line, rollout)
    except RankLost:
        raise
    except Exception as error:
        with contextlib.suppress(OSError):
            line.say(f"{type(error).__name__}: {error}".encode())
        # It may have failed because of another rank, and rank 0 finds out which, unless it is that one.
        try:
            line.hear()
        except FirstRankHangs as hangs:
            raise hangs from error
        except RankLost:
            pass
        raise
    finally:
        line.close()


def _follow(line: Line, rollout: Rollout) -> None:
    refused = 0
    while True:
        verb, refused_by_first, given = pickle.loads(line.hear())
        if refused != refused_by_first:
            raise RuntimeError(f"it has refused {refused} verbs, and rank 0 {refused_by_first}")
        if verb == _END:
            return
        if verb == "step":
            given = ({slot: torch.from_numpy(control) for slot, control in given[0].items()},)
        try:
            getattr(rollout, verb)(*given)
        except _REFUSALS:
            refused += 1


@dataclass(frozen=True)
class _Held:
    """What a rank says of itself when it joins."""

    slots: int
    preset: Preset | None = None
    weights: str = ""  # a hash
    failure: str = ""  # why there is no model


def _held(load: Callable[[], Model], slots: int, serving: Serving) -> tuple[_Held, Rollout | None]:
    try:
        model = load()
        return _Held(slots, model.preset, _hash(model)), Rollout(model, slots, serving)
    except Exception as error:
        # Told to the others, who would wait; all raise it together.
        return _Held(slots, failure=f"{type(error).__name__}: {error}"), None


def _refusal(held: Mapping[int, _Held], ranks: int) -> str:
    """Why these ranks cannot play together; empty: they can."""
    ranks_of: dict[str, list[str]] = {}
    for rank, each in held.items():
        ranks_of.setdefault(each.failure, []).append(str(rank))
    ranks_of.pop("", None)
    if ranks_of:
        return "; ".join(f"no model to play on rank {', '.join(of)}: {why}" for why, of in ranks_of.items())
    first = held[0]
    assert first.preset is not None
    for what, advice in (
        ("preset", "give all ranks the same checkpoint"),
        ("slots", "give all ranks the same settings"),
        ("weights", "give all ranks the same checkpoint"),
    ):
        values = {rank: _said(getattr(each, what)) for rank, each in held.items()}
        other = [rank for rank, each in held.items() if getattr(each, what) != getattr(first, what)]
        if other:
            found = ", ".join(f"rank {rank} {values[rank]}" for rank in (0, *other))
            return f"the ranks do not have the same {what}: {found}; {advice}"
    try:
        check_ranks(first.preset, ranks)
    except ValueError as error:
        return str(error)
    return ""


def _said(value: object) -> str:
    return value.name if isinstance(value, Preset) else str(value)


def _hash(model: Model) -> str:
    """Of all that two ranks must have in common, down to the first pictures."""
    found = hashlib.sha256()
    for network in (model.dit, model.vae):
        for name, value in network.state_dict().items():
            found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            found.update(_bytes(value))
    for picture in model.starts:
        found.update(_bytes(picture))
    return found.hexdigest()[:16]


def _bytes(value: Tensor) -> Any:
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _abort() -> None:
    """A rank that waits for another one on the GPU would wait for ever."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        dist.distributed_c10d._abort_process_group()
