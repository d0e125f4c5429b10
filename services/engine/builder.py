"""`Builder`: how a session's world comes to be in a slot: begun, or built up from what was made elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from aapt.rollout import Past
from services.engine.mailbox import Mailbox, Turn, still
from services.engine.residence import Made, Residence
from services.engine.steering import Steering, steering_by
from services.engine.world import World
from services.engine.worldthread import WorldThread


class Builder:
    """Lets a residence begin once its world is there; from then on the engine's ticks move it."""

    def __init__(
        self,
        world: World,
        thread: WorldThread,
        *,
        keys: Sequence[str],
        tracks: Sequence[str],
        clock: Callable[[], float],
    ) -> None:
        self._world = world
        self._thread = thread
        self._keys = tuple(keys)
        self._tracks = tuple(tracks)
        self._clock = clock

    def steering(self) -> Steering:
        """A new session's, with nothing steered yet."""
        return steering_by(self._keys, self._tracks)

    async def open(
        self,
        residence: Residence,
        mailbox: Mailbox,
        image: Tensor | None,
        prompt: str,
        seed: int,
        again: Sequence[Turn] | None = None,
    ) -> list[Made]:
        """Begin a session at the beginning; its latent 0 goes out with the first credit.

        again: turns from latent 1 on that are made at once, since they were made before. What was made so is
        returned, and does not go out. Raises OutOfMemory.
        """
        residence.check()
        latent = await self._thread.call(lambda: self._world.open(residence.slot, image, prompt, seed))
        self._thread.shortage = None
        steering, stood = self.steering(), replace(still(self._keys), standing_prompt=prompt)
        first = Made(0, latent, self.steering().rows(stood), stood)
        if again is None:
            residence.begin(mailbox, steering, 1, first, self._clock())
            return []
        made = [first, *await self._make_again(residence, steering, 1, again)]
        residence.begin(mailbox, steering, len(made), None, self._clock())
        return made

    async def rebuild(self, residence: Residence, past: Past, prompt: str, seed: int) -> None:
        """Build up the world of a session that was played elsewhere; `go_on` lets it play.

        Raises ValueError where `past` does not do, and OutOfMemory.
        """
        residence.check()
        await self._thread.call(lambda: self._world.resume(residence.slot, past, prompt, seed))
        self._thread.shortage = None

    async def extend(self, residence: Residence, since: Past, prompt: str | None) -> None:
        """Take in what was made elsewhere after `rebuild`. prompt: a new one. Raises ValueError."""
        residence.check()

        def extended() -> None:
            if prompt is not None:
                self._world.set_prompt(residence.slot, prompt)
            self._world.extend(residence.slot, since)

        await self._thread.call(extended)

    async def go_on(
        self,
        residence: Residence,
        mailbox: Mailbox,
        next_index: int,
        stood: Turn | None = None,
        again: Sequence[Turn] = (),
    ) -> list[Made]:
        """Let a session play on from `next_index`. stood: what held before.

        again: turns that are made at once, since they were made before; what was made so is returned.
        """
        steering = self.steering()
        if stood is not None:
            steering.rows(stood)
        made = await self._make_again(residence, steering, next_index, again)
        residence.check()
        residence.begin(mailbox, steering, next_index + len(made), None, self._clock())
        return made

    async def _make_again(
        self, residence: Residence, steering: Steering, next_index: int, turns: Sequence[Turn]
    ) -> list[Made]:
        """One call each, so that the ticks of others come in between."""
        made = []
        for index, turn in enumerate(turns, next_index):
            residence.check()
            rows = steering.rows(turn)
            latents = await self._thread.turned({residence.slot: (turn, rows)})
            made.append(Made(index, latents[residence.slot], rows, turn))
        return made
