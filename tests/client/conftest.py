"""A client meets real services: those of `make play`, or one that breaks on purpose."""

from tests.services.conftest import dial, serve
from tests.system.conftest import start

__all__ = ["dial", "serve", "start"]
