"""`Rollout`: the autoregressive loop, the one that is trained on and the one that is served.

Every step makes one latent for each session that is due, with one evaluation of the network: x = noise -
v(noise, t=1). Latents come and go on the CPU in float32, wherever the network is (`serving.py`).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from aapt.checkpoint import Model
from aapt.dit.model import CachePass
from aapt.presets import Preset
from aapt.serving import AS_IT_IS, ServedNetwork, Serving
from aapt.shapes import FRAMES_PER_LATENT, Latent, to_video

Control = Float[Tensor, "4 k"]  # the controls of one latent's four frames


@dataclass(frozen=True)
class Past:
    """What of a session must be known to go on with it: latents 0 and 1, and the last `window` + 2.

    latents[i] and controls[i] belong to latent i; latent 0, the first picture, has no controls.
    """

    latents: Mapping[int, Latent]
    controls: Mapping[int, Control]


@dataclass
class _Session:
    seed: int
    newest: int  # index of the newest latent
    previous: Latent  # that latent


def noise(preset: Preset, seed: int, index: int) -> Latent:
    """Noise is a function of seed and index alone, so that a session can be played again."""
    random = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    return torch.randn(preset.latent_shape, generator=random)


class Rollout:
    """Any number of sessions, up to `slots`, at different ages, on one device. No gradients, ever.

    The device is that of the model's weights, which must not change while sessions are played; `serving` says
    what `serving.place` was told.
    """

    def __init__(self, model: Model, slots: int, serving: Serving = AS_IT_IS) -> None:
        self.slots = slots
        self._model = model
        self._cache = model.dit.new_cache(slots, *model.preset.latent_shape[1:])
        self._network = ServedNetwork(model.dit, self._cache, serving)
        self._sessions: dict[int, _Session] = {}

    @property
    def window(self) -> int:
        """How many past latents a latent sees."""
        return self._cache.window

    @property
    def cache_bytes(self) -> int:
        """Memory of the cache, all slots together."""
        return self._cache.size_bytes

    @torch.inference_mode()
    def open(self, slot: int, image: Tensor | None, prompt: str, seed: int) -> Latent:
        """Begin a session in a free slot and return latent 0: `image` ([h, w, 3] uint8), or the model's own.

        Raises ValueError where the slot is not free or the image has another size.
        """
        if image is None:
            image = self._model.starts[seed % len(self._model.starts)]
        preset = self._model.preset
        if image.shape != (preset.height_px, preset.width_px, 3):
            raise ValueError(
                f"image is {tuple(image.shape)}; {preset.name} needs {(preset.height_px, preset.width_px, 3)}"
            )
        vae = self._model.vae
        first = vae.encode(to_video(image[None])[None].to(vae.mean))[0, 0].float().cpu()
        self.open_latent(slot, first, self._encode(prompt), seed)
        return first

    @torch.inference_mode()
    def open_latent(self, slot: int, first: Latent, text: Float[Tensor, "l d"], seed: int) -> None:
        """`open` for those who hold latent 0 and the encoded prompt already."""
        self._begin(slot, text, _Session(seed, 0, first))

    @torch.inference_mode()
    def step(self, controls: Mapping[int, Control]) -> dict[int, Latent]:
        """One more latent for each slot in `controls`; sessions that are not named stand still."""
        slots = tuple(controls)
        if not slots:
            return {}
        sessions = [self._session(slot) for slot in slots]
        indices = tuple((session.newest + 1,) for session in sessions)
        drawn = [self._noise(s.seed, i) for s, (i,) in zip(sessions, indices, strict=True)]
        made = self._network.evaluate(
            torch.stack(drawn)[:, None],
            torch.stack([session.previous for session in sessions])[:, None],
            torch.stack([controls[slot] for slot in slots])[:, None],
            slots,
            indices,
        )
        latents = {}
        for slot, session, latent in zip(slots, sessions, made[:, 0], strict=True):
            session.newest += 1
            session.previous = latents[slot] = latent
        return latents

    @torch.inference_mode()
    def set_prompt(self, slot: int, prompt: str) -> None:
        """Change what a session's world should look like, from its next latent on; its past stays."""
        self._session(slot)
        self._network.read_text(self._encode(prompt)[None], slot)

    @torch.inference_mode()
    def resume(self, slot: int, past: Past, prompt: str, seed: int) -> None:
        """Take up a session that was played elsewhere, by one block-causal pass over what is left of its
        past.

        Exact where the whole history fits the window; close where it does not, since deeper layers had seen
        latents that are gone. Raises ValueError where `past` has a gap that it must not have.
        """
        self.resume_latents(slot, past, self._encode(prompt), seed)

    @torch.inference_mode()
    def resume_latents(self, slot: int, past: Past, text: Float[Tensor, "l d"], seed: int) -> None:
        """`resume` for those who hold the encoded prompt already."""
        newest = max(past.latents)
        kept = self._cache.kept(newest)
        missing = [i for i in kept if i not in past.controls or i - 1 not in past.latents]
        if missing or newest not in past.latents:
            raise ValueError(
                f"past up to latent {newest} lacks latents or controls around {missing[:5]}; send them"
            )
        self._begin(slot, text, _Session(seed, newest, past.latents[newest]))
        if kept:
            self._network.evaluate(
                torch.stack([self._noise(seed, i) for i in kept])[None],
                torch.stack([past.latents[i - 1] for i in kept])[None],
                torch.stack([past.controls[i] for i in kept])[None],
                (slot,),
                (kept,),
            )

    @torch.inference_mode()
    def extend(self, slot: int, past: Past) -> None:
        """Take in latents that were made elsewhere after the newest that is known here, as if they had been
        made here. Raises ValueError where `past` does not follow it."""
        session = self._session(slot)
        for index in range(session.newest + 1, max(past.latents, default=0) + 1):
            if index not in past.latents or index not in past.controls:
                raise ValueError(f"past lacks latent {index}, which follows {index - 1}; send it")
            self._network.evaluate(
                self._noise(session.seed, index)[None, None],
                session.previous[None, None],
                past.controls[index][None, None],
                (slot,),
                ((index,),),
            )
            session.newest, session.previous = index, past.latents[index]

    def next_pass(self, latents: int) -> CachePass:
        """A pass over the next `latents` of all sessions, which must be of one age: it sees their past, on a
        copy of the cache that later steps do not change. For training; see `CachePass.is_continued`."""
        slots = tuple(self._sessions)
        (newest,) = {session.newest for session in self._sessions.values()}
        indices = tuple(range(newest + 1, newest + 1 + latents))
        return CachePass(copy.deepcopy(self._cache), slots, (indices,) * len(slots), is_continued=True)

    def close(self, slot: int) -> None:
        """Free a slot. Closing a free one is no error."""
        self._sessions.pop(slot, None)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Make beforehand what is made once: constants, compiled code, graphs. All slots must be free."""
        latent = torch.zeros(self._model.preset.latent_shape)
        values = self._model.dit.controls.values_per_frame
        for newest in (0, self._cache.window + 1):  # the first step, and the first past the window
            for slot in range(self.slots):
                self._begin(slot, self._encode(""), _Session(0, newest, latent))
                self.step({slot: torch.zeros(FRAMES_PER_LATENT, values)})
            self.step({slot: torch.zeros(FRAMES_PER_LATENT, values) for slot in range(self.slots)})
            for slot in range(self.slots):
                self.close(slot)

    def _encode(self, prompt: str) -> Float[Tensor, "l d"]:
        return self._model.text.encode(prompt or self._model.preset.prompt)

    def _begin(self, slot: int, text: Float[Tensor, "l d"], session: _Session) -> None:
        if not 0 <= slot < self.slots or slot in self._sessions:
            raise ValueError(f"slot {slot} of {self.slots} is not free")
        self._network.read_text(text[None], slot)
        self._sessions[slot] = session

    def _session(self, slot: int) -> _Session:
        if slot not in self._sessions:
            raise ValueError(f"slot {slot} holds no session; open or resume one first")
        return self._sessions[slot]

    def _noise(self, seed: int, index: int) -> Latent:
        return noise(self._model.preset, seed, index)
