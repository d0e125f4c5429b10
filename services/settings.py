"""Settings: frozen dataclasses, filled from the environment."""

import dataclasses
import os
import typing
from typing import Any, TypeVar, cast

from services.errors import BadSetting

S = TypeVar("S")


def settings_from_env(cls: type[S]) -> S:
    """Fills a frozen dataclass from the environment: field `redis_url` from REDIS_URL. Raises BadSetting."""
    kinds = typing.get_type_hints(cls)
    chosen = {
        field.name: _parsed(field.name.upper(), os.environ[field.name.upper()], kinds[field.name])
        for field in dataclasses.fields(cast(Any, cls))
        if field.name.upper() in os.environ
    }
    return cls(**chosen)


def _parsed(variable: str, text: str, kind: type) -> object:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise BadSetting(f"{variable} is {text!r}; it must be of type {kind.__name__}") from error
