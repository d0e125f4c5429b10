"""Tenants as an operator meets them: with the command, the services of `make play`, and a player."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import WatchRequest, WatchResponse, WatchStart
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import CloseRequest, OpenRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from loadtests.player import Addresses, Player, Script
from loadtests.report import Measurements
from services import errors, together
from services.app import open_channel
from services.credentials import bearer
from services.relay import from_status
from services.sessions import command
from services.web.service import Settings as WebSettings
from services.web.service import WebService

Start = Callable[..., Awaitable[together.Addresses]]


async def tenants(addresses: together.Addresses, *arguments: str) -> int:
    """Runs the command beside us, as another process would; its exit status."""
    return await asyncio.to_thread(command.main, ["--admin", addresses.admin, *arguments])


async def test_a_tenant_is_added_plays_is_listed_counted_and_revoked_while_it_plays(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    addresses = await start(admin_port=0)
    assert await tenants(addresses, "list") == 0
    assert "nobody is asked for a key" in capfd.readouterr().err
    assert await tenants(addresses, "add", "acme", "--sessions", "2", "--priority", "7") == 0
    shown = capfd.readouterr()
    key = shown.out.strip()
    assert key.startswith("aapt_acme_")
    assert key not in shown.err
    assert await tenants(addresses, "add", "acme") == 2
    assert "is there already" in capfd.readouterr().err

    player = Player(Addresses(addresses.grpc, addresses.grpc, addresses.grpc, key))
    playing: list[Measurements] = []
    script = Script.load("road-lap")
    play = asyncio.create_task(player.play(script, 60, on_frame=playing.append))
    async with asyncio.timeout(60):
        while len(playing) < 24:
            assert not play.done(), play.result()
            await asyncio.sleep(0.05)
    assert await tenants(addresses, "list") == 0
    listed = capfd.readouterr().out
    assert "acme: 1 sessions now, priority 7, sessions 2" in listed
    assert key not in listed
    assert await tenants(addresses, "revoke", "acme") == 0
    report = await asyncio.wait_for(play, 30)
    said = capfd.readouterr().err
    assert "1 sessions were ended" in said
    assert "the session was ended: revoked" in said
    with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
        await player.play(script, 1)
    await player.close()

    assert await tenants(addresses, "usage", "acme") == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()[1:]]
    latents = sum(int(row[3]) for row in rows)
    # What was made but not shown any more is counted, too: no more than may be in flight.
    assert 0 <= latents - (report.frames + 3) / 4 <= 4
    assert sum(int(row[1]) for row in rows) == 1


async def ended(call: Any) -> errors.ServiceError | None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call.read(), 20)
    return from_status(caught.value)


async def test_frames_and_controls_are_for_whoever_has_the_token(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    addresses = await start(admin_port=0)
    keys = {}
    for name in ("acme", "globex"):
        assert await tenants(addresses, "add", name) == 0
        keys[name] = capfd.readouterr().out.strip()
    async with open_channel(addresses.grpc) as channel:
        sessions = SessionServiceStub(channel)
        opened: dict[str, Session] = {}
        for name in ("globex", "acme"):  # one after the other: a busy machine may have one seat
            opened[name] = await sessions.Open(OpenRequest(), metadata=bearer(keys[name]))
            if name == "globex":
                closing = CloseRequest(session_id=opened[name].session_id)
                await sessions.Close(closing, metadata=bearer(opened[name].token))
        session_id = opened["acme"].session_id
        for secret in ("", "guessed", opened["globex"].token, keys["globex"]):
            watch = FrameServiceStub(channel).Watch(metadata=bearer(secret))
            await watch.write(WatchRequest(start=WatchStart(session_id=session_id)))
            assert isinstance(await ended(watch), errors.UnknownSession)
            send = ControlServiceStub(channel).Send(metadata=bearer(secret))
            await send.write(ControlEvent(session_id=session_id, seq=1, keys=Keys(down=["up"])))
            assert isinstance(await ended(send), errors.UnknownSession)
        watch = FrameServiceStub(channel).Watch(metadata=bearer(opened["acme"].token))
        await watch.write(WatchRequest(start=WatchStart(session_id=session_id)))
        said = await asyncio.wait_for(watch.read(), 20)
        assert isinstance(said, WatchResponse)
        assert said.HasField("watching")
        watch.cancel()


async def test_the_page_plays_with_the_key_of_a_tenant(
    start: Start, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = await start(admin_port=0)
    assert await tenants(first, "add", "acme") == 0
    key_file = tmp_path / "key"
    key_file.write_text("aapt_acme_0123456789ab_" + "A" * 43)
    for known in (False, True):
        if known:
            key_file.write_text(capfd.readouterr().out)
        # The page is another deployment's, which asks the services of the first.
        page = await _page(first, key_file)
        try:
            async with (
                aiohttp.ClientSession() as browser,
                browser.ws_connect(f"http://{page.page_address}/play") as socket,
            ):
                await socket.send_json({"type": "start", "format": "jpeg"})
                said = await asyncio.wait_for(socket.receive_json(), 20)
            assert (said["type"], said.get("reason")) == (
                ("world", None) if known else ("refused", "unauthenticated")
            )
        finally:
            await page.stop()


async def _page(addresses: together.Addresses, key_file: Path) -> WebService:
    page = WebService(
        WebSettings(
            page_address="127.0.0.1:0",
            sessions_address=addresses.grpc,
            control_address=addresses.grpc,
            frames_address=addresses.grpc,
            api_key_file=str(key_file),
        )
    )
    await page.start()
    return page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add"], "name"),
        (["add", "acme", "--sessions", "-1"], "give 0 or more"),
        (["add", "acme", "--minutes-per-day", "nan"], "give 0 or more"),
        (["usage", "acme", "--days", "many"], "invalid int value"),
        (["dance"], "dance"),
    ],
)
def test_a_command_that_cannot_be_is_refused_with_what_can(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert said in capsys.readouterr().err


def test_a_command_that_reaches_nobody_says_where_it_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--admin", "127.0.0.1:1", "list"]) == 2
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_a_key_file_that_holds_no_key_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("my secret words\nand more of them\n")
    assert command.main(["--admin-key-file", str(tmp_path / "key"), "list"]) == 2
    said = capsys.readouterr().err
    assert str(tmp_path / "key") in said
    assert "secret words" not in said
