"""How Redis is reached: URLs, TLS, ACL users, Sentinels and clusters, against real servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from redis.asyncio import Redis

from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session, SessionState
from services import errors
from services.errors import BadSetting, StoreUnavailable
from services.sessions.connection import RedisAccess
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import control
from tests.services.servers import ACL, NOBODY, REDIS, VALKEY, Server, free_port, started, until

LIMITS = StoreLimits(lease_s=60.0, live_seat_s=60.0, command_s=5.0)

needs_redis = pytest.mark.skipif(not REDIS, reason="redis-server is not installed; Valkey speaks no TLS here")


@asynccontextmanager
async def opened(url: str, access: RedisAccess | None = None) -> AsyncIterator[SessionStore]:
    store = SessionStore(url, LIMITS, block_s=0.2, access=access)
    try:
        yield store
    finally:
        await store.close()


async def played(store: SessionStore, announcement: AnnounceRequest, road: Model) -> None:
    """Every script once."""
    await store.announce(announcement)
    live, known = await store.models()
    assert (set(live), known) == ({"road"}, {"road"})
    session_id = (await store.open(Session(model=road))).session_id
    assert (await store.claim(session_id, "engine-1")).epoch == 1
    assert await store.push(session_id, control(1)) is None
    _, controls = await store.read_controls(session_id, 1, b"0-0")
    assert [each.event.seq for each in controls] == [1]
    await store.renew(session_id, 1)
    await store.release(session_id, 1)
    await store.end(session_id)
    assert (await store.find(session_id)).state == SessionState.SESSION_STATE_CLOSED


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://:secret@127.0.0.1",
        "redis://",
        "redis://user:secret@",
        "redis://:secret@127.0.0.1:99999",
        "redis://:secret@127.0.0.1:6379/words",
        "redis://:secret@one,two",
        "redis+sentinel://:secret@127.0.0.1:26379",
        "redis+cluster://:secret@127.0.0.1:7000/1",
        "redis://somebody@127.0.0.1",
    ],
)
def test_a_url_that_is_none_is_refused_in_a_sentence_without_its_password(url: str) -> None:
    with pytest.raises(BadSetting) as refusal:
        SessionStore(url)
    assert "REDIS_URL" in refusal.value.message
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize("binary", [pytest.param(REDIS, marks=needs_redis), VALKEY], ids=["redis", "valkey"])
async def test_an_acl_user_with_a_password_in_a_file_plays(
    binary: str, tmp_path: Path, announcement: AnnounceRequest, road: Model
) -> None:
    password = tmp_path / "password"
    password.write_text("first\n")
    server = Server(binary, tmp_path / "server", f"user player on >first >second {ACL}", NOBODY)
    access = RedisAccess(redis_user="player", redis_password_file=str(password))
    async with started(server), opened(server.url, access) as store:
        await store.check()
        await played(store, announcement, road)
        password.write_text("wrong\n")  # connections that are open stay so
        await store.check()
        async with opened(server.url, access) as another:
            with pytest.raises(StoreUnavailable) as refusal:
                await another.check()
            assert "wrong" not in refusal.value.message
            password.write_text("second\n")
            await another.check()


async def test_an_acl_that_allows_too_little_is_said_and_is_no_mistake_of_ours(
    tmp_path: Path, announcement: AnnounceRequest
) -> None:
    server = Server(VALKEY, tmp_path / "server", "user player on >secret ~{livevideo}:* -@all +@scripting")
    async with started(server), opened(f"redis://player:secret@127.0.0.1:{server.port}") as store:
        for asked in (store.check(), store.announce(announcement), store.models()):
            with pytest.raises(StoreUnavailable, match=r"(?i)permission|acl") as refusal:
                await asked
            assert "secret" not in refusal.value.message


@needs_redis
async def test_mutual_tls_with_redis_and_certificates_that_are_exchanged(
    tmp_path: Path, announcement: AnnounceRequest, road: Model
) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ours = ca.issue_cert("sessions")
    paths = {name: str(tmp_path / name) for name in ("ca", "cert", "key", "server", "other", "stranger")}
    ca.cert_pem.write_to_path(paths["ca"])
    other.cert_pem.write_to_path(paths["other"])
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(paths["server"])
    stranger = other.issue_cert("sessions")
    port = free_port()
    server = Server(
        REDIS, tmp_path / "redis", f"tls-port {port}", f"tls-cert-file {paths['server']}",
        f"tls-key-file {paths['server']}", f"tls-ca-cert-file {paths['ca']}", "tls-auth-clients yes",
    )  # fmt: skip
    url = f"rediss://127.0.0.1:{port}"
    access = RedisAccess(
        redis_ca_file=paths["ca"], redis_cert_file=paths["cert"], redis_key_file=paths["key"]
    )

    def hold(issued: trustme.LeafCert) -> None:
        issued.cert_chain_pems[0].write_to_path(paths["cert"])
        issued.private_key_pem.write_to_path(paths["key"])

    hold(stranger)
    async with started(server), opened(url, access) as store:
        with pytest.raises(StoreUnavailable):
            await store.check()
        hold(ours)
        await store.check()
        await played(store, announcement, road)
        for wrong in (RedisAccess(redis_ca_file=paths["other"]), RedisAccess(redis_ca_file=paths["ca"])):
            async with opened(url, wrong) as unbelieved:
                with pytest.raises(StoreUnavailable):
                    await unbelieved.check()


async def test_plain_text_to_a_port_that_is_silent_is_given_up() -> None:
    async def read_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(read_only, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = SessionStore(f"rediss://127.0.0.1:{port}", StoreLimits(command_s=0.3))
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(store.check(), 20)
        await store.close()


@pytest.mark.slow
async def test_a_primary_that_is_killed_is_followed_by_its_replica_with_all_that_it_had(
    tmp_path: Path, announcement: AnnounceRequest, road: Model
) -> None:
    binary = REDIS or VALKEY
    primary = Server(binary, tmp_path / "primary")
    replica = Server(binary, tmp_path / "replica", f"replicaof 127.0.0.1 {primary.port}")
    watch = (
        f"sentinel monitor mymaster 127.0.0.1 {primary.port} 2",
        "sentinel down-after-milliseconds mymaster 1000",
        "sentinel failover-timeout mymaster 5000",
    )
    sentinels = [Server(binary, tmp_path / f"sentinel-{i}", *watch) for i in range(3)]
    places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
    async with started(primary, replica):
        follower = Redis(port=replica.port)
        await until(follower, "INFO replication", "'master_link_status': 'up'")
        try:
            for sentinel in sentinels:
                await sentinel.start("--sentinel")
            asked = Redis(port=sentinels[0].port)
            await until(asked, "SENTINEL CKQUORUM mymaster", "OK 3 usable")
            await until(asked, "SENTINEL REPLICAS mymaster", str(replica.port))
            url, access = f"redis+sentinel://{places}/mymaster", RedisAccess(redis_copies=1)
            async with opened(url, access) as store:
                await played(store, announcement, road)
                session_id = (await store.open(Session(model=road))).session_id
                await store.claim(session_id, "engine-1")
                acknowledged = await _pushed_until(store, session_id, primary)
                async with asyncio.timeout(60):
                    while True:
                        try:
                            await store.renew(session_id, 1)
                            break
                        except StoreUnavailable:
                            await asyncio.sleep(0.1)
                _, controls = await store.read_controls(session_id, 1, b"0-0")
                kept = [each.event.seq for each in controls]
                assert kept[: len(acknowledged)] == acknowledged
                with pytest.raises(StoreUnavailable, match="0 replicas"):
                    await store.push(session_id, control(len(kept) + 1))
                with pytest.raises(errors.SeatTaken):
                    await store.claim(session_id, "engine-1")
            await asked.aclose()
        finally:
            for sentinel in sentinels:
                await sentinel.kill()
        await follower.aclose()


async def _pushed_until(store: SessionStore, session_id: str, killed: Server) -> list[int]:
    """Pushes one control after the other while a server is killed; those that were acknowledged."""
    acknowledged: list[int] = []
    try:
        for seq in range(1, 2000):
            await store.push(session_id, control(seq))
            acknowledged.append(seq)
            if seq == 100:
                killing = asyncio.create_task(killed.kill())
    except StoreUnavailable:
        await killing
        return acknowledged
    raise AssertionError("nothing failed")


@pytest.mark.slow
@pytest.mark.parametrize("binary", [pytest.param(REDIS, marks=needs_redis), VALKEY], ids=["redis", "valkey"])
async def test_every_script_runs_on_a_cluster(
    binary: str, tmp_path: Path, announcement: AnnounceRequest, road: Model
) -> None:
    buses = [free_port() for _ in range(3)]
    nodes = [
        Server(binary, tmp_path / f"node-{i}", "cluster-enabled yes", f"cluster-port {bus}", "appendonly yes")
        for i, bus in enumerate(buses)
    ]
    async with started(*nodes):
        clients = [Redis(port=node.port) for node in nodes]
        third = 16384 // 3
        for i, client in enumerate(clients):
            first, last = i * third, 16383 if i == 2 else (i + 1) * third - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            for other, bus in zip(nodes, buses, strict=True):
                await client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        for client in clients:
            await until(client, "CLUSTER INFO", "cluster_state:ok")
            await until(client, "CLUSTER INFO", "cluster_known_nodes:3")
        places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        async with opened(f"redis+cluster://{places}") as store:
            await store.check()
            await played(store, announcement, road)
            # Where the keys are, everything is: one hash tag.
            kept = [await client.keys() for client in clients]
            assert sum(map(bool, kept)) == 1, kept
            holder = next(node for node, keys in zip(nodes, kept, strict=True) if keys)
            session_id = (await store.open(Session(model=road))).session_id
            await holder.kill()
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(store.announce(announcement), 60)
            await holder.start()
            async with asyncio.timeout(60):
                while True:
                    try:
                        await store.claim(session_id, "engine-1")
                        break
                    except StoreUnavailable:
                        await asyncio.sleep(0.1)
        for client in clients:
            await client.aclose()
