"""A client meets real services: those of `make play`, or one that breaks on purpose."""

from tests.services.conftest import (
    announcement,
    dial,
    limits,
    road,
    serve,
    session_stub,
    sessions_address,
    sessions_service,
    sessions_settings,
    valkey,
    valkey_url,
)
from tests.system.conftest import start

__all__ = [
    "announcement",
    "dial",
    "limits",
    "road",
    "serve",
    "session_stub",
    "sessions_address",
    "sessions_service",
    "sessions_settings",
    "start",
    "valkey",
    "valkey_url",
]
