"""`Lines`: what rank 0 says to the other ranks of a gang, and how each knows that the others live.

A line is a TCP connection. Down it go commands, up it goes what a rank has to say; when nothing is said, a
beat goes both ways. A process that dies closes its lines, and one that hangs is silent on them, whatever its
threads or its GPU wait for. So a lost rank is noticed also while nobody plays, and is known by its number.
"""

import contextlib
import hmac
import os
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable

Address = tuple[str, int]

BEAT_S = 0.25
SILENCE_S = 1.2  # who has not been heard for so long hangs
FIRST_SILENCE_S = 1.8  # the same for rank 0, who would have noticed a lost rank by then and said so
START_S = 120.0  # models are loaded, and ranks wait for the slowest

_LENGTH = struct.Struct("!I")
_BEAT = b""
_GREETING_BYTES = 512


class RankLost(RuntimeError):
    """A rank has died, hangs, or fell out of step: the gang must be replaced as a whole."""


class FirstRankHangs(RankLost):
    """Rank 0 is silent: it cannot even say that the gang is lost."""


class _Connection:
    """Whole messages over a socket, from any thread. Raises OSError, and EOFError where it was closed."""

    def __init__(self, connected: socket.socket, timeout_s: float) -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(timeout_s)
        self.socket = connected
        self._sending = threading.Lock()

    def send(self, message: bytes) -> None:
        with self._sending:
            self.socket.sendall(_LENGTH.pack(len(message)) + message)

    def beat(self) -> None:
        """Says nothing where something is being said at this moment."""
        if self._sending.acquire(blocking=False):
            try:
                self.socket.sendall(_LENGTH.pack(0))
            finally:
                self._sending.release()

    def receive(self, most: int = 1 << 32) -> bytes:
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > most:
            raise ValueError(f"a message of {length} bytes, where {most} are the most")
        return self._exactly(length)

    def await_close(self, within_s: float) -> None:
        """Until the other end has closed, or does not in time.

        What was sent last would be lost if this end closed with messages unread.
        """
        ends_at_s = time.monotonic() + within_s
        with contextlib.suppress(OSError, EOFError):
            while time.monotonic() < ends_at_s:
                self.receive()

    def close(self) -> None:
        # A thread that sends or receives gets out, too.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _exactly(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            part = self.socket.recv(min(length - len(received), 1 << 20))
            if not part:
                raise EOFError
            received += part
        return bytes(received)


class Line:
    """Another rank's end of its line to rank 0, who is at `address` and lets in who knows `key`."""

    def __init__(self, address: Address, key: str, rank: int, *, silence_s: float = FIRST_SILENCE_S) -> None:
        self.rank = rank
        self._silence_s = silence_s
        try:
            self._connection = _Connection(socket.create_connection(address, START_S), START_S)
            self.say(f"{key} {rank} {os.getpid()} {socket.gethostname()}".encode())
        except OSError as error:
            raise RankLost(
                f"rank {rank} cannot reach rank 0 at {address[0]}:{address[1]}: {error}"
            ) from error

    def watch(self) -> None:
        """From now on both ends beat, and silence is a sign."""
        self._connection.socket.settimeout(self._silence_s)
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def say(self, message: bytes) -> None:
        self._connection.send(message)

    def hear(self) -> bytes:
        """What rank 0 says next. Raises RankLost where it has died or parted, FirstRankHangs where it is
        silent."""
        try:
            while (message := self._connection.receive()) == _BEAT:
                pass
            return message
        except TimeoutError:
            silence_s = self._connection.socket.gettimeout()
            raise FirstRankHangs(f"rank 0 has been silent for {silence_s:g} s: it hangs") from None
        except (OSError, EOFError):
            raise RankLost("rank 0 has closed the line: it has died, or given this gang up") from None

    def close(self) -> None:
        self._connection.close()

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # who hears will find out
            while True:
                self._connection.beat()
                time.sleep(BEAT_S)


