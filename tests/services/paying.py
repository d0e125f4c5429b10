"""Tenants as tests have them: added by an operator, and let in by their keys."""

from typing import TYPE_CHECKING, TypeAlias

import grpc

from livevideo.v1.admin_pb2 import AddTenantRequest, NewKey, Quotas
from livevideo.v1.session_pb2 import FollowRequest, FollowResponse, OpenRequest, Session
from services.credentials import bearer
from tests.services.asking import Sessions

if TYPE_CHECKING:
    from livevideo.v1.admin_pb2_grpc import AdminServiceAsyncStub

FAR_KEY = "aapt_acme_0123456789ab_" + "A" * 43  # written like a key, and nobody's

Admin: TypeAlias = "AdminServiceAsyncStub"
Following: TypeAlias = "grpc.aio.StreamStreamCall[FollowRequest, FollowResponse]"


async def added(admin: Admin, name: str, quotas: Quotas | None = None) -> NewKey:
    return await admin.AddTenant(AddTenantRequest(name=name, quotas=quotas))


async def opened(stub: Sessions, key: str, request: OpenRequest | None = None) -> Session:
    return await stub.Open(request or OpenRequest(), metadata=bearer(key))
