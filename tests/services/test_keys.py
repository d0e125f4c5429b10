"""Keys and tokens: who gets in, and who sees what. A real sessions, a real Valkey."""

import asyncio
import io
import logging
from typing import Any

import grpc
import pytest
from PIL import Image
from redis.asyncio import Redis

from livevideo.v1.admin_pb2 import (
    ListTenantsRequest,
    NewKey,
    Quotas,
    RevokeRequest,
    RotateKeyRequest,
)
from livevideo.v1.control_pb2 import ControlEvent
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    CloseRequest,
    GetRequest,
    ListModelsRequest,
    NoticesRequest,
    OpenRequest,
    PushRequest,
    SessionState,
)
from services import errors
from services.credentials import bearer
from services.sessions import service as sessions
from services.sessions.embedded import EmbeddedValkey
from services.sessions.store import StoreLimits
from tests.services.asking import DEADLINE_S, LEFT, Sessions, following, refused
from tests.services.paying import FAR_KEY, Admin, added, opened


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.6, lease_s=60.0, command_s=5.0)


async def test_nobody_is_asked_for_a_key_until_there_is_a_tenant(
    session_stub: Sessions, admin_stub: Admin, announcement: AnnounceRequest
) -> None:
    await session_stub.Announce(announcement)
    before = await opened(session_stub, FAR_KEY)
    assert (before.tenant, before.token) == ("default", "")
    made = await added(admin_stub, "acme")
    assert isinstance(await refused(session_stub.Open(OpenRequest())), errors.Unauthenticated)
    session = await opened(session_stub, made.key)
    assert session.tenant == "acme"
    assert session.token
    # Whoever plays already plays on.
    assert (await session_stub.Get(GetRequest(session_id=before.session_id))).tenant == "default"
    assert len((await session_stub.ListModels(ListModelsRequest())).models) == 1


