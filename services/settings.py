"""Settings: frozen dataclasses, filled from the environment, and checked by the units in their names."""

import dataclasses
import inspect
import math
import os
import re
import typing
from collections.abc import Iterator
from typing import Any, TypeVar, cast

from services.errors import BadSetting

S = TypeVar("S")

_QUANTITIES = ("_s", "_per_second", "_bytes")  # seconds, a rate by the second, a size
_FIELD = re.compile(r"    (?P<name>\w+): .*?(  # (?P<says>.*))?")


def settings_from_env(cls: type[S]) -> S:
    """Fills a frozen dataclass from the environment: field `redis_url` from REDIS_URL.

    A field that is such a dataclass itself is filled likewise, under the names of its own fields. Raises
    BadSetting.
    """
    kinds = typing.get_type_hints(cls)
    chosen: dict[str, object] = {}
    for field in dataclasses.fields(cast(Any, cls)):
        kind, variable = kinds[field.name], field.name.upper()
        if dataclasses.is_dataclass(kind):
            chosen[field.name] = settings_from_env(cast(type[object], kind))
        elif variable in os.environ:
            chosen[field.name] = _parsed(variable, os.environ[variable], kind)
    settings = cls(**chosen)
    check(settings)
    return settings


def settings_to_env(settings: object) -> dict[str, str]:
    """What `settings_from_env` makes the same settings of, for a process that is started."""
    env: dict[str, str] = {}
    for field in dataclasses.fields(cast(Any, settings)):
        value = getattr(settings, field.name)
        env |= settings_to_env(value) if dataclasses.is_dataclass(value) else {field.name.upper(): str(value)}
    return env


def check(settings: object, **least: int) -> None:
    """Raises BadSetting for a number that cannot be, or an address that is none.

    No number is negative. A quantity that is not 0 by default cannot be 0, and an address that is not empty
    by default cannot be empty. `least`: the lowest value of a count.
    """
    for field in dataclasses.fields(cast(Any, settings)):
        name, value, default = field.name, getattr(settings, field.name), field.default
        if isinstance(value, int | float) and not isinstance(value, bool):
            lowest, is_above_0 = least.get(name, 0), bool(name.endswith(_QUANTITIES) and default)
            if not math.isfinite(value) or value < lowest or (is_above_0 and not value):
                wanted = "above 0" if is_above_0 else f"{lowest} or more"
                raise BadSetting(f"{name.upper()} is {value}; it must be {wanted}")
            if name.endswith("_port") and value > 65535:
                raise BadSetting(f"{name.upper()} is {value}; it must be from 0 to 65535")
        elif name.endswith("address") and default and not _is_address(value):
            raise BadSetting(f"{name.upper()} is {value!r}; it must be host:port, the port from 0 to 65535")


def help_text(*classes: type[object]) -> str:
    """Every setting with its default, and what the comment beside it says."""
    rows = [row for cls in classes for row in _rows(cls)]
    name_width, default_width = (max(len(row[i]) for row in rows) for i in (0, 1))
    lines = (f"  {name:{name_width}}  {default:{default_width}}  {says}" for name, default, says in rows)
    return "settings, from the environment, with their defaults:\n\n" + "\n".join(map(str.rstrip, lines))


def _rows(cls: type[object]) -> Iterator[tuple[str, str, str]]:
    kinds, says = typing.get_type_hints(cls), comments(cls)
    for field in dataclasses.fields(cast(Any, cls)):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _rows(cast(type[object], kind))
        else:
            default = "(empty)" if field.default == "" else str(field.default)
            yield field.name.upper(), default, says.get(field.name, "")


def comments(cls: type[object]) -> dict[str, str]:
    """Of each field: the comment behind it, or the lines above it."""
    said: dict[str, str] = {}
    above: list[str] = []
    try:
        lines = inspect.getsource(cls).splitlines()
    except OSError:  # installed without its source
        lines = []
    for line in lines:
        if line.startswith("    # "):
            above.append(line.strip().removeprefix("# "))
            continue
        if found := _FIELD.fullmatch(line):
            said[found["name"]] = found["says"] or " ".join(above)
        above = []
    return said


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) <= 65535


def _parsed(variable: str, text: str, kind: type) -> object:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise BadSetting(f"{variable} is {text!r}; it must be of type {kind.__name__}") from error
