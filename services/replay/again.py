"""`Again`: does to a world of its own what engines did for a session, and compares every latent."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aapt.rollout import Past
from aapt.shapes import FRAMES_PER_LATENT
from livevideo.v1.log_pb2 import Known, LogEntry, Verb
from livevideo.v1.session_pb2 import Session
from services.engine.recorded import digest
from services.engine.world import World

_SLOT = 0


class CannotReplay(ValueError):
    """The log lacks what is needed to play on; the message says what."""


@dataclass(frozen=True)
class Difference:
    """The first latent that is not what was played."""

    epoch: int
    index: int
    made_with: str


@dataclass(frozen=True)
class _Made:
    """A latent of the session as it went, and what went into it."""

    latent: Tensor
    controls: Tensor
    digest: int  # as it was logged


class Again:
    """Goes through a session's entries, epoch by epoch.

    An engine that was killed had made latents that it had not logged. The next one logged the past that it
    was given, with its controls, so they are made again from there.
    """

    def __init__(self, world: World, session: Session, values_per_frame: int) -> None:
        self._world = world
        self._session = session
        self._values_per_frame = values_per_frame
        self._made: dict[int, _Made] = {}  # those above the newest are of an epoch that others went on from
        self._newest = -1  # index of the latent that the world has come to
        self._controls = b""  # of the newest latent
        self._epoch, self._made_with = 0, ""
        self.latents = 0  # that were made again, those of older epochs that nobody went on from too
        self.went_on_at: list[int] = []  # index of the first latent of each epoch that did not begin anew
        self.epochs = 0
        self.difference: Difference | None = None

    def play(self, entries: Iterable[LogEntry]) -> None:
        """Raises CannotReplay."""
        for epoch, verbs in _by_epoch(entries):
            self._epoch, self._made_with = epoch.epoch, epoch.made_with
            self.epochs += 1
            for verb in verbs:
                if verb.HasField("cut"):
                    break
                self._do(verb)

    def rows(self) -> dict[int, Tensor]:
        """The controls that went into each latent, [4, k], by its index."""
        return {index: self._made[index].controls for index in range(self._newest + 1)}

    def film(self) -> list[Tensor]:
        """The latents of the session, in order, as it went in the end."""
        return [self._made[index].latent for index in range(self._newest + 1)]

    def _do(self, verb: Verb) -> None:
        match verb.WhichOneof("said"):
            case "began":
                self._begin(verb.began.prompt, verb.began.digest)
            case "went_on":
                self._go_on(verb.went_on.past, verb.went_on.prompt)
            case "took_in":
                self._check(verb.took_in.past)
                self._world.extend(_SLOT, self._past(verb.took_in.past))
                self._newest = verb.took_in.past[-1].index
            case "prompted":
                self._world.set_prompt(_SLOT, verb.prompted)
            case "stepped":
                self._step(verb.stepped.controls, verb.stepped.digest)

    def _begin(self, prompt: str, logged: int) -> None:
        image = _picture(self._session.image) if self._session.image else None
        self._world.close(_SLOT)
        latent = self._world.open(_SLOT, image, prompt, self._session.seed)
        self._made.clear()
        self._keep(0, latent, torch.zeros(FRAMES_PER_LATENT, self._values_per_frame), logged)

    def _go_on(self, past: Sequence[Known], prompt: str) -> None:
        for known in past:
            self._controls = known.controls or self._controls
            if not self._is_known(known) and known.index == self._newest + 1:
                self._step(b"", known.digest)
        self._check(past)
        self._world.close(_SLOT)
        self._world.resume(_SLOT, self._past(past), prompt, self._session.seed)
        self._newest = past[-1].index
        self.went_on_at.append(self._newest + 1)

    def _step(self, controls: bytes, logged: int) -> None:
        self._controls = controls or self._controls
        if not self._made:
            raise CannotReplay(
                f"the log of epoch {self._epoch} begins after the session did; what came before it is lost"
            )
        rows = self._rows(self._controls)
        self._keep(self._newest + 1, self._world.step({_SLOT: rows})[_SLOT], rows, logged)

    def _check(self, past: Sequence[Known]) -> None:
        """Raises CannotReplay."""
        for known in past:
            self._controls = known.controls or self._controls
            if not self._is_known(known):
                raise CannotReplay(
                    f"epoch {self._epoch} went on from latent {known.index}, which is not in the log; the"
                    " engine that made it was killed before it had logged that"
                )

    def _is_known(self, known: Known) -> bool:
        made = self._made.get(known.index)
        return made is not None and made.digest == known.digest

    def _keep(self, index: int, latent: Tensor, controls: Tensor, logged: int) -> None:
        self.latents += 1
        if digest(latent) != logged and self.difference is None:
            self.difference = Difference(self._epoch, index, self._made_with)
        self._made[index] = _Made(latent, controls, logged)
        self._newest = index

    def _past(self, past: Sequence[Known]) -> Past:
        made = {known.index: self._made[known.index] for known in past}
        return Past(
            {index: each.latent for index, each in made.items()},
            {index: each.controls for index, each in made.items()},
        )

    def _rows(self, controls: bytes) -> Tensor:
        rows = np.frombuffer(controls, "<f4").reshape(FRAMES_PER_LATENT, self._values_per_frame)
        return torch.from_numpy(rows.astype(np.float32))


def _by_epoch(entries: Iterable[LogEntry]) -> list[tuple[LogEntry, list[Verb]]]:
    """The verbs of each epoch once, in order. Raises CannotReplay where some are missing."""
    by_epoch: dict[int, list[LogEntry]] = {}
    for entry in entries:
        by_epoch.setdefault(entry.epoch, []).append(entry)
    epochs = []
    for epoch in sorted(by_epoch):
        pieces = sorted(by_epoch[epoch], key=lambda piece: piece.first_verb)
        verbs: list[Verb] = []
        for piece in pieces:
            if piece.first_verb > len(verbs):
                raise CannotReplay(f"the log of epoch {epoch} lacks what came after {len(verbs)} verbs")
            verbs += piece.verbs[len(verbs) - piece.first_verb :]
        epochs.append((pieces[0], verbs))
    return epochs


def _picture(image: bytes) -> Tensor:
    with Image.open(io.BytesIO(image)) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB")))
