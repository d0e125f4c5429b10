"""`VirtualRedis`: the scripts of services/sessions, run in this process at a time that is told.

Their text is the one that Redis runs, but where a policy of placement is put in the place of theirs. LuaJIT
runs it over the commands of redis.lua; a test holds both against a real Valkey.
"""

from collections.abc import Coroutine
from importlib.resources import files
from typing import Any, TypeVar, cast

try:
    from lupa.luajit21 import LuaRuntime
except ImportError as error:
    raise ImportError(
        "the simulator needs lupa, which is not installed; say: pip install '.[simulate]'"
    ) from error

from services.sessions import refusals, scripts
from services.sessions.door import Door
from services.sessions.store import SessionStore, StoreLimits

T = TypeVar("T")


class VirtualRedis:
    """now_ms: what the scripts take for the time; whoever simulates sets it.

    policy: a Lua function `roomiest(without)` instead of `scripts.ROOMIEST`.
    """

    def __init__(self, policy: str = scripts.ROOMIEST) -> None:
        lua: Any = LuaRuntime(encoding=None)
        self._lua = lua.execute((files(__package__) / "redis.lua").read_bytes())
        self._policy = policy
        self._compiled: dict[str, Any] = {}
        self.now_ms = 0

    def run(self, script: str, keys: list[str], arguments: list[Any]) -> tuple[Any, ...]:
        """What a script answers: a status, then findings."""
        compiled = self._compiled.get(script)
        if compiled is None:
            text = script.replace(scripts.ROOMIEST, self._policy)
            compiled = self._compiled[script] = self._lua[b"compiled"](text.encode())
        given = [key.encode() for key in keys]
        given += [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
        answer = self._lua[b"run"](compiled, self.now_ms, len(keys), *given)
        answers = answer if isinstance(answer, tuple) else (answer,)
        return tuple(_as_redis_says(each) for each in answers)

    def ask(self, name: str, *arguments: Any) -> Any:
        """What one command answers: several findings as a tuple."""
        given = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
        return self._lua[b"ask"](self.now_ms, name.encode(), *given)

    def sweep(self) -> None:
        """Forgets what has ended."""
        self._lua[b"sweep"](self.now_ms)


def _as_redis_says(answer: Any) -> Any:
    """Lua's numbers lose their fractions on the way, and `false` is nothing."""
    if isinstance(answer, bytes):
        return answer
    return None if answer is False or answer is None else int(answer)


class VirtualDoor:
    """`Door` to a VirtualRedis. Streams are not read."""

    def __init__(self, redis: VirtualRedis) -> None:
        self._redis = redis

    async def run(self, script: str, keys: list[str], arguments: list[Any], *, about: str = "") -> list[Any]:
        status, *found = self._redis.run(script, keys, arguments)
        if status not in (b"ok", b"old_seq"):
            raise refusals.refusal(status.decode(), about, found)
        return found


def store_in(redis: VirtualRedis, limits: StoreLimits) -> SessionStore:
    """The services' own store, whose scripts run in `redis`."""
    store = SessionStore("redis://127.0.0.1:1", limits)  # which it never dials
    store.door = cast(Door, VirtualDoor(redis))
    return store


def done(call: Coroutine[Any, Any, T]) -> T:
    """What a call answers that waits for nothing."""
    try:
        call.send(None)
    except StopIteration as answered:
        return cast(T, answered.value)
    raise RuntimeError("a call waited for something, which nothing does at a virtual time")
