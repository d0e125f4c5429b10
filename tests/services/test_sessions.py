"""sessions against a real Valkey: seats, epochs, controls and receipts, and what happens when things die."""

import asyncio
import io
import resource
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import grpc
import pytest
from PIL import Image
from redis.asyncio import Redis

from livevideo.v1 import session_pb2_grpc
from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Keys, Obeyed
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    CloseRequest,
    FollowRequest,
    FollowResponse,
    GetRequest,
    ListModelsRequest,
    Model,
    OpenRequest,
    PushRequest,
    Seat,
    Session,
    SessionState,
)
from services import errors
from services.sessions.embedded import EmbeddedValkey, next_delay_s
from services.sessions.service import SessionService
from services.sessions.store import SessionStore, StoreLimits

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SessionServiceAsyncStub

Sessions: TypeAlias = "SessionServiceAsyncStub"
Running = Callable[[], set["asyncio.Task[object]"]]
UntilEnded = Callable[[set["asyncio.Task[object]"]], Awaitable[None]]
DEADLINE_S = 20.0
LEFT = Keys(down=["left"])


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.6, lease_s=1.0, command_s=2.0)


@pytest.fixture
async def store(valkey_url: str, limits: StoreLimits) -> AsyncIterator[SessionStore]:
    store = SessionStore(valkey_url, limits, block_s=0.2)
    yield store
    await store.close()


@pytest.fixture
async def patient(valkey_url: str) -> AsyncIterator[SessionStore]:
    """A store whose leases and seats outlive any test."""
    store = SessionStore(valkey_url, StoreLimits(live_seat_s=60, lease_s=60, command_s=5.0))
    yield store
    await store.close()


async def refused(call: object) -> errors.ServiceError:
    """The refusal that a gRPC call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, DEADLINE_S)  # type: ignore[arg-type]
    refusal = errors.from_status(caught.value)
    assert refusal is not None, caught.value
    assert refusal.code is caught.value.code()
    return refusal


def control(seq: int, session_id: str = "") -> FollowResponse:
    return FollowResponse(event=ControlEvent(session_id=session_id, seq=seq, keys=LEFT), received_at_s=1.5)


def picture(width_px: int, height_px: int, kind: str = "PNG") -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width_px, height_px), "red").save(encoded, kind)
    return encoded.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png_that_says(width_px: int, height_px: int) -> bytes:
    """The beginning of a PNG: all that must be read to know how large the picture is."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")


# Seats


async def test_concurrent_opens_never_take_more_seats_than_there_are(
    patient: SessionStore, road: Model
) -> None:
    for replica, slots in (("a", 3), ("b", 4), ("full", 0)):
        await patient.announce(
            AnnounceRequest(replica=replica, address=f"{replica}:1", model=road, slots=slots)
        )
    opened = await asyncio.gather(
        *(patient.open(Session(model=road)) for _ in range(50)), return_exceptions=True
    )
    seated = [session.replica for session in opened if isinstance(session, Session)]
    assert sorted(seated) == ["a"] * 3 + ["b"] * 4
    assert all(isinstance(other, errors.EngineFull) for other in opened if not isinstance(other, Session))


