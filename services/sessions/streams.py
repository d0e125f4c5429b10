"""Streams: the calls of this instance that stay open, until it stops."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from services.errors import ServiceStopping, TooManyStreams


class Streams:
    """Those of one session that hold a connection to Redis are counted, and all are waited for at the end."""

    def __init__(self, most_per_session: int) -> None:
        self._most_per_session = most_per_session
        self._open: set[asyncio.Task[Any]] = set()
        self._reading: Counter[str] = Counter()
        self._stopping = asyncio.Event()

    @property
    def are_stopping(self) -> bool:
        return self._stopping.is_set()

    async def stop(self, grace_s: float) -> None:
        """Ends all that wait in `until_stopping`, and waits for them."""
        self._stopping.set()
        if self._open:
            await asyncio.wait(self._open, timeout=grace_s)

    async def until_stopping(self) -> None:
        """Beside the other parts of a stream. Raises ServiceStopping."""
        await self._stopping.wait()
        raise ServiceStopping("this instance of sessions is stopping; call again", retry_after_s=0.1)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lets `stop` wait for the stream that runs in this block."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            yield
        finally:
            self._open.discard(task)

    @contextmanager
    def reading(self, session_id: str) -> Iterator[None]:
        """The same for one that reads from Redis for a session. Raises TooManyStreams."""
        most = self._most_per_session
        if self._reading[session_id] >= most:
            raise TooManyStreams(
                f"{most} calls push the controls of {session_id} or read its notices; end one first",
                retry_after_s=1.0,
            )
        self._reading[session_id] += 1
        try:
            with self.opened():
                yield
        finally:
            self._reading[session_id] -= 1
            if not self._reading[session_id]:
                del self._reading[session_id]
