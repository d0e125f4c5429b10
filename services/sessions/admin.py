"""AdminService: tenants, their keys, their quotas and what they have used, on a port of its own."""

import ipaddress
import math
import re
from collections.abc import Sequence

import grpc

from livevideo.v1 import admin_pb2, admin_pb2_grpc
from livevideo.v1.admin_pb2 import (
    AddTenantRequest,
    ChangeTenantRequest,
    GetUsageRequest,
    GetUsageResponse,
    ListTenantsRequest,
    ListTenantsResponse,
    NewKey,
    Quotas,
    RevokeRequest,
    RevokeResponse,
    RotateKeyRequest,
    Tenant,
)
from services import telemetry
from services.app import Context
from services.credentials import from_file_or_environment, presented
from services.errors import BadRequest, BadSetting, Unauthenticated
from services.sessions import keys
from services.sessions.tenants import TenantStore

ADMIN_KEY = "AAPT_ADMIN_KEY"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LONGEST_S = 10 * 365 * 86_400.0
_MOST_DAYS = 400

log = telemetry.logger("admin")


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Whoever reaches it and has its key may do everything to tenants; sessions themselves are not shown."""

    name = "admin"

    def __init__(self, tenants: TenantStore, address: str, key_file: str, *, asks_certificates: bool) -> None:
        """`asks_certificates`: nobody gets through to it without one of ours.

        Raises BadSetting where a port beyond this machine would be open to all.
        """
        self._tenants = tenants
        key = from_file_or_environment(key_file, ADMIN_KEY)
        self._key_hash = keys.hashed(key) if key else ""
        if not (key or asks_certificates or _is_loopback(address)):
            raise BadSetting(
                f"ADMIN_ADDRESS is {address}, which others can reach, and nothing is asked of them; "
                f"set ADMIN_KEY_FILE, {ADMIN_KEY} or TLS_CA_FILE, or listen on 127.0.0.1"
            )

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        return ()

    def bind_internal(self, server: grpc.aio.Server) -> Sequence[str]:
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, server)
        return [admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def AddTenant(self, request: AddTenantRequest, context: Context) -> NewKey:
        self._check(context, request.name)
        _check_quotas(request.quotas)
        _check_seconds("key_expires_s", request.key_expires_s)
        made = await self._tenants.add(request.name, request.quotas, request.key_expires_s)
        log.info("tenant added", tenant=request.name, key=made.about.key_id)
        return made

    async def ChangeTenant(self, request: ChangeTenantRequest, context: Context) -> Tenant:
        self._check(context, request.name)
        _check_quotas(request.quotas)
        await self._tenants.change(request.name, request.quotas)
        log.info("tenant changed", tenant=request.name)
        return await self._tenants.describe(request.name)

    async def ListTenants(self, request: ListTenantsRequest, context: Context) -> ListTenantsResponse:
        self._check(context)
        return ListTenantsResponse(tenants=await self._tenants.all())

    async def RotateKey(self, request: RotateKeyRequest, context: Context) -> NewKey:
        self._check(context, request.name)
        _check_seconds("grace_s", request.grace_s)
        _check_seconds("expires_s", request.expires_s)
        made = await self._tenants.rotate(request.name, request.grace_s, request.expires_s)
        log.info("key rotated", tenant=request.name, key=made.about.key_id, grace_s=request.grace_s)
        return made

    async def Revoke(self, request: RevokeRequest, context: Context) -> RevokeResponse:
        self._check(context, request.name)
        ended = await self._tenants.revoke(request.name, request.key_id)
        log.info("tenant revoked", tenant=request.name, key=request.key_id or "all", sessions=ended)
        return RevokeResponse(sessions=ended)

    async def GetUsage(self, request: GetUsageRequest, context: Context) -> GetUsageResponse:
        self._check(context, request.name)
        days = min(request.days or 30, _MOST_DAYS)
        return GetUsageResponse(days=await self._tenants.usage(request.name, days))

    def _check(self, context: Context, name: str | None = None) -> None:
        """Raises Unauthenticated, and BadRequest for what can be no tenant's name."""
        if self._key_hash and not keys.is_of(presented(context), self._key_hash):
            raise Unauthenticated(
                "the key of whoever administers is not good, or none came; see ADMIN_KEY_FILE"
            )
        if name is not None and not _NAME.fullmatch(name):
            raise BadRequest("name", "must be 1 to 64 letters, digits or _ . -")


def _check_quotas(quotas: Quotas) -> None:
    if quotas.priority > 9:
        raise BadRequest("quotas.priority", f"is {quotas.priority}; it must be 1 to 9, or 0 for 5")
    for name in ("idle_s", "session_s"):
        _check_seconds(f"quotas.{name}", getattr(quotas, name))
    for name, most in (("minutes_per_day", 1e9), ("controls_per_s", 1e6)):
        value = getattr(quotas, name)
        if not 0 <= value <= most:  # NaN is nowhere
            raise BadRequest(f"quotas.{name}", f"is {value:g}; it must be 0 to {most:g}")


def _check_seconds(field: str, seconds: float) -> None:
    if not (math.isfinite(seconds) and 0 <= seconds <= _LONGEST_S):
        raise BadRequest(field, f"is {seconds:g}; it must be 0 to {_LONGEST_S:g} seconds")


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
