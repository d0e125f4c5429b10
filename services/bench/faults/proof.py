"""What the log of a session proves: that it can be played again, and that each control was obeyed once."""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from aapt.checkpoint import Model
from aapt.shapes import first_frame, latent_of
from loadtests.ledger import Ledger
from services.engine.arrival import MOST_AGAIN
from services.replay.again import CannotReplay
from services.replay.logged import Logged


@dataclass(frozen=True)
class Proof:
    """latents: that were made again. note: what differs, or could not be proved; empty: nothing."""

    latents: int = 0
    note: str = ""


def prove(logged: Logged, ledger: Ledger, model: Model) -> Proof:
    """Plays the session again, and holds what each latent was told against what was sent."""
    session_id = logged.session.session_id
    try:
        again = logged.played_again(model)
    except CannotReplay as error:
        return Proof(note=f"{session_id} cannot be played again: {error}")
    if again.difference is not None:
        where = f"latent {again.difference.index} of epoch {again.difference.epoch}"
        return Proof(again.latents, f"{session_id}, played again, differs in {where}")
    seen = latent_of(max((sight.index for sight in ledger.sights), default=0))
    if max(again.rows(), default=0) < seen:
        return Proof(again.latents, f"{session_id}: the log ends before latent {seen}, which was seen")
    remade = made_twice(again.went_on_at, ledger.returns)
    wrong = unexplained(told(again.rows(), logged.session.model.keys), ledger, remade)
    return Proof(again.latents, f"{session_id}: {wrong}" if wrong else "")


def made_twice(went_on_at: Iterable[int], returns: Iterable[int]) -> set[int]:
    """Latents that were seen before engine and decoder died, and made again from a snapshot.

    went_on_at: first latent of each epoch that went on. returns: frames that were wanted next by a viewer who
    came back.
    """
    wanted = [latent_of(frame) for frame in returns]
    remade = set[int]()
    for first in went_on_at:
        # Which of the returns it was is not known: the last that it can have been.
        last = max((index for index in wanted if index <= first + MOST_AGAIN), default=0)
        remade |= {*range(first, last + 1)}
    return remade


def told(rows: Mapping[int, Tensor], keys: Sequence[str]) -> dict[int, frozenset[str]]:
    """The keys that went into each latent but the first, by its index."""
    return {
        index: frozenset(key for key, value in zip(keys, row[0].tolist(), strict=True) if value)
        for index, row in sorted(rows.items())
        if index > 0
    }


def unexplained(told: Mapping[int, frozenset[str]], ledger: Ledger, remade: Container[int]) -> str:
    """Why obeying each control once, in order, does not explain what the latents were told; empty: it does.

    A latent obeys some controls more than the one before: it is told what the last of them holds, and what
    went down in between. Up to which one is what its frames say; but not where it was made again, since a
    viewer saw the frames of the first time.
    """
    said = {sight.index: sight.control_seq for sight in ledger.sights}
    held = {0: frozenset[str]()}
    for seq in ledger.sent:
        held[seq] = frozenset(ledger.sent[seq]) if seq in ledger.accepted else held[seq - 1]
    reached = {0}  # controls up to one of which may have been obeyed by now
    for index, keys in told.items():
        if first_frame(index) not in said:  # nobody saw it
            return ""
        seq = said[first_frame(index)]
        pinned = held if index in remade else {seq}
        before, reached = (
            reached,
            {
                after
                for after in pinned
                for since in reached
                if since <= after and _down(held, since, after) == keys
            },
        )
        if not reached:
            return (
                f"latent {index} was told {sorted(keys)}; it should obey control {seq} after one of"
                f" {sorted(before)}, with {[sorted(_down(held, since, seq)) for since in sorted(before)]}"
            )
    return ""


def _down(held: Mapping[int, frozenset[str]], since: int, after: int) -> frozenset[str]:
    """What a latent is told that obeys the controls after `since` up to `after`."""
    down = held[after]
    for seq in range(since + 1, after + 1):
        down |= held[seq] - held[seq - 1]
    return down