async def test_a_closed_session_frees_its_seat_at_once(
    patient: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    announcement.slots = 1
    await patient.announce(announcement)
    first = await patient.open(Session(model=road))
    with pytest.raises(errors.EngineFull):
        await patient.open(Session(model=road))
    await patient.end(first.session_id)
    await patient.end(first.session_id)
    assert (await patient.open(Session(model=road))).replica == "engine-1"
    assert (await patient.find(first.session_id)).state == SessionState.SESSION_STATE_CLOSED


async def test_a_seat_that_nobody_claimed_lapses_and_is_given_to_another(
    valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    store = SessionStore(valkey_url, StoreLimits(waiting_seat_s=0.05, lease_s=60))
    announcement.slots = 1
    await store.announce(announcement)
    late = await store.open(Session(model=road))
    await asyncio.sleep(0.1)
    other = await store.open(Session(model=road))
    await store.claim(other.session_id, "engine-1")
    with pytest.raises(errors.EngineFull):
        await store.claim(late.session_id, "engine-1")
    await store.close()


async def test_a_second_claim_is_refused_while_the_first_seat_lives(
    patient: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    session = await patient.open(Session(model=road, image=b"png", prompt="a road"))
    claimed = await patient.claim(session.session_id, "engine-1")
    assert (claimed.epoch, claimed.image, claimed.prompt) == (1, b"png", "a road")
    assert claimed.state == SessionState.SESSION_STATE_LIVE
    with pytest.raises(errors.SeatTaken):
        await patient.claim(session.session_id, "engine-1")
    await patient.release(session.session_id, 1)
    assert (await patient.claim(session.session_id, "engine-1")).epoch == 2


async def test_one_of_many_concurrent_claims_wins(
    patient: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    session = await patient.open(Session(model=road))
    claims = await asyncio.gather(
        *(patient.claim(session.session_id, "engine-1") for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(claim, Session) for claim in claims) == 1
    assert sum(isinstance(claim, errors.SeatTaken) for claim in claims) == 19


async def test_a_dead_replica_loses_its_sessions_to_a_live_one(
    store: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await store.announce(announcement)
    session = await store.open(Session(model=road))
    await store.claim(session.session_id, "engine-1")
    await asyncio.sleep(1.2)  # its lease and its seat lapse
    with pytest.raises(errors.NoEngine):
        await store.open(Session(model=road))
    assert await store.models() == ({}, {"road"})
    announcement.replica, announcement.address = "engine-2", "127.0.0.1:2"
    await store.announce(announcement)
    found = await store.find(session.session_id)
    assert (found.replica, found.replica_address) == ("engine-2", "127.0.0.1:2")
    assert (await store.claim(session.session_id, "engine-2")).epoch == 2


async def test_an_engine_of_an_old_epoch_changes_nothing(
    store: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await store.announce(announcement)
    session_id = (await store.open(Session(model=road))).session_id
    await store.claim(session_id, "engine-1")
    await asyncio.sleep(0.7)  # its seat lapses
    await store.claim(session_id, "engine-1")
    with pytest.raises(errors.Superseded):
        await store.renew(session_id, 1)
    with pytest.raises(errors.Superseded):
        await store.obeyed(session_id, 1, ControlReceipt(seq=1))
    with pytest.raises(errors.Superseded):
        await store.read_controls(session_id, 1, b"0-0")
    await store.release(session_id, 1)
    await store.renew(session_id, 2)


async def test_a_session_expires_when_nothing_is_heard_of_it(
    valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    store = SessionStore(valkey_url, StoreLimits(unclaimed_s=0.05, lease_s=60))
    await store.announce(announcement)
    session = await store.open(Session(model=road))
    await asyncio.sleep(0.1)
    with pytest.raises(errors.UnknownSession):
        await store.find(session.session_id)
    await store.close()


# Controls


async def test_old_and_repeated_seqs_are_refused_whichever_store_they_come_through(
    patient: SessionStore, store: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    session_id = (await patient.open(Session(model=road))).session_id
    top = 2**64 - 1  # more than a Lua number can hold
    assert await patient.push(session_id, control(9)) is None
    assert await store.push(session_id, control(9)) == 9
    assert await store.push(session_id, control(10)) is None
    assert await patient.push(session_id, control(9)) == 10
    assert await patient.push(session_id, control(top - 1)) is None
    assert await store.push(session_id, control(top - 1)) == top - 1
    assert await store.push(session_id, control(top)) is None
    _, controls = await patient.read_controls(session_id, 1, b"0-0")
    assert [stored.event.seq for stored in controls] == [9, 10, top - 1, top]


async def test_the_record_of_controls_is_capped(
    valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    store = SessionStore(valkey_url, StoreLimits(controls_kept=100, lease_s=60))
    await store.announce(announcement)
    session_id = (await store.open(Session(model=road))).session_id
    for seq in range(1, 501):
        await store.push(session_id, control(seq))
    _, controls = await store.read_controls(session_id, 1, b"0-0")
    assert len(controls) < 256
    assert (await store.read_controls(session_id, 1, b"499-0"))[1][0].event.seq == 500
    await store.close()


# Over gRPC


async def following(
    stub: Sessions, session_id: str, epoch: int, after_seq: int = 0
) -> "grpc.aio.StreamStreamCall[FollowRequest, FollowResponse]":
    call = stub.Follow()
    await call.write(FollowRequest(seat=Seat(session_id=session_id, epoch=epoch, after_seq=after_seq)))
    return call


async def opened_and_claimed(stub: Sessions, announcement: AnnounceRequest) -> Session:
    await stub.Announce(announcement)
    session = await stub.Open(OpenRequest())
    return await stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))


async def test_open_fills_in_what_was_left_out(
    session_stub: Sessions, announcement: AnnounceRequest, road: Model
) -> None:
    await session_stub.Announce(announcement)
    session = await session_stub.Open(OpenRequest(image=picture(64, 40, "JPEG")))
    assert session.tenant == "default"
    assert session.seed > 0
    assert session.model == road
    assert session.replica_address == "127.0.0.1:1"
    assert await session_stub.Get(GetRequest(session_id=session.session_id)) == session
    assert list((await session_stub.ListModels(ListModelsRequest())).models) == [road]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
async def test_a_picture_is_kept_as_plain_pixels_whatever_came_with_it(
    session_stub: Sessions, announcement: AnnounceRequest, mode: str
) -> None:
    await session_stub.Announce(announcement)
    encoded = io.BytesIO()
    drawn = Image.linear_gradient("L").resize((64, 40)).convert("RGB").convert(mode)
    drawn.save(encoded, "PNG", icc_profile=bytes(100_000))
    end = len(encoded.getvalue()) - 12
    heavy = encoded.getvalue()[:end] + chunk(b"juNk", bytes(3_900_000)) + encoded.getvalue()[end:]
    opened = await session_stub.Open(OpenRequest(image=heavy))
    claimed = await session_stub.Claim(ClaimRequest(session_id=opened.session_id, replica="engine-1"))
    assert len(claimed.image) < 10_000
    with Image.open(io.BytesIO(claimed.image)) as kept:
        assert (kept.format, kept.mode, kept.info) == ("PNG", "RGB", {})
        assert kept.tobytes() == drawn.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (OpenRequest(image=b"not a picture"), "image: is not a PNG or JPEG"),
        (OpenRequest(image=b"\x89PNG" + bytes(5 << 20)), "image: has 5242884 bytes"),
        (OpenRequest(image=picture(41, 64)), "image: is 41x64; this model takes 64x40"),
        (OpenRequest(image=png_that_says(65535, 65535)), "image: is too large; this model takes 64x40"),
        (OpenRequest(image=png_that_says(4096, 4096)), "image: is 4096x4096; this model takes 64x40"),
        (OpenRequest(image=picture(64, 40, "BMP")), "image: is not a PNG or JPEG"),
        (OpenRequest(image=picture(64, 40)[:-30]), "image: is cut short or damaged"),
        (OpenRequest(prompt="x" * 1_000_000), "prompt: has 1000000 bytes"),
        (OpenRequest(tenant="no spaces\n"), "tenant: "),
    ],
    ids=[
        "not one",
        "too many bytes",
        "wrong shape",
        "huge",
        "large",
        "foreign",
        "cut short",
        "prompt",
        "tenant",
    ],
)
async def test_open_refuses_bad_fields_by_name(
    session_stub: Sessions, announcement: AnnounceRequest, request_: OpenRequest, message: str
) -> None:
    await session_stub.Announce(announcement)
    refusal = await refused(session_stub.Open(request_))
    assert isinstance(refusal, errors.BadRequest)
    assert refusal.message.startswith(message)


async def test_models_are_unknown_absent_or_full_and_each_is_said(
    session_stub: Sessions, announcement: AnnounceRequest
) -> None:
    assert isinstance(await refused(session_stub.Open(OpenRequest(model="road"))), errors.NoEngine)
    announcement.slots = 1
    await session_stub.Announce(announcement)
    assert isinstance(await refused(session_stub.Open(OpenRequest(model="maze"))), errors.UnknownModel)
    await session_stub.Open(OpenRequest(model="road"))
    full = await refused(session_stub.Open(OpenRequest(model="road")))
    assert isinstance(full, errors.EngineFull)
    assert full.retry_after_s is not None


@pytest.mark.parametrize("session_id", ["", "road", "road-" + "0" * 32, "{" * 100, "é\n"])
async def test_an_unknown_session_is_not_found_by_any_call(session_stub: Sessions, session_id: str) -> None:
    push = session_stub.Push()
    await push.write(PushRequest(event=ControlEvent(session_id=session_id, seq=1)))
    for call in (
        session_stub.Get(GetRequest(session_id=session_id)),
        session_stub.Close(CloseRequest(session_id=session_id)),
        session_stub.Claim(ClaimRequest(session_id=session_id, replica="engine-1")),
        (await following(session_stub, session_id, 1)).read(),
        push.read(),
    ):
        assert isinstance(await refused(call), errors.UnknownSession)


async def test_a_control_reaches_the_engine_and_its_receipts_come_back_in_order(
    session_stub: Sessions, announcement: AnnounceRequest
) -> None:
    session_id = (await opened_and_claimed(session_stub, announcement)).session_id
    follow = await following(session_stub, session_id, 1)
    push = session_stub.Push()
    for seq in (1, 2, 2):
        await push.write(
            PushRequest(event=ControlEvent(session_id=session_id, seq=seq, keys=LEFT), received_at_s=1.5)
        )
    for seq in (1, 2):
        assert await asyncio.wait_for(follow.read(), DEADLINE_S) == control(seq, session_id)
        obeyed = ControlReceipt(seq=seq, obeyed=Obeyed(frame_index=4 * seq))
        await follow.write(FollowRequest(obeyed=obeyed))
    await push.done_writing()
    receipts = [receipt async for receipt in push]
    for seq in (1, 2):
        outcomes = [receipt.WhichOneof("outcome") for receipt in receipts if receipt.seq == seq]
        assert [outcome for outcome in outcomes if outcome != "refused"] == ["accepted", "obeyed"]
    assert [receipt.refused.reason for receipt in receipts if receipt.HasField("refused")] == ["old_seq"]


async def test_an_engine_that_follows_late_gets_only_what_it_does_not_know(
    session_stub: Sessions, store: SessionStore, announcement: AnnounceRequest
) -> None:
    session_id = (await opened_and_claimed(session_stub, announcement)).session_id
    for seq in (3, 5, 8):
        await store.push(session_id, control(seq))
    follow = await following(session_stub, session_id, 1, after_seq=4)
    said = [await asyncio.wait_for(follow.read(), DEADLINE_S) for _ in range(2)]
    seqs = [each.event.seq for each in said if isinstance(each, FollowResponse)]
    assert seqs == [5, 8]


async def test_follow_of_an_older_epoch_is_aborted(
    session_stub: Sessions, store: SessionStore, announcement: AnnounceRequest
) -> None:
    session_id = (await opened_and_claimed(session_stub, announcement)).session_id
    old = await following(session_stub, session_id, 1)
    waiting = asyncio.create_task(old.read())
    await asyncio.sleep(0.3)
    # As after a split of the network: the seat is given up although the engine still follows.
    await store.release(session_id, 1)
    await store.claim(session_id, "engine-1")
    assert isinstance(await refused(waiting), errors.Superseded)
    again = await following(session_stub, session_id, 1)
    assert isinstance(await refused(again.read()), errors.Superseded)


async def test_a_seat_lives_while_it_is_followed_and_ends_with_the_engine(
    session_stub: Sessions, announcement: AnnounceRequest
) -> None:
    session_id = (await opened_and_claimed(session_stub, announcement)).session_id
    claim = ClaimRequest(session_id=session_id, replica="engine-1")
    follow = await following(session_stub, session_id, 1)
    for _ in range(5):
        await asyncio.sleep(0.3)  # five times half of a seat's life
        assert isinstance(await refused(session_stub.Claim(claim)), errors.SeatTaken)
    follow.cancel()
    await until_released(session_stub, session_id)
    assert (await session_stub.Claim(claim)).epoch == 2


async def until_released(stub: Sessions, session_id: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            session = await stub.Get(GetRequest(session_id=session_id))
            if session.state != SessionState.SESSION_STATE_LIVE:
                return
            await asyncio.sleep(0.02)


async def test_closing_a_session_ends_its_streams(
    session_stub: Sessions, announcement: AnnounceRequest
) -> None:
    session_id = (await opened_and_claimed(session_stub, announcement)).session_id
    follow = await following(session_stub, session_id, 1)
    push = session_stub.Push()
    await push.write(PushRequest(event=ControlEvent(session_id=session_id, seq=1, keys=LEFT)))
    receipt = await push.read()
    assert isinstance(receipt, ControlReceipt)
    assert receipt.HasField("accepted")
    await session_stub.Close(CloseRequest(session_id=session_id))
    assert isinstance(await refused(push.read()), errors.SessionClosed)
    assert [given.event.seq async for given in follow] in ([], [1])
    assert await follow.code() is grpc.StatusCode.OK


async def test_streams_that_are_cancelled_leave_no_task_behind(
    session_stub: Sessions, announcement: AnnounceRequest, running: Running, until_ended: UntilEnded
) -> None:
    session = await opened_and_claimed(session_stub, announcement)
    before = running()
    for _ in range(5):
        push = session_stub.Push()
        await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
        await push.read()
        push.cancel()
    await until_ended(before)


async def test_a_session_has_eight_pushes_and_a_ninth_is_refused(
    session_stub: Sessions, announcement: AnnounceRequest
) -> None:
    session = await opened_and_claimed(session_stub, announcement)
    pushes = [session_stub.Push() for _ in range(9)]
    for seq, push in enumerate(pushes[:8], start=1):
        event = ControlEvent(session_id=session.session_id, seq=seq, keys=LEFT)
        await push.write(PushRequest(event=event))
        assert isinstance(await push.read(), ControlReceipt)
    await pushes[8].write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=9, keys=LEFT)))
    refusal = await refused(pushes[8].read())
    assert isinstance(refusal, errors.BadRequest)
    assert "8 calls" in refusal.message


async def test_readers_that_wait_leave_most_of_the_open_files_to_others(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (16, 16))
    store = SessionStore(valkey_url, block_s=1.0)
    reads = [store.read_receipts("road-none", b"0-0") for _ in range(20)]
    outcomes = await asyncio.gather(*reads, store.models(), return_exceptions=True)
    assert sum(isinstance(outcome, errors.StoreUnavailable) for outcome in outcomes[:-1]) == 20 - 4
    assert outcomes[-1] == ({}, set())
    await store.close()


async def test_replicas_with_impossible_fields_are_refused(
    session_stub: Sessions, announcement: AnnounceRequest
) -> None:
    for field, value in (
        ("replica", "two words"),
        ("address", "nowhere"),
        ("slots", 5000),
        ("step_s", float("nan")),
    ):
        broken = AnnounceRequest()
        broken.CopyFrom(announcement)
        setattr(broken, field, value)
        refusal = await refused(session_stub.Announce(broken))
        assert isinstance(refusal, errors.BadRequest)
        assert refusal.message.startswith(field)


async def test_no_cancellation_is_lost_at_whatever_moment_it_comes(store: SessionStore) -> None:
    for moment in range(120):
        reading = asyncio.create_task(store.read_receipts("road-none", b"0-0"))
        for _ in range(moment % 40):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


# Without Redis


async def test_without_redis_calls_are_refused_quickly_and_work_again_after_it_is_back(
    session_stub: Sessions, valkey: EmbeddedValkey, announcement: AnnounceRequest
) -> None:
    session = await opened_and_claimed(session_stub, announcement)
    push = session_stub.Push()
    await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
    receipt = await push.read()
    assert isinstance(receipt, ControlReceipt)
    assert receipt.HasField("accepted")
    await valkey.kill()
    refusal = await refused(session_stub.Get(GetRequest(session_id=session.session_id)))
    assert isinstance(refusal, errors.StoreUnavailable)
    assert refusal.retry_after_s is not None
    assert isinstance(await refused(push.read()), errors.StoreUnavailable)
    await valkey.start()
    await session_stub.Announce(announcement)
    assert (await session_stub.Open(OpenRequest())).replica == "engine-1"


async def test_a_follow_outlives_a_short_silence_of_redis(
    session_stub: Sessions, valkey: EmbeddedValkey, announcement: AnnounceRequest
) -> None:
    """It is told the truth once Redis is back: here, that an empty Redis knows no such session."""
    session = await opened_and_claimed(session_stub, announcement)
    follow = await following(session_stub, session.session_id, 1)
    await asyncio.sleep(0.1)
    await valkey.kill()
    waiting = asyncio.create_task(follow.read())
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await valkey.start()
    assert isinstance(await refused(waiting), errors.UnknownSession)


async def test_a_redis_that_is_silent_is_given_up_on(announcement: AnnounceRequest) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = SessionStore(f"redis://:secret@127.0.0.1:{port}", StoreLimits(command_s=0.2))
    with pytest.raises(errors.StoreUnavailable) as caught:
        await asyncio.wait_for(store.announce(announcement), DEADLINE_S)
    assert "secret" not in caught.value.message
    await store.close()
    server.close()


# With a Valkey of its own


@pytest.fixture
async def valkeys(monkeypatch: pytest.MonkeyPatch) -> list[EmbeddedValkey]:
    """Those that were started so far."""
    started: list[EmbeddedValkey] = []
    start = EmbeddedValkey.start

    async def noted(valkey: EmbeddedValkey) -> str:
        started.append(valkey)
        return await start(valkey)

    monkeypatch.setattr(EmbeddedValkey, "start", noted)
    return started


async def test_a_valkey_that_dies_is_started_again_and_sessions_can_be_opened(
    valkeys: list[EmbeddedValkey],
    serve: Callable[[SessionService], Awaitable[str]],
    dial: Callable[[str], grpc.aio.Channel],
    announcement: AnnounceRequest,
) -> None:
    stub = session_pb2_grpc.SessionServiceStub(dial(await serve(SessionService())))
    for _ in range(2):
        await stub.Announce(announcement)
        session = await stub.Open(OpenRequest())
        await valkeys[0].kill()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                gone = await refused(stub.Get(GetRequest(session_id=session.session_id)))
                if isinstance(gone, errors.UnknownSession):
                    break
                assert isinstance(gone, errors.StoreUnavailable)
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.11, 0.13, 0.2])
async def test_a_service_that_stops_while_its_valkey_is_started_again_leaves_nothing(
    valkeys: list[EmbeddedValkey], running: Running, after_s: float
) -> None:
    before, service = running(), SessionService()
    await service.start()
    await valkeys[0].kill()
    await asyncio.sleep(after_s)
    folder = Path(valkeys[0].url.removeprefix("unix://")).parent
    await service.stop()
    assert running() == before
    assert not folder.exists()
    listing = await asyncio.create_subprocess_exec("ps", "-eo", "args", stdout=asyncio.subprocess.PIPE)
    said, _ = await listing.communicate()
    assert str(folder).encode() not in said


def test_a_valkey_that_keeps_dying_is_started_again_more_and_more_slowly() -> None:
    delays_s = [0.0]
    for lived_s in (30.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 30.0, 0.1):
        delays_s.append(next_delay_s(delays_s[-1], lived_s))
    assert delays_s[1:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]


async def test_a_full_valkey_refuses_new_sessions_and_those_that_are_played_go_on(
    patient: SessionStore, valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    played = (await patient.open(Session(model=road))).session_id
    redis = Redis.from_url(valkey_url)
    assert (await redis.config_get("maxmemory"))["maxmemory"] == str(512 << 20)
    await redis.config_set("maxmemory", 1)
    known = await redis.dbsize()
    with pytest.raises(errors.StoreUnavailable):
        await patient.open(Session(model=road, image=bytes(1000)))
    assert await redis.dbsize() == known
    await patient.claim(played, "engine-1")
    await patient.renew(played, 1)
    await patient.announce(announcement)
    await patient.end(played)
    assert (await patient.find(played)).state == SessionState.SESSION_STATE_CLOSED
    await redis.aclose()


async def test_a_session_that_finds_no_room_leaves_nothing_behind(
    patient: SessionStore, valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    announcement.slots = 1
    await patient.announce(announcement)
    await patient.open(Session(model=road))
    redis = Redis.from_url(valkey_url)
    known = await redis.dbsize()
    with pytest.raises(errors.EngineFull):
        await patient.open(Session(model=road))
    assert await redis.dbsize() == known
    await redis.aclose()
