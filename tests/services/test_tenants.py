"""Tenants: what one may have, and who may say so. A real sessions, a real Valkey."""

import asyncio
from typing import Any

import pytest

from livevideo.v1.admin_pb2 import (
    AddTenantRequest,
    ChangeTenantRequest,
    GetUsageRequest,
    ListTenantsRequest,
    NewKey,
    Quotas,
)
from livevideo.v1.admin_pb2_grpc import AdminServiceStub
from livevideo.v1.session_pb2 import (
    CloseRequest,
    GetRequest,
    OpenRequest,
    Session,
)
from services import errors
from services.credentials import bearer
from services.relay import refusal_in
from services.sessions import service as sessions
from services.sessions.store import StoreLimits
from tests.services.asking import Sessions, refused
from tests.services.paying import Admin, added, opened


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.6, lease_s=60.0, command_s=5.0)


async def test_a_tenant_has_no_more_sessions_at_once_than_its_quota(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    small = await added(admin_stub, "small", Quotas(sessions=2))
    calls = [opened(session_stub, small.key) for _ in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    seated = [each for each in outcomes if isinstance(each, Session)]
    assert len(seated) == 2
    refusals = [refusal_in(each) for each in outcomes if isinstance(each, BaseException)]
    assert all(isinstance(refusal, errors.QuotaExceeded) for refusal in refusals)
    assert refusals[0] is not None
    assert refusals[0].facts == {"tenant": "small", "quota": "sessions"}
    await opened(session_stub, acme.key)  # nobody else is kept out
    await session_stub.Close(CloseRequest(session_id=seated[0].session_id), metadata=bearer(seated[0].token))
    await opened(session_stub, small.key)
    await admin_stub.ChangeTenant(ChangeTenantRequest(name="small", quotas=Quotas(sessions=3)))
    await opened(session_stub, small.key)


async def test_what_a_tenant_may_never_have_is_refused_before_a_picture_is_read(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    few_pixels = await added(admin_stub, "pixels", Quotas(pixels=64 * 39))
    few_bytes = await added(admin_stub, "bytes", Quotas(image_bytes=10))
    refusal = await refused(opened(session_stub, few_pixels.key))
    assert isinstance(refusal, errors.QuotaExceeded)
    assert refusal.facts["quota"] == "pixels"
    picture = OpenRequest(image=b"not even a picture")
    refusal = await refused(opened(session_stub, few_bytes.key, picture))
    assert isinstance(refusal, errors.QuotaExceeded)
    assert refusal.facts["quota"] == "image_bytes"
    assert refusal.retry_after_s is None
    assert isinstance(await refused(opened(session_stub, acme.key, picture)), errors.BadRequest)


async def test_controls_are_limited_by_the_tenants_quota_too(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    slow = await added(admin_stub, "slow", Quotas(controls_per_s=7))
    session = await opened(session_stub, slow.key)
    found = await session_stub.Get(GetRequest(session_id=session.session_id), metadata=bearer(session.token))
    assert found.controls_per_s == 7


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (AddTenantRequest(name="no spaces"), "name"),
        (AddTenantRequest(name="x" * 65), "name"),
        (AddTenantRequest(name=""), "name"),
        (AddTenantRequest(name="{livevideo}:x"), "name"),
        (AddTenantRequest(name="a", quotas=Quotas(priority=10)), "quotas.priority"),
        (AddTenantRequest(name="a", quotas=Quotas(idle_s=float("nan"))), "quotas.idle_s"),
        (AddTenantRequest(name="a", quotas=Quotas(minutes_per_day=-1)), "quotas.minutes_per_day"),
        (AddTenantRequest(name="a", quotas=Quotas(controls_per_s=float("inf"))), "quotas.controls_per_s"),
        (AddTenantRequest(name="a", key_expires_s=-1), "key_expires_s"),
    ],
)
async def test_tenants_that_cannot_be_are_refused_by_field(
    admin_stub: Admin, request_: AddTenantRequest, field: str
) -> None:
    refusal = await refused(admin_stub.AddTenant(request_))
    assert isinstance(refusal, errors.BadRequest)
    assert refusal.facts == {"field": field}


async def test_tenants_are_added_once_and_known_by_name(admin_stub: Admin) -> None:
    quotas = Quotas(
        priority=7, sessions=3, minutes_per_day=90.5, pixels=9, image_bytes=8, controls_per_s=2.5,
        idle_s=60, session_s=3600,
    )  # fmt: skip
    await added(admin_stub, "acme", quotas)
    assert isinstance(await refused(added(admin_stub, "acme")), errors.TenantExists)
    [tenant] = (await admin_stub.ListTenants(ListTenantsRequest())).tenants
    assert tenant.quotas == quotas
    change = ChangeTenantRequest(name="globex", quotas=quotas)
    assert isinstance(await refused(admin_stub.ChangeTenant(change)), errors.UnknownTenant)
    assert isinstance(
        await refused(admin_stub.GetUsage(GetUsageRequest(name="globex"))), errors.UnknownTenant
    )


async def test_the_admin_service_asks_for_its_key_and_is_not_opened_to_others_without(
    valkey_url: str, serve: Any, dial: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.BadSetting, match="ADMIN_KEY_FILE"):
        await serve(
            sessions.SessionService(sessions.Settings(redis_url=valkey_url, admin_address="0.0.0.0:0"))
        )
    (tmp_path / "key").write_text("open-sesame\n")
    settings = sessions.Settings(
        redis_url=valkey_url, admin_address="0.0.0.0:0", admin_key_file=str(tmp_path / "key")
    )
    service = sessions.SessionService(settings)
    await serve(service)
    stub = AdminServiceStub(dial("127.0.0.1:" + service.admin_address.rpartition(":")[2]))
    for sent in ((), bearer("open-sesam")):
        call = stub.ListTenants(ListTenantsRequest(), metadata=sent)
        assert isinstance(await refused(call), errors.Unauthenticated)
    await stub.ListTenants(ListTenantsRequest(), metadata=bearer("open-sesame"))
