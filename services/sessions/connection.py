"""How Redis is reached: one server, the primary that Sentinels name, or a cluster; with TLS and an ACL user.

redis://[user:password@]host:port[/db]       unix:///path        rediss:// with TLS
redis+sentinel://host:port,host:port/service                     rediss+sentinel://
redis+cluster://host:port,host:port                              rediss+cluster://
"""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from services.errors import BadSetting, StoreUnavailable
from services.files import Files, secret_in

_URL = re.compile(
    r"(?P<scheme>rediss?)(\+(?P<kind>sentinel|cluster))?://"
    r"((?P<user>[^:@/]*)(:(?P<password>[^@]*))?@)?"
    r"(?P<places>[^@/?#]+)(/(?P<path>[A-Za-z0-9_.-]*))?"
)
_PLACE = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORT, _SENTINEL_PORT = 6379, 26379


_UNSERVED = (
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.NoPermissionError,
    redis_errors.ClusterError,
)
# How such an answer begins, or where it comes from: no class of redis-py's stands for these. A script's own
# errors tell what failed within it.
_UNSERVED_WORDS = ("MISCONF", "MASTERDOWN", "NOREPLICAS", "UNBLOCKED", "LOADING", "ACL failure", "NOPERM")


@dataclass(frozen=True)
class RedisAccess:
    """Who we are to Redis. Files are read whenever a connection is opened, so they may be exchanged."""

    redis_user: str = ""  # of Redis' ACL; empty: the one in REDIS_URL, or Redis' default user
    redis_password_file: str = ""  # holds its password alone; empty: the one in REDIS_URL, or none
    redis_sentinel_password_file: str = ""  # what the Sentinels themselves ask for; empty: nothing
    redis_ca_file: str = ""  # PEM: who signs Redis' certificate; empty: whom the system trusts
    redis_cert_file: str = ""  # PEM: our certificate, where Redis asks for one; empty: none
    redis_key_file: str = ""  # PEM: its private key
    redis_copies: int = 0  # replicas of Redis that must hold what is acknowledged; 0: it is not waited for


@dataclass(frozen=True)
class _Address:
    """What a URL says."""

    kind: str  # "", "sentinel" or "cluster"
    is_tls: bool
    user: str
    password: str = field(repr=False)
    places: tuple[tuple[str, int], ...]
    path: str


