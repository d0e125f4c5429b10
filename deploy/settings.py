"""The settings of each service, as its dataclasses have them, and which of them the chart itself sets."""

import dataclasses
import importlib
import typing
from dataclasses import dataclass
from typing import Any

from services.settings import comments

SERVICES = ("control", "sessions", "decoder", "web", "engine")
# Where a service's settings are read: without Ray, and for the engine with it.
_MODULES = {name: [f"services.{name}.service"] for name in SERVICES}
_MODULES["engine"].append("services.engine.deployment")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Follow from the chart's own values.
OWN = _names(
    "ADDRESS INTERNAL_ADDRESS ADVERTISED_ADDRESS ADMIN_ADDRESS PAGE_ADDRESS METRICS_PORT SESSIONS_ADDRESS"
    " CONTROL_ADDRESS FRAMES_ADDRESS CHECKPOINT DEVICE SLOTS LEAVE_S DRAIN_S API_KEY_FILE"
    " REDIS_URL REDIS_USER REDIS_COPIES REDIS_PASSWORD_FILE REDIS_CA_FILE REDIS_CERT_FILE REDIS_KEY_FILE"
    " TLS_CERT_FILE TLS_KEY_FILE TLS_CA_FILE TLS_CALLERS TLS_PEER_NAME TLS_PUBLIC_CERT_FILE"
    " TLS_PUBLIC_KEY_FILE REPLICAS SHARDS CPUS_PER_RANK GPUS_PER_RANK LISTEN_HOST PORT"
    " OTEL_EXPORTER_OTLP_ENDPOINT TRACE_SAMPLING"
)
# Of no use on Kubernetes: files that nothing mounts, a name that Kubernetes gives, a cluster that KubeRay
# makes, and a command that is not run there.
UNUSED = _names(
    "ADMIN_KEY_FILE TLS_PLAYER_CA_FILE REDIS_SENTINEL_PASSWORD_FILE REPLICA ADVERTISED_HOST RAY_ADDRESS"
    " START_S ENDS_WITH_STDIN LOG_LEVEL"
)


@dataclass(frozen=True)
class Setting:
    """One variable of the environment."""

    variable: str
    kind: type
    default: object
    says: str


def settings_of(service: str) -> list[Setting]:
    """Those that an operator may choose freely."""
    return [each for each in all_settings(service) if each.variable not in OWN | UNUSED]


def all_settings(service: str) -> list[Setting]:
    """Every variable that the service reads, each once."""
    found: dict[str, Setting] = {}
    for module in _MODULES[service]:
        for each in _fields(importlib.import_module(module).Settings):
            found.setdefault(each.variable, each)
    return list(found.values())


def _fields(cls: Any) -> list[Setting]:
    kinds, says = typing.get_type_hints(cls), comments(cls)
    found: list[Setting] = []
    for field in dataclasses.fields(cls):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            found += _fields(kind)
        else:
            found.append(Setting(field.name.upper(), kind, field.default, says.get(field.name, "")))
    return found
