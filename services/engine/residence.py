"""`Residence`: one session's stay in the engine."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from services.engine.mailbox import Mailbox, Turn
from services.engine.steering import KeySteering, Steering
from services.errors import ServiceError, SessionClosed


@dataclass(frozen=True)
class Made:
    """One latent, and what it obeys."""

    index: int
    latent: Tensor
    controls: Tensor  # [4, k]
    turn: Turn
    tick_wait_s: float = 0.0
    step_s: float = 0.0
    made_at_s: float = 0.0  # since 1970; 0: by no step
    sessions: int = 1  # that shared the step


class Residence:
    """One session's stay in the engine: its slot, its mailbox, its credits, and the latents made for it.

    phase: which of a period's ticks are its own.
    """

    def __init__(self, slot: int, phase: int, now_s: float, free: "Callable[[Residence], None]") -> None:
        self.slot = slot
        self.phase = phase
        self.since_s = now_s
        self.mailbox = Mailbox(())
        self.steering: Steering = KeySteering()
        self.next_index = 0
        self.credits = 0
        self.credit_at_s = now_s
        self.is_ready = False
        self._free = free
        self._error: ServiceError | None = None
        self._has_ended = False
        self._made: asyncio.Queue[Made | None] = asyncio.Queue()
        self._first: Made | None = None

    def grant(self, latents: int, now_s: float) -> None:
        """Take in a credit. The first one lets latent 0 out at once: it waits for no tick."""
        self.credits += latents
        self.credit_at_s = now_s
        self._let_first_out()

    def begin(
        self, mailbox: Mailbox, steering: Steering, next_index: int, first: Made | None, now_s: float
    ) -> None:
        """The world holds the session now; from here on it has turns."""
        self.mailbox = mailbox
        self.steering = steering
        self.next_index = next_index
        self.credit_at_s = now_s
        self.is_ready = True
        self._first = first
        self._let_first_out()

    @property
    def is_due(self) -> bool:
        """Whether the next tick makes a latent for it."""
        return self.is_ready and self._first is None and self.credits > 0

    def deliver(self, made: Made) -> None:
        """Spend one credit on a latent."""
        self.credits -= 1
        self.next_index = made.index + 1
        self._made.put_nowait(made)

    def end(self, error: ServiceError | None = None) -> None:
        """Give the slot back. Latents that are made already still go out. Ending twice is no error."""
        if not self._has_ended:
            self._has_ended = True
            self._error = error
            self._made.put_nowait(None)
            self._free(self)

    def check(self) -> None:
        """Raises what ended the stay, if anything did: a slot that was given back must not be used."""
        if self._has_ended:
            raise self._error or SessionClosed("the session has ended; open a new one")

    async def take(self) -> Made | None:
        """The next latent, None where the stay has ended. Raises the refusal that ended it."""
        made = await self._made.get()
        if made is None:
            self._made.put_nowait(None)
            if self._error is not None:
                raise self._error
        return made

    def _let_first_out(self) -> None:
        if self._first is not None and self.credits > 0:
            first, self._first = self._first, None
            self.deliver(first)
