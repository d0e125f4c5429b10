"""Whoever cannot play is told why in a sentence, by both clients: exit code 2, and no traceback."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from livevideo.v1.admin_pb2_grpc import AdminServiceStub
from livevideo_client import Client, NoRoom, NotAllowed, NotKnown, Refused, World
from services import together
from services.app import open_channel
from services.tls import Tls
from tests.client.programs import cpp_player, missing_for_cpp, python_player, run
from tests.services.certificates import Authority
from tests.services.paying import added

Start = Callable[..., Awaitable[together.Addresses]]

CLIENTS = [
    pytest.param(python_player, id="python"),
    pytest.param(
        cpp_player,
        id="cpp",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(bool(missing_for_cpp()), reason=f"not installed: {missing_for_cpp()}"),
        ],
    ),
]


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Authority(tmp_path).tls("play", callers="play")


@pytest.fixture
async def world(start: Start, tls: Tls) -> together.Addresses:
    """With certificates and one seat."""
    return await start(tls=tls, slots=1, admin_port=0)


@pytest.fixture
async def key(world: together.Addresses, tls: Tls) -> str:
    """Of the only tenant."""
    async with open_channel(world.admin, tls) as channel:
        return (await added(AdminServiceStub(channel), "acme")).key


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_way_to_be_turned_away_is_a_sentence(
    client: Callable[[], tuple[str, ...]], world: together.Addresses, key: str, tls: Tls, tmp_path: Path
) -> None:
    play = await asyncio.to_thread(client)
    ours, others = tls.tls_ca_file, Authority(tmp_path, "others").file
    at = ("--at", world.grpc, "--ca-file", ours)
    known = ("--api-key-file", str(tmp_path / "acme"))
    (tmp_path / "acme").write_text(key + "\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "words").write_text("no key at all")

    async def turned_away(*words: str, told: str, **variables: str) -> None:
        ended = await run(*play, *words, variables=variables)
        assert ended.code == 2, ended
        assert "Traceback" not in ended.err
        assert told in ended.err.splitlines()[-1], ended.err
        assert key not in ended.err

    await turned_away("--at", "127.0.0.1:1", told="nobody answers")
    await turned_away("--at", world.grpc, *known, told="nobody answers")  # in plain text
    await turned_away("--at", world.grpc, "--ca-file", others, *known, told="certificate")
    await turned_away("--at", world.grpc, "--ca-file", str(tmp_path / "empty"), told="no certificate")
    await turned_away("--at", world.grpc, "--ca-file", str(tmp_path / "none"), told="cannot be read")
    await turned_away(*at, told="unauthenticated")
    await turned_away(*at, told="unauthenticated", AAPT_API_KEY=f"{key}x")
    await turned_away(*at, "--api-key-file", str(tmp_path / "words"), told="key")
    await turned_away(*at, "--api-key-file", str(tmp_path / "none"), told="none")
    await turned_away(*at, "--seconds", "soon", told="soon")
    async with Client(world.grpc, key=key, ca_file=ours) as first, await first.open() as taken:
        await turned_away(*at, *known, told="engine_full")
        session = taken.session
        await turned_away(*at, "--session", "road-0", told="unknown_session", AAPT_TOKEN=session.token)
        await turned_away(*at, "--session", session.session_id, told="unknown_session", AAPT_TOKEN="x" * 32)
        await turned_away(*at, "--session", session.session_id, told="un")


async def test_a_refusal_is_an_exception_of_its_kind_with_its_reason_and_a_time(
    world: together.Addresses, key: str, tls: Tls
) -> None:
    ours = tls.tls_ca_file

    async def refused(kind: type[Refused], reason: str, entering: Awaitable[World]) -> Refused:
        with pytest.raises(kind) as refusal:
            await entering
        assert refusal.value.reason == reason
        assert refusal.value.message
        return refusal.value

    async with Client(world.grpc, ca_file=ours) as stranger:
        await refused(NotAllowed, "unauthenticated", stranger.open())
        with pytest.raises(ValueError, match="there is no format 'gif'"):
            await stranger.open(picture_format="gif")
    async with Client(world.grpc, key=key, ca_file=ours) as client:
        await refused(NotKnown, "unknown_model", client.open(model="moon"))
        assert [model.name for model in await client.models()] == ["road"]
        async with await client.open() as world_of_one:
            full = await refused(NoRoom, "engine_full", client.open())
            assert full.retry_after_s
            with pytest.raises(ValueError, match="road has no key 'fly'; it has left, right, up, down"):
                world_of_one.hold("fly")
            with pytest.raises(ValueError, match="road obeys no look"):
                world_of_one.look(0.1)
            await refused(NotKnown, "unknown_session", client.join("road-0", world_of_one.session.token))
