"""Ids, API keys and tokens: how they are made, and how a secret is known again without being kept."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from services.errors import UnknownSession

_SESSION_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}-[0-9a-f]{32}")
_KEY = re.compile(r"aapt_(?P<tenant>[A-Za-z0-9_.-]{1,64})_(?P<key_id>[0-9a-f]{12})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Made:
    """A key of a tenant, the only time that it is whole."""

    key: str
    key_id: str

    def __repr__(self) -> str:
        return f"Made(key_id={self.key_id!r})"


def new_key(tenant: str) -> Made:
    """256 random bits behind the tenant's name and an id; these are no secrets, so that lists can tell."""
    key_id = secrets.token_hex(6)
    return Made(f"aapt_{tenant}_{key_id}_{secrets.token_urlsafe(32)}", key_id)


def new_token() -> str:
    """Of one session: 256 random bits."""
    return secrets.token_urlsafe(32)


def new_session_id(model: str) -> str:
    """No secret where tenants are configured, and hard to guess where none are."""
    return f"{model}-{secrets.token_hex(16)}"


def checked(session_id: str) -> str:
    """Raises UnknownSession for what can be no session's id."""
    if not _SESSION_ID.fullmatch(session_id):
        raise UnknownSession(f"session {session_id[:120]!r} is not known; open one first")
    return session_id


def names_in(secret: str) -> tuple[str, str]:
    """The tenant and the id that a key names; empty for what is not written like one, e.g. a token."""
    written = _KEY.fullmatch(secret)
    return (written["tenant"], written["key_id"]) if written else ("", "")


def hashed(secret: str) -> str:
    """What is stored. Secrets are long and random, so one round of SHA-256 keeps them."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_of(secret: str, stored: str) -> bool:
    """Whether `stored` was made of it; takes as long whether it was or not."""
    return hmac.compare_digest(hashed(secret), stored)
