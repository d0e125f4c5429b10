"""How a session comes into an engine: with what was made before, and with what must be made again."""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from aapt.shapes import latent_of
from livevideo.v1.engine_pb2 import Latent
from livevideo.v1.resume_pb2 import ObeyedControl, RecallResponse
from livevideo.v1.session_pb2 import Session
from services.engine.mailbox import Mailbox, Turn

MOST_AGAIN = 64  # latents that are made again at most: nobody's step should wait longer for them


@dataclass(frozen=True)
class Arrival:
    """latents: made before, by whichever engine; empty: the world begins at its beginning.

    stood: what held after the last of them.
    again: turns of latents that a viewer has seen and nobody holds any more. They are made again, under the
      controls that they obeyed. None: none are.
    """

    latents: Sequence[Latent]
    mailbox: Mailbox
    stood: Turn | None = None
    again: Sequence[Turn] | None = None

    @property
    def prompt(self) -> str:
        """In force where it goes on."""
        return self.latents[-1].held.prompt if self.latents else ""


def after(keys: Sequence[str], latents: Sequence[Latent]) -> Arrival:
    """Of a session whose latents are all there."""
    mailbox = Mailbox.after(keys, latents[-1])
    return Arrival(latents, mailbox, stood=mailbox.take())


def at_beginning(keys: Sequence[str], session: Session) -> Arrival:
    """Of a session that begins, or begins again: it is then told what is held, not what was ever done."""
    obeyed_seq = session.newest_seq if session.epoch > 1 else 0
    return Arrival([], Mailbox(keys, prompt=session.prompt, obeyed_seq=obeyed_seq))


def recalled(
    keys: Sequence[str], session: Session, recall: RecallResponse, from_index: int, period_s: float
) -> Arrival:
    """Of a session whose last snapshot *sessions* kept. from_index: the latent that its viewer waits for."""
    latents = recall.snapshot.past
    next_index = latents[-1].index + 1 if latents else 1
    made_at_s = recall.snapshot.made_at_s if latents else session.opened_at_s
    # More than there was time for was never made.
    possible = next_index + min(MOST_AGAIN, math.ceil(max(0.0, time.time() - made_at_s) / period_s) + 1)
    wanted = min(from_index, possible)
    if not latents:
        if from_index < 1:
            return at_beginning(keys, session)
        mailbox = Mailbox(keys, prompt=session.prompt)
        return Arrival([], mailbox, again=_again(mailbox, recall.obeyed, next_index, wanted))
    mailbox = Mailbox.after(keys, latents[-1])
    return Arrival(latents, mailbox, mailbox.take(), _again(mailbox, recall.obeyed, next_index, wanted))


def _again(
    mailbox: Mailbox, obeyed: Sequence[ObeyedControl], next_index: int, until_index: int
) -> Sequence[Turn]:
    """The turns of latents `next_index` to `until_index` - 1."""
    turns, waiting = list[Turn](), deque(obeyed)
    for index in range(next_index, until_index):
        while waiting and latent_of(waiting[0].frame_index) <= index:
            control = waiting.popleft().control
            mailbox.put(control.event, received_at_s=0.0, path_s=0.0, now_s=0.0)
        turns.append(mailbox.take())
    return turns
