"""`RecordedWorld`: a world whose every verb is written down, so that it can be played again bit for bit."""

import platform
import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from aapt.rollout import Past
from livevideo.v1.log_pb2 import Began, Cut, Known, LogEntry, Stepped, TookIn, Verb, WentOn
from services.engine.world import World

MOST_VERBS = 4096  # of one stay that wait to be sent: eleven minutes
_MOST_LEFT = 256  # stays that have ended and wait to be sent


@dataclass
class _Stay:
    """What was done in a slot since it was last free."""

    waiting: list[Verb] = field(default_factory=list)
    first_verb: int = 0
    controls: bytes = b""  # that the newest latent obeys
    name: LogEntry | None = None  # whose it is; None: not known yet
    is_cut: bool = False


class RecordedWorld:
    """Passes every verb on, and keeps what it was told and a digest of what came out.

    Verbs come from the world's thread, `name` and `take` from the event loop.
    """

    def __init__(self, world: World, made_with: str = "", most_verbs: int = MOST_VERBS) -> None:
        """most_verbs: of one stay that wait to be sent; 0: nothing is written down."""
        self.slots = world.slots
        self.on_news: Callable[[], None] = lambda: (
            None
        )  # called in either thread: something should be sent soon
        self._world = world
        self._made_with = made_with
        self._most_verbs = most_verbs
        self._stays: dict[int, _Stay] = {}
        self._left: deque[_Stay] = deque(maxlen=_MOST_LEFT)
        self._lock = threading.Lock()

    @property
    def window(self) -> int:
        return self._world.window

    def open(self, slot: int, image: Tensor | None, prompt: str, seed: int) -> Tensor:
        latent = self._world.open(slot, image, prompt, seed)
        with self._lock:
            self._stays[slot] = _Stay()
            self._note(slot, Verb(began=Began(prompt=prompt, digest=digest(latent))))
        return latent

    def resume(self, slot: int, past: Past, prompt: str, seed: int) -> None:
        self._world.resume(slot, past, prompt, seed)
        with self._lock:
            self._stays[slot] = stay = _Stay()
            self._note(slot, Verb(went_on=WentOn(prompt=prompt, past=_known(past, stay))))

    def extend(self, slot: int, past: Past) -> None:
        self._world.extend(slot, past)
        with self._lock:
            if (stay := self._stays.get(slot)) is not None:
                self._note(slot, Verb(took_in=TookIn(past=_known(past, stay))))

    def set_prompt(self, slot: int, prompt: str) -> None:
        self._world.set_prompt(slot, prompt)
        with self._lock:
            self._note(slot, Verb(prompted=prompt))
        self.on_news()

    def step(self, controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        latents = self._world.step(controls)
        with self._lock:
            for slot, latent in latents.items():
                if (stay := self._stays.get(slot)) is not None:
                    stepped = Stepped(digest=digest(latent), controls=_changed(controls[slot], stay))
                    self._note(slot, Verb(stepped=stepped))
        return latents

    def close(self, slot: int) -> None:
        self._world.close(slot)
        with self._lock:
            if (stay := self._stays.pop(slot, None)) is not None:
                self._left.append(stay)

    def name(self, slot: int, session_id: str, tenant: str, epoch: int) -> None:
        """Whose stay it is in a slot. What nobody names, such as a warm-up, is written down for nobody."""
        with self._lock:
            if (stay := self._stays.get(slot)) is not None:
                stay.name = LogEntry(
                    session_id=session_id, tenant=tenant, epoch=epoch, made_with=self._made_with
                )
        self.on_news()

    @property
    def named(self) -> set[str]:
        """Sessions that stay here."""
        with self._lock:
            return {stay.name.session_id for stay in self._stays.values() if stay.name is not None}

    def take(self) -> list[LogEntry]:
        """What was done since the last call, for all sessions that are named."""
        with self._lock:  # held for as long as no step would notice
            stays = [each for each in (*self._left, *self._stays.values()) if each.name and each.waiting]
            taken = [(each, each.waiting, each.first_verb) for each in stays]
            self._left.clear()
            for each in stays:
                each.first_verb += len(each.waiting)
                each.waiting = []
        entries = []
        for stay, verbs, first_verb in taken:
            entry = LogEntry(first_verb=first_verb, verbs=verbs)
            entry.MergeFrom(stay.name or LogEntry())
            entries.append(entry)
        return entries

    def _note(self, slot: int, verb: Verb) -> None:
        stay = self._stays.get(slot)
        if stay is None or stay.is_cut:
            return
        stay.is_cut = len(stay.waiting) >= self._most_verbs
        stay.waiting.append(Verb(cut=Cut()) if stay.is_cut else verb)


def digest(latent: Tensor) -> int:
    """CRC-32 of a latent's values."""
    return zlib.crc32(_bytes(latent))


def made_with(checkpoint: Path) -> str:
    """What decides a latent's bits, besides its session: the build of torch, the processor, the weights."""
    weights = checkpoint / "dit.safetensors"
    crc = zlib.crc32(weights.read_bytes()) if weights.exists() else 0
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"torch {torch.__version__}, {processor}, weights {crc:08x}"


def _known(past: Past, stay: _Stay) -> list[Known]:
    known = []
    for index, latent in sorted(past.latents.items()):
        controls = past.controls.get(index)
        changed = b"" if controls is None else _changed(controls, stay)
        known.append(Known(index=index, digest=digest(latent), controls=changed))
    return known


def _changed(controls: Tensor, stay: _Stay) -> bytes:
    """Empty where they are what they were: most of the time a player changes nothing."""
    rows = _bytes(controls)
    before, stay.controls = stay.controls, rows
    return b"" if rows == before else rows


def _bytes(values: Tensor) -> bytes:
    return values.detach().cpu().numpy().astype("<f4", copy=False).tobytes()
