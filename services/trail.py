"""`Trail`: the last latents of a session, which whoever goes on with it must have."""

from collections import deque
from collections.abc import Iterable

from livevideo.v1.engine_pb2 import Latent


class Trail:
    """Latents 0 and 1, which no world ever forgets, and the last `kept`, in order."""

    def __init__(self, kept: int, latents: Iterable[Latent] = ()) -> None:
        self._first: list[Latent] = []
        self._last: deque[Latent] = deque(maxlen=kept)
        for latent in latents:
            self.add(latent)

    def add(self, latent: Latent) -> None:
        """The next one."""
        if latent.index < 2:
            self._first.append(latent)
        self._last.append(latent)

    @property
    def newest(self) -> Latent | None:
        """None: there is none yet."""
        return self._last[-1] if self._last else None

    @property
    def next_index(self) -> int:
        """Of the latent that will come."""
        return self._last[-1].index + 1 if self._last else 0

    def latents(self, last: int | None = None) -> list[Latent]:
        """Latents 0 and 1, and the last so many; None: all that are kept."""
        newest = [*self._last][-last:] if last is not None else [*self._last]
        return [latent for latent in self._first if newest and latent.index < newest[0].index] + newest

    def after(self, index: int) -> list[Latent]:
        """Those above `index`."""
        return [latent for latent in self._last if latent.index > index]