class Credentials(CredentialProvider):
    """The user and the password, which is read again for each connection."""

    def __init__(self, user: str, password: str, password_file: str) -> None:
        self._user = user
        self._password = password
        self._password_file = password_file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """As redis-py asks for them."""
        password = secret_in(self._password_file) if self._password_file else self._password
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class Connection:
    """One pool of connections, for answers that come within `answer_s`."""

    def __init__(
        self, url: str, access: RedisAccess, *, answer_s: float, connect_s: float, connections: int
    ) -> None:
        """Nothing is dialled yet. Raises BadSetting for a URL or a user that cannot be."""
        self._url = url
        self._access = access
        self._address = None if url.startswith("unix:///") else _parsed(url)
        if access.redis_copies and self._address is not None and self._address.kind == "cluster":
            raise BadSetting("REDIS_COPIES cannot be waited for in a cluster; leave it out")
        self._options: dict[str, Any] = {
            "socket_timeout": answer_s,
            "socket_connect_timeout": connect_s,
            "max_connections": connections,
            # A control that was stored but not answered would be refused as old if it were sent again.
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        is_tls = self._address is not None and self._address.is_tls
        self._files = (
            Files(*(access.redis_ca_file, access.redis_cert_file, access.redis_key_file)) if is_tls else None
        )
        self._opened: list[Redis | RedisCluster] = []
        self._redis = self._open()

    @property
    def redis(self) -> Redis | RedisCluster:
        """The client; another one after its certificates were exchanged, while old answers still come."""
        if self._files is not None and self._files.have_changed():
            self._redis = self._open()
        return self._redis

    async def close(self) -> None:
        while self._opened:
            await self._opened.pop().aclose()

    def _open(self) -> Redis | RedisCluster:
        redis = self._made()
        self._opened.append(redis)
        return redis

    def _made(self) -> Redis | RedisCluster:
        address, options = self._address, dict(self._options)
        if address is None:
            unix: Redis = Redis.from_url(self._url, **options)
            return unix
        if credentials := self._credentials(address):
            options["credential_provider"] = credentials
        if address.is_tls:
            options |= _tls(self._access)
        match address.kind:
            case "sentinel":
                return self._of_sentinels(address, options)
            case "cluster":
                nodes = [ClusterNode(host, port) for host, port in address.places]
                return RedisCluster(startup_nodes=nodes, **options)
            case _:
                host, port = address.places[0]
                return Redis(host=host, port=port, db=int(address.path or 0), **options)

    def _credentials(self, address: _Address) -> Credentials | None:
        user = self._access.redis_user or address.user
        if address.password or self._access.redis_password_file:
            return Credentials(user, address.password, self._access.redis_password_file)
        if user:
            raise BadSetting(
                f"REDIS_URL or REDIS_USER names the user {user!r}, and there is no password; set"
                " REDIS_PASSWORD_FILE"
            )
        return None

    def _of_sentinels(self, address: _Address, options: dict[str, Any]) -> Redis:
        asking = {**options, "socket_timeout": options["socket_connect_timeout"]}
        asking.pop("credential_provider", None)
        if password_file := self._access.redis_sentinel_password_file:
            asking["credential_provider"] = Credentials("", "", password_file)
        sentinel = Sentinel(address.places, sentinel_kwargs=asking)
        self._opened += sentinel.sentinels
        redis: Redis = sentinel.master_for(address.path, **options)
        return redis


@contextmanager
def asking(url: str) -> Iterator[None]:
    """Around every use of Redis: its failures become StoreUnavailable, and no cancellation is lost."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        yield
    except (redis_errors.RedisError, redis_errors.RedisClusterException, OSError) as error:
        if not _is_unserved(error):
            raise
        raise StoreUnavailable(f"Redis at {where(url)} does not serve: {error}", retry_after_s=1.0) from error
    # redis-py 8.1 swallows some cancellations that come while it opens a connection; a stream that loops over
    # reads would then run for ever.
    if task and task.cancelling() > cancelled_before:
        raise asyncio.CancelledError


def _is_unserved(error: Exception) -> bool:
    """Whether Redis cannot serve now, or does not let us; any other refusal is a mistake of ours."""
    return not isinstance(error, redis_errors.ResponseError | redis_errors.DataError) or (
        isinstance(error, _UNSERVED) or any(word in str(error) for word in _UNSERVED_WORDS)
    )


def check_url(url: str) -> None:
    """Raises BadSetting for a URL that is none."""
    if not url.startswith("unix:///"):
        _parsed(url)


def where(url: str) -> str:
    """The URL without what must not be told."""
    return url.rpartition("@")[2]


def _parsed(url: str) -> _Address:
    found = _URL.fullmatch(url)
    if found is None:
        raise BadSetting(
            f"REDIS_URL is {where(url)[:200]!r}; begin it with redis://, rediss://, unix://,"
            " redis+sentinel:// or redis+cluster://, then host:port"
        )
    kind, path = found["kind"] or "", found["path"] or ""
    default_port = _SENTINEL_PORT if kind == "sentinel" else _DEFAULT_PORT
    places = tuple(_place(each, default_port) for each in found["places"].split(","))
    if kind == "sentinel" and not path:
        raise BadSetting("REDIS_URL names Sentinels and no service; end it with /service, e.g. /mymaster")
    if kind == "" and (len(places) > 1 or not (path.isdecimal() or not path)):
        raise BadSetting(
            "REDIS_URL is for one server, so it has one host:port and, at most, /database-number"
        )
    if kind == "cluster" and path:
        raise BadSetting("REDIS_URL is for a cluster, which has no databases; end it behind the last port")
    return _Address(
        kind, found["scheme"] == "rediss", found["user"] or "", found["password"] or "", places, path
    )


def _place(text: str, default_port: int) -> tuple[str, int]:
    found = _PLACE.fullmatch(text)
    port = int(found["port"] or default_port) if found else 0
    if found is None or not 0 < port < 65536:
        raise BadSetting(f"REDIS_URL has {text[:80]!r} where a host:port must be")
    return found["host"].strip("[]"), port


def _tls(access: RedisAccess) -> dict[str, Any]:
    return {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": access.redis_ca_file or None,
        "ssl_certfile": access.redis_cert_file or None,
        "ssl_keyfile": access.redis_key_file or None,
    }
