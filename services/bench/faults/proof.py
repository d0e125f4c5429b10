"""What the log of a session proves: that it can be played again, and what the network was told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from aapt.checkpoint import Model
from aapt.shapes import FRAMES_PER_LATENT
from loadtests.ledger import Ledger
from services.replay.again import CannotReplay
from services.replay.logged import Logged


@dataclass(frozen=True)
class Proof:
    """latents: that were made again. missing, invented: presses that the network was not told of, or told of
    without the player having pressed. note: what could not be proved, or differs."""

    latents: int = 0
    missing: int = 0
    invented: int = 0
    note: str = ""


def prove(logged: Logged, ledger: Ledger, model: Model) -> Proof:
    """Plays the session again and holds the keys of each latent against what was sent."""
    try:
        again = logged.played_again(model)
    except CannotReplay as error:
        return Proof(note=f"{logged.session.session_id} cannot be played again: {error}")
    note = ""
    if again.difference is not None:
        where = f"latent {again.difference.index} of epoch {again.difference.epoch}"
        note = f"{logged.session.session_id}, played again, differs in {where}"
    missing, invented = pressed(again.rows(), ledger, logged.session.model.keys)
    return Proof(again.latents, missing, invented, note)


def pressed(rows: Mapping[int, Tensor], ledger: Ledger, keys: Sequence[str]) -> tuple[int, int]:
    """How many keys were missing in all latents together, and how many were too many.

    A latent obeys the controls after the one that the latent before obeyed, up to the one that its frames
    tell: the keys that the last of them holds, and those that went down in between.
    """
    obeyed = {sight.index: sight.control_seq for sight in ledger.sights}
    missing = invented = before_seq = 0
    held: set[str] = set()
    for index in sorted(index for index in rows if index > 0):
        seq = obeyed.get(FRAMES_PER_LATENT * (index - 1) + 1)
        if seq is None:  # it was never shown
            break
        down = set[str]()
        for each in range(before_seq + 1, seq + 1):
            if each in ledger.accepted:
                down |= {*ledger.sent[each]} - held
                held = {*ledger.sent[each]}
        before_seq = max(before_seq, seq)
        told = {key for key, value in zip(keys, rows[index][0].tolist(), strict=True) if value}
        missing += len((down | held) - told)
        invented += len(told - (down | held))
    return missing, invented