class Lines:
    """Rank 0's ends: one line to each other rank of `ranks`. They find it at `address`, with `key`."""

    def __init__(self, ranks: int, *, host: str = "127.0.0.1", silence_s: float = SILENCE_S) -> None:
        self.ranks = ranks
        self.key = secrets.token_hex(16)
        self._listener = socket.create_server((host, 0))
        self.address: Address = self._listener.getsockname()[:2]
        self._silence_s = silence_s
        self._connections: dict[int, _Connection] = {}
        self._names: dict[int, str] = {}
        self._failures: dict[int, str] = {}
        self._lost = ""
        self._is_lost = threading.Event()
        self._is_closed = False

    def connect(self, within_s: float = START_S) -> None:
        """Wait until every rank has come. Raises RankLost, naming those that have not."""
        ends_at_s = time.monotonic() + within_s
        while missing := sorted(set(range(1, self.ranks)) - self._connections.keys()):
            self._listener.settimeout(max(0.01, ends_at_s - time.monotonic()))
            try:
                self._let_in(self._listener.accept()[0])
            except TimeoutError:
                late = ", ".join(map(str, missing))
                raise RankLost(
                    f"of {self.ranks} ranks {late} did not come within {within_s:g} s; see their logs"
                ) from None
        self._listener.close()

    def ask(self, within_s: float = START_S) -> dict[int, bytes]:
        """One message from each other rank. Raises RankLost, naming the one that says nothing."""
        said = {}
        for rank, connection in self._connections.items():
            connection.socket.settimeout(within_s)
            try:
                said[rank] = connection.receive()
            except (OSError, EOFError) as error:
                why = f"said nothing for {within_s:g} s" if isinstance(error, TimeoutError) else "has died"
                raise RankLost(
                    f"{self._names[rank]} {why} while the gang was starting; see its log"
                ) from None
        return said

    def watch(self, on_lost: Callable[[], None] = lambda: None) -> None:
        """From now on both ends beat. `on_lost` is called once, in another thread, when a rank is lost."""
        if not self._connections:
            return
        selector = selectors.DefaultSelector()
        for rank, connection in self._connections.items():
            connection.socket.settimeout(self._silence_s)
            selector.register(connection.socket, selectors.EVENT_READ, rank)
        threading.Thread(target=self._watch, args=(selector, on_lost), name="lines", daemon=True).start()

    def tell(self, message: bytes) -> None:
        """The same to every other rank. Raises RankLost."""
        self.check()
        for rank, connection in self._connections.items():
            try:
                connection.send(message)
            except OSError as error:
                self._lose(f"{self._names[rank]} takes no more commands ({error})")
                self.check()

    def check(self) -> None:
        """Raises RankLost where a rank was lost, and says which and how."""
        if self._is_lost.is_set():
            raise RankLost(f"{self._lost}; replace all {self.ranks} ranks of the gang")

    def blame(self, failure: str) -> RankLost:
        """`failure` is why this rank cannot go on; where another one turns out to be lost, it names that."""
        if self._connections:
            self._is_lost.wait(self._silence_s)
        self._lose(failure)
        return RankLost(f"{self._lost}; replace all {self.ranks} ranks of the gang")

    def part(self, message: bytes) -> None:
        """Tell every rank the last thing, after which it closes its line. Raises RankLost."""
        self._is_closed = True  # from now on a closed line is no loss
        self.tell(message)
        for connection in self._connections.values():
            connection.await_close(self._silence_s)
        self.close()

    def close(self) -> None:
        """Close all lines. Closing twice is no error."""
        self._is_closed = True
        self._listener.close()
        for connection in self._connections.values():
            connection.close()

    def _let_in(self, arrived: socket.socket) -> None:
        connection = _Connection(arrived, timeout_s=5.0)
        try:
            key, rank, process, host = connection.receive(_GREETING_BYTES).decode().split()
            if not hmac.compare_digest(key.encode(), self.key.encode()) or not 0 < int(rank) < self.ranks:
                raise ValueError
        except (OSError, EOFError, ValueError):  # not one of ours
            connection.close()
            return
        self._connections[int(rank)] = connection
        self._names[int(rank)] = f"rank {rank} (process {process} on {host})"

    def _watch(self, listening: selectors.BaseSelector, on_lost: Callable[[], None]) -> None:
        beat_at_s = time.monotonic()
        heard_at_s = dict.fromkeys(self._connections, beat_at_s)
        with listening as selector:
            while not (self._is_closed or self._is_lost.is_set()):
                for ready, _ in selector.select(BEAT_S):
                    if self._hear(ready.data):
                        heard_at_s[ready.data] = time.monotonic()
                    else:
                        selector.unregister(ready.fileobj)
                now_s = time.monotonic()
                silent = [rank for rank, at_s in heard_at_s.items() if now_s - at_s > self._silence_s]
                if silent:
                    # One that has failed because of another says so in time, and is not to blame.
                    hanging = [rank for rank in silent if rank not in self._failures] or silent
                    self._lose("; ".join(self._failures.get(rank, self._hangs(rank)) for rank in hanging))
                if now_s - beat_at_s >= BEAT_S:
                    beat_at_s = now_s
                    for connection in self._connections.values():
                        with contextlib.suppress(OSError):  # its silence will tell
                            connection.beat()
        if not self._is_closed:
            self.close()  # so the others need not wonder
            on_lost()

    def _hear(self, rank: int) -> bool:
        """Whether there is more to hear from it."""
        try:
            said = self._connections[rank].receive()
        except (OSError, EOFError):
            self._lose(f"{self._names[rank]} has died")
            return False
        if said == _BEAT:
            return True
        self._failures[rank] = f"{self._names[rank]} failed: {said.decode(errors='replace')}"
        return False

    def _hangs(self, rank: int) -> str:
        return f"{self._names[rank]} has been silent for {self._silence_s:g} s: it hangs"

    def _lose(self, how: str) -> None:
        if not self._is_lost.is_set():
            self._lost = how
            self._is_lost.set()