@pytest.mark.parametrize(
    "sent",
    [
        (),
        bearer(FAR_KEY),
        bearer("x"),
        bearer("x" * 4000),
        (("authorization", "Basic YWNtZTphY21l"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
    ],
    ids=["none", "unknown", "no key", "huge", "another scheme", "empty", "two"],
)
async def test_a_key_that_is_none_opens_nothing(
    session_stub: Sessions, acme: NewKey, sent: tuple[tuple[str, str], ...]
) -> None:
    refusal = await refused(session_stub.Open(OpenRequest(), metadata=sent))
    assert isinstance(refusal, errors.Unauthenticated)
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_with_a_wrong_secret_behind_a_right_id_opens_nothing(
    session_stub: Sessions, acme: NewKey
) -> None:
    forged = acme.key[:-1] + ("A" if acme.key[-1] != "A" else "B")
    assert isinstance(await refused(opened(session_stub, forged)), errors.Unauthenticated)


async def test_a_tenant_is_named_by_its_key_alone(session_stub: Sessions, acme: NewKey) -> None:
    assert (await opened(session_stub, acme.key, OpenRequest(tenant="acme"))).tenant == "acme"
    refusal = await refused(opened(session_stub, acme.key, OpenRequest(tenant="globex")))
    assert isinstance(refusal, errors.BadRequest)
    assert refusal.facts == {"field": "tenant"}


async def asked(stub: Sessions, session_id: str, secret: str) -> list[errors.ServiceError]:
    """What every call that names a session is refused with."""
    sent = bearer(secret)
    push = stub.Push(metadata=sent)
    await push.write(PushRequest(event=ControlEvent(session_id=session_id, seq=1, keys=LEFT)))
    calls: list[Any] = [
        stub.Get(GetRequest(session_id=session_id), metadata=sent),
        stub.Close(CloseRequest(session_id=session_id), metadata=sent),
        stub.Notices(NoticesRequest(session_id=session_id), metadata=sent).read(),
        push.read(),
    ]
    return [await refused(call) for call in calls]


async def test_another_ones_session_is_as_unknown_as_one_that_never_was(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    globex = await added(admin_stub, "globex")
    session = await opened(session_stub, acme.key)
    other = await opened(session_stub, globex.key)
    guessed = "road-" + "0" * 32
    for secret in ("", globex.key, other.token, FAR_KEY, "x", session.token[:-1], session.session_id):
        answers = await asked(session_stub, session.session_id, secret)
        never = await asked(session_stub, guessed, secret)
        assert {type(each) for each in [*answers, *never]} == {errors.UnknownSession}
        told = {each.message.replace(session.session_id, "ID") for each in answers}
        assert told == {each.message.replace(guessed, "ID") for each in never}
    mine = await session_stub.Get(GetRequest(session_id=session.session_id), metadata=bearer(session.token))
    assert mine.state == SessionState.SESSION_STATE_WAITING
    assert mine.token == ""


async def test_a_session_is_open_to_its_token_and_to_its_tenants_keys(
    session_stub: Sessions, acme: NewKey
) -> None:
    session = await opened(session_stub, acme.key)
    for secret in (session.token, acme.key):
        found = await session_stub.Get(GetRequest(session_id=session.session_id), metadata=bearer(secret))
        assert found.tenant == "acme"
    await session_stub.Close(CloseRequest(session_id=session.session_id), metadata=bearer(session.token))
    # A token that is used again after the end opens nothing any more.
    closed = await session_stub.Get(GetRequest(session_id=session.session_id), metadata=bearer(session.token))
    assert (closed.state, closed.ended) == (SessionState.SESSION_STATE_CLOSED, "closed")
    push = session_stub.Push(metadata=bearer(session.token))
    await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
    assert isinstance(await refused(push.read()), errors.SessionClosed)


async def test_a_token_expires(session_stub: Sessions, admin_stub: Admin, acme: NewKey) -> None:
    brief = await added(admin_stub, "brief", Quotas(session_s=0.2))
    session = await opened(session_stub, brief.key)
    await asyncio.sleep(0.3)
    get = session_stub.Get(GetRequest(session_id=session.session_id), metadata=bearer(session.token))
    refusal = await refused(get)
    assert isinstance(refusal, errors.Unauthenticated)
    assert "has expired" in refusal.message


async def test_a_key_is_rotated_and_the_old_one_ends_after_its_grace(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    session = await opened(session_stub, acme.key)
    second = await admin_stub.RotateKey(RotateKeyRequest(name="acme", grace_s=0.5))
    await opened(session_stub, acme.key)
    await opened(session_stub, second.key)
    [tenant] = (await admin_stub.ListTenants(ListTenantsRequest())).tenants
    assert {key.key_id for key in tenant.keys} == {acme.about.key_id, second.about.key_id}
    await asyncio.sleep(0.6)
    assert isinstance(await refused(opened(session_stub, acme.key)), errors.Unauthenticated)
    await opened(session_stub, second.key)
    # A key that has run out was not revoked: what it opened goes on.
    found = await session_stub.Get(GetRequest(session_id=session.session_id), metadata=bearer(session.token))
    assert found.ended == ""
    [tenant] = (await admin_stub.ListTenants(ListTenantsRequest())).tenants
    assert [key.key_id for key in tenant.keys] == [second.about.key_id]


async def test_revoking_a_key_ends_what_it_opened_and_nothing_else(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    second = await admin_stub.RotateKey(RotateKeyRequest(name="acme", grace_s=60))
    old, new = await opened(session_stub, acme.key), await opened(session_stub, second.key)
    answer = await admin_stub.Revoke(RevokeRequest(name="acme", key_id=acme.about.key_id))
    assert answer.sessions == 1
    assert isinstance(await refused(opened(session_stub, acme.key)), errors.Unauthenticated)
    for session, ended in ((old, "revoked"), (new, "")):
        get = GetRequest(session_id=session.session_id)
        assert (await session_stub.Get(get, metadata=bearer(session.token))).ended == ended
    unknown = admin_stub.Revoke(RevokeRequest(name="acme", key_id=acme.about.key_id))
    assert isinstance(await refused(unknown), errors.UnknownTenant)


async def test_revoking_a_tenant_ends_its_streams_and_shuts_the_door(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    session = await opened(session_stub, acme.key)
    push = session_stub.Push(metadata=bearer(session.token))
    await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
    await push.read()
    assert (await admin_stub.Revoke(RevokeRequest(name="acme"))).sessions == 1
    assert isinstance(await refused(push.read()), errors.Revoked)
    assert (await admin_stub.Revoke(RevokeRequest(name="acme"))).sessions == 0
    assert isinstance(await refused(opened(session_stub, acme.key)), errors.Unauthenticated)
    assert isinstance(await refused(session_stub.Open(OpenRequest())), errors.Unauthenticated)
    rotate = admin_stub.RotateKey(RotateKeyRequest(name="acme"))
    assert isinstance(await refused(rotate), errors.UnknownTenant)


async def test_a_redis_that_has_lost_everything_does_not_open_the_doors(
    session_stub: Sessions, valkey: EmbeddedValkey, acme: NewKey, announcement: AnnounceRequest
) -> None:
    await opened(session_stub, acme.key)
    await valkey.kill()
    await valkey.start()
    await session_stub.Announce(announcement)
    assert isinstance(await refused(session_stub.Open(OpenRequest())), errors.Unauthenticated)


async def test_a_deployment_may_ask_for_keys_before_there_is_a_tenant(
    valkey_url: str, serve: Any, dial: Any, announcement: AnnounceRequest
) -> None:
    settings = sessions.Settings(redis_url=valkey_url, asks_for_keys=True)
    stub = Sessions(dial(await serve(sessions.SessionService(settings))))
    await stub.Announce(announcement)
    assert isinstance(await refused(stub.Open(OpenRequest())), errors.Unauthenticated)


async def test_no_secret_is_logged_stored_or_repeated_in_a_refusal(
    session_stub: Sessions,
    admin_stub: Admin,
    acme: NewKey,
    valkey_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    picture = io.BytesIO()
    Image.new("RGB", (64, 40)).save(picture, "PNG")
    session = await opened(session_stub, acme.key, OpenRequest(image=picture.getvalue()))
    second = await admin_stub.RotateKey(RotateKeyRequest(name="acme", grace_s=60))
    secrets = [acme.key, second.key, session.token]
    said: list[str] = []
    for secret in secrets:
        said += [each.message for each in await asked(session_stub, "road-" + "0" * 32, secret)]
        wrong = [
            refused(opened(session_stub, secret + "x")),
            refused(opened(session_stub, secret, OpenRequest(model="x"))),
        ]
        said += [repr(each) + str(each.facts) for each in await asyncio.gather(*wrong)]
        follow = await following(session_stub, "road-" + "0" * 32, 9)
        said.append(str(await refused(follow.read())))
    await admin_stub.Revoke(RevokeRequest(name="acme"))
    said += [str(await refused(opened(session_stub, secret))) for secret in secrets]
    said += [record.getMessage() + str(record.__dict__) for record in caplog.records]
    assert any("session opened" in each for each in said)
    async with Redis.from_url(valkey_url) as redis:
        for name in await redis.keys("*"):
            said += [str(name), str(await redis.dump(name))]
    for secret in secrets:
        assert not [each for each in said if secret in each or secret[-20:] in each]


async def test_an_instance_that_ends_a_revoked_session_midway_leaves_none_behind(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey, valkey_url: str
) -> None:

    session = await opened(session_stub, acme.key)
    await session_stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))
    follow = await following(session_stub, session.session_id, 1)
    async with Redis.from_url(valkey_url) as redis:  # as if it had died right behind the key
        await redis.hdel("{livevideo}:keys", acme.about.key_id)
    assert await asyncio.wait_for(follow.code(), DEADLINE_S) is grpc.StatusCode.OK
    push = session_stub.Push(metadata=bearer(session.token))
    await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
    assert isinstance(await refused(push.read()), errors.Revoked)
