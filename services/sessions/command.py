"""Tenants, their keys, and what they have used, from the command line.

    python -m services.sessions tenants add acme --sessions 10 --minutes-per-day 600 > acme.key
    python -m services.sessions tenants list

It asks the admin service, so one must listen: start *sessions* with ADMIN_ADDRESS=127.0.0.1:50056. A key is
printed once, alone on standard output; all else is said on standard error, but for lists and usage.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.admin_pb2 import (
    AddTenantRequest,
    ChangeTenantRequest,
    GetUsageRequest,
    ListTenantsRequest,
    NewKey,
    Quotas,
    RevokeRequest,
    RotateKeyRequest,
    Tenant,
)
from livevideo.v1.admin_pb2_grpc import AdminServiceStub
from services.app import open_channel
from services.credentials import Metadata, bearer, from_file_or_environment
from services.errors import ServiceError
from services.relay import refusal_in
from services.sessions.admin import ADMIN_KEY
from services.settings import settings_from_env
from services.tls import Tls

if TYPE_CHECKING:
    from livevideo.v1.admin_pb2_grpc import AdminServiceAsyncStub

_ANSWER_S = 10.0
_HOUR_S, _DAY_S = 3600.0, 86_400.0
# Option of a quota: what it means. The names are those of the message's fields.
_QUOTAS = {
    "priority": "1 to 9: its share of the queue, and whose seat goes to whom (default: 5)",
    "sessions": "at once",
    "minutes_per_day": "of play, all sessions together, by UTC's day",
    "pixels": "of a model's picture",
    "image_bytes": "of a first picture",
    "controls_per_s": "of one session",
    "idle_s": "seconds without a control after which a session is ended",
    "session_s": "seconds after which a session is ended",
}


def main(arguments: Sequence[str]) -> int:
    """What it is to exit with."""
    options = _options(arguments)
    try:
        credentials = bearer(from_file_or_environment(options.admin_key_file, ADMIN_KEY))
        asyncio.run(_ask(options, credentials, settings_from_env(Tls)))
    except (ServiceError, grpc.aio.AioRpcError) as error:
        refusal = refusal_in(error)
        said = refusal.message if refusal else str(error)
        print(f"{said} (asked the admin service at {options.admin})", file=sys.stderr)
        return 2
    return 0


async def _ask(options: argparse.Namespace, credentials: Metadata, tls: Tls) -> None:
    async with open_channel(options.admin, tls) as channel:
        await options.does(AdminServiceStub(channel), options, credentials)


async def _add(admin: "AdminServiceAsyncStub", options: argparse.Namespace, credentials: Metadata) -> None:
    request = AddTenantRequest(
        name=options.name, quotas=_quotas(options), key_expires_s=options.expires_days * _DAY_S
    )
    made = await admin.AddTenant(request, metadata=credentials, timeout=_ANSWER_S)
    _show(made, f"tenant {options.name} was added")


async def _change(admin: "AdminServiceAsyncStub", options: argparse.Namespace, credentials: Metadata) -> None:
    listed = await admin.ListTenants(ListTenantsRequest(), metadata=credentials, timeout=_ANSWER_S)
    now = next((tenant.quotas for tenant in listed.tenants if tenant.name == options.name), None)
    request = ChangeTenantRequest(name=options.name, quotas=_quotas(options, now))
    tenant = await admin.ChangeTenant(request, metadata=credentials, timeout=_ANSWER_S)
    print(f"tenant {tenant.name} has {_told(tenant.quotas)}", file=sys.stderr)


async def _list(admin: "AdminServiceAsyncStub", options: argparse.Namespace, credentials: Metadata) -> None:
    listed = await admin.ListTenants(ListTenantsRequest(), metadata=credentials, timeout=_ANSWER_S)
    if not listed.tenants:
        print("there are no tenants: nobody is asked for a key", file=sys.stderr)
    for tenant in listed.tenants:
        print(_line(tenant))
        for key in tenant.keys:
            end = f"until {_at(key.expires_at_s)}" if key.expires_at_s else "without end"
            print(f"    key {key.key_id}  from {_at(key.made_at_s)} {end}")


async def _rotate(admin: "AdminServiceAsyncStub", options: argparse.Namespace, credentials: Metadata) -> None:
    request = RotateKeyRequest(
        name=options.name,
        grace_s=options.grace_hours * _HOUR_S,
        expires_s=options.expires_days * _DAY_S,
    )
    made = await admin.RotateKey(request, metadata=credentials, timeout=_ANSWER_S)
    _show(made, f"the other keys of {options.name} open sessions for {options.grace_hours:g} h more")


async def _revoke(admin: "AdminServiceAsyncStub", options: argparse.Namespace, credentials: Metadata) -> None:
    request = RevokeRequest(name=options.name, key_id=options.key)
    ended = await admin.Revoke(request, metadata=credentials, timeout=_ANSWER_S)
    what = f"key {options.key} of {options.name}" if options.key else f"tenant {options.name}"
    print(f"{what} was revoked, and {ended.sessions} sessions were ended", file=sys.stderr)


async def _usage(admin: "AdminServiceAsyncStub", options: argparse.Namespace, credentials: Metadata) -> None:
    request = GetUsageRequest(name=options.name, days=options.days)
    used = await admin.GetUsage(request, metadata=credentials, timeout=_ANSWER_S)
    print(f"{'day':10} {'sessions':>9} {'minutes':>10} {'latents':>12}")
    for day in used.days:
        print(f"{day.day} {day.sessions:9} {day.session_s / 60:10.2f} {day.latents:12}")


def _show(made: NewKey, said: str) -> None:
    print(f"{said}; its key {made.about.key_id} is shown this once:", file=sys.stderr)
    print(made.key)


def _line(tenant: Tenant) -> str:
    revoked = f", revoked {_at(tenant.revoked_at_s)}" if tenant.revoked_at_s else ""
    return f"{tenant.name}: {tenant.sessions} sessions now, {_told(tenant.quotas)}{revoked}"


def _told(quotas: Quotas) -> str:
    given = {name: getattr(quotas, name) for name in _QUOTAS if getattr(quotas, name)}
    return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in given.items())


def _at(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _quotas(options: argparse.Namespace, now: Quotas | None = None) -> Quotas:
    """What was given, and for the rest what it has now."""
    quotas = Quotas()
    if now is not None:
        quotas.CopyFrom(now)
    for name in _QUOTAS:
        if (given := getattr(options, name)) is not None:
            setattr(quotas, name, given)
    return quotas


def _number(kind: Callable[[str], float]) -> Callable[[str], float]:
    """An argument's type: 0 or more, and no more than the messages can carry."""

    def parsed(text: str) -> float:
        value = kind(text)
        if not 0 <= value < 2**32:  # NaN is nowhere
            raise argparse.ArgumentTypeError(f"is {text!r}; give 0 or more, below {2**32}")
        return value

    parsed.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return parsed


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m services.sessions tenants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--admin",
        default=os.environ.get("ADMIN_ADDRESS", "127.0.0.1:50056"),
        metavar="HOST:PORT",
        help="where the admin service listens (default: ADMIN_ADDRESS, or 127.0.0.1:50056)",
    )
    parser.add_argument("--admin-key-file", default="", help=f"its key, if it has one (default: {ADMIN_KEY})")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, does: object, about: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(does=does)
        if name != "list":
            added.add_argument("name", help="the tenant's name")
        return added

    add = verb("add", _add, "Add a tenant; print its first key.")
    change = verb("change", _change, "Give a tenant other quotas; those that are not named stay.")
    verb("list", _list, "List tenants, their quotas and their keys.")
    rotate = verb("rotate", _rotate, "Make another key, print it, and let the others end after a while.")
    revoke = verb("revoke", _revoke, "End a key or a tenant, and their sessions, at once.")
    usage = verb("usage", _usage, "Tell what a tenant has used, day by day.")
    for each in (add, change):
        limits = each.add_argument_group("quotas; 0 is as much as it likes")
        for name, about in _QUOTAS.items():
            kind = _number(type(getattr(Quotas(), name)))
            limits.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help=about)
    for each in (add, rotate):
        each.add_argument(
            "--expires-days", type=_number(float), default=0.0, help="the key's life (default: no end)"
        )
    rotate.add_argument(
        "--grace-hours", type=_number(float), default=24.0, help="of the other keys (default: 24)"
    )
    revoke.add_argument("--key", default="", help="only this key, by its id (default: the whole tenant)")
    usage.add_argument("--days", type=_number(int), default=30, help="the last so many (default: 30)")
    return parser.parse_args(arguments)
