"""sessions over gRPC and a real Valkey: what is opened, pushed and followed, and what is refused."""

import asyncio
import io
import resource
import struct
import zlib
from collections.abc import Awaitable, Callable

import grpc
import pytest
from PIL import Image

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Obeyed
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
    SessionState,
)
from services import errors
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import DEADLINE_S, LEFT, Sessions, control, following, opened_and_claimed, refused

Running = Callable[[], set["asyncio.Task[object]"]]
UntilEnded = Callable[[set["asyncio.Task[object]"]], Awaitable[None]]


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.6, lease_s=1.0, command_s=2.0)


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
        (OpenRequest(image=png_that_says(65535, 65535)), "image: is 65535x65535; this model takes 64x40"),
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
        await session_stub.Announce(announcement)
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
    assert running() <= before


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
    assert isinstance(refusal, errors.TooManyStreams)
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
