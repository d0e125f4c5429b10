"""`Door`: the only way to Redis, where scripts are run and streams are read; an answer may be a refusal."""

import resource
from collections.abc import Collection
from typing import Any

from redis.asyncio import Redis, RedisCluster

from services.errors import StoreUnavailable
from services.sessions import refusals
from services.sessions.connection import Connection, RedisAccess, asking


class Door:
    """Each method raises StoreUnavailable when Redis does not answer in time; the next tries again."""

    def __init__(
        self,
        url: str,
        access: RedisAccess,
        *,
        command_s: float,
        block_s: float,
        connections: int,
        acknowledged: Collection[str],
    ) -> None:
        """`block_s`: `read` returns with nothing after this long. connections: at most, of each of two pools.

        acknowledged: scripts whose answers wait for `redis_copies`. Raises BadSetting for a URL that is none.
        """
        self.url = url
        self._copies = access.redis_copies
        self._command_s = command_s
        self._block_ms = round(block_s * 1000)
        self._acknowledged = frozenset(acknowledged)

        def connected(answer_s: float) -> Connection:
            most = _affordable(connections)
            return Connection(url, access, answer_s=answer_s, connect_s=command_s, connections=most)

        self._commands = connected(command_s)
        # A read that blocks is no failure until Redis has been silent for longer than it was told to block.
        self._readers = connected(command_s + block_s)

    @property
    def redis(self) -> Redis | RedisCluster:
        """For what changes nothing and is no stream; within `asking`."""
        return self._commands.redis

    async def close(self) -> None:
        await self._commands.close()
        await self._readers.close()

    async def run(self, script: str, keys: list[str], arguments: list[Any], *, about: str = "") -> list[Any]:
        """What a script found. Raises the refusal that its status stands for; about: what was asked for."""
        copies = self._copies if script in self._acknowledged else 0
        with asking(self.url):
            if copies:
                status, *found = await self._copied(script, keys, arguments, copies)
            else:
                status, *found = await self.redis.register_script(script)(keys, arguments)
        if status not in (b"ok", b"old_seq"):
            raise refusals.refusal(status.decode(), about, found)
        return found

    async def read(self, stream: str, after: bytes) -> tuple[bytes, list[dict[bytes, bytes]]]:
        """Entries of a stream after one of them, as soon as there are any, and the last of them."""
        with asking(self.url):
            found: Any = await self._readers.redis.xread({stream: after}, count=256, block=self._block_ms)
        entries = found[0][1] if found else []
        return (entries[-1][0] if entries else after), [fields for _, fields in entries]

    async def _copied(self, script: str, keys: list[str], arguments: list[Any], copies: int) -> list[Any]:
        """What the script answers, once so many replicas have it too."""
        asked: Any = self.redis.pipeline(transaction=False)
        asked.eval(script, len(keys), *keys, *arguments)
        asked.execute_command("WAIT", copies, round(self._command_s / 2 * 1000))
        answer, copied = await asked.execute()
        if copied < copies and answer[0] == b"ok":
            raise StoreUnavailable(
                f"{copied} replicas of Redis have it in time, and {copies} must; try again soon",
                retry_after_s=1.0,
            )
        found: list[Any] = answer
        return found


def _affordable(connections: int) -> int:
    """So many, or fewer: two pools leave everything else at least half of the files that may be open."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if open_files == resource.RLIM_INFINITY else max(1, min(connections, open_files // 4))
