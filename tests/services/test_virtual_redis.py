"""The scripts of *sessions* answer in the simulator's process what they answer in a real Valkey."""

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest
from redis import Redis

from livevideo.v1.admin_pb2 import Quotas
from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session
from services.errors import ServiceError
from services.sessions import refusals, scripts
from services.sessions.embedded import EmbeddedValkey
from services.sessions.store import SessionStore, StoreLimits
from services.sessions.tenancy import Entrant
from services.sessions.tenants import TenantStore
from services.simulate.policies import POLICIES
from services.simulate.virtual import VirtualRedis

CLOCK = f"{scripts.TAG}:clock"
BEGINS_MS = 1_767_225_600_123
# A real one drops keys by a clock that we cannot set, so none may end within the test.
KEPT = {"unclaimed_s": 36_000, "idle_s": 36_000, "closed_s": 36_000}


class BothDoors:
    """`Door` that runs each script twice, and says so where the answers differ."""

    def __init__(self, url: str) -> None:
        self.real = Redis.from_url(url)
        self.virtual = VirtualRedis()
        self.scripts: set[str] = set()

    def set_time(self, now_ms: int) -> None:
        self.virtual.now_ms = now_ms
        self.real.delete(CLOCK)
        self.real.rpush(CLOCK, now_ms // 1000, now_ms % 1000 * 1000)

    async def run(self, script: str, keys: list[str], arguments: list[Any], *, about: str = "") -> list[Any]:
        self.scripts.add(script)
        timed = script.replace("redis.call('TIME')", f"redis.call('LRANGE', '{CLOCK}', 0, 1)")
        real: Any = self.real.eval(timed, len(keys), *keys, *arguments)
        assert list(self.virtual.run(script, keys, arguments)) == real, (keys[5], arguments)
        status, *found = real
        if status != b"ok":
            raise refusals.refusal(status.decode(), about, found)
        return list(found)

    def compare(self) -> int:
        """How many keys there are, all of them alike in both."""
        compared = 0
        for key in sorted(self.real.keys()):
            kind = self.real.type(key)
            if kind == b"hash":
                told = self.virtual.ask("HGETALL", key)
                assert dict(zip(told[::2], told[1::2], strict=True)) == self.real.hgetall(key), key
            elif kind == b"zset":
                members = self.virtual.ask("ZRANGE", key, 0, -1)
                members = members if isinstance(members, tuple) else (members,)
                scores = [(each, float(self.virtual.ask("ZSCORE", key, each))) for each in members]
                assert scores == self.real.zrange(key, 0, -1, withscores=True), key
            else:
                continue
            compared += 1
        return compared


@pytest.mark.parametrize("seed", range(3))
async def test_scripts_answer_and_keep_in_this_process_what_they_do_in_valkey(
    valkey: EmbeddedValkey, road: Model, seed: int
) -> None:
    both = BothDoors(valkey.url)
    store = SessionStore(valkey.url, StoreLimits(**KEPT))
    store.door = both  # type: ignore[assignment]
    tenants = TenantStore(store)
    rng, now_ms = random.Random(seed), BEGINS_MS
    both.set_time(now_ms)
    entrants = []
    for name, quotas in (
        ("acme", Quotas(sessions=1, priority=5)),
        ("gold", Quotas(priority=8)),
        ("free", Quotas()),
    ):
        made = await tenants.add(name, quotas, 0.0)
        entrants.append(Entrant(name, made.about.key_id, quotas))
    opened: list[tuple[str, Entrant]] = []
    outcomes = set()

    def some() -> tuple[str, Entrant]:
        return rng.choice(opened) if opened else (f"road-{0:032x}", entrants[0])

    async def tried(call: Awaitable[Any]) -> Any:
        try:
            answer = await call
        except ServiceError as refusal:
            outcomes.add(refusal.reason)
            return None
        outcomes.add("ok")
        return answer

    for turn in range(600):
        now_ms += rng.choice((0, 1, 200, 1700))
        both.set_time(now_ms)
        replica, (session_id, entrant) = rng.choice("abc"), some()
        epoch = rng.choice((0, 1, 1, 2))
        match rng.randrange(9):
            case 0:
                slots = rng.choice((0, 2, 3))
                address = f"{replica}:1"
                await tried(
                    store.announce(AnnounceRequest(replica=replica, address=address, model=road, slots=slots))
                )
            case 1 | 2:
                entrant, session_id = rng.choice(entrants), f"road-{turn:032x}"
                if await tried(store.open(Session(model=road), entrant, session_id)):
                    opened.append((session_id, entrant))
            case 3:
                await tried(store.claim(session_id, replica, rng.choice((None, epoch)), "viewer"))
            case 4:
                await tried(store.renew(session_id, epoch))
                await tried(tenants.meter(session_id, entrant.tenant, epoch, turn, keep_s=30, notice_s=2))
            case 5:
                await tried(
                    store.place(
                        session_id,
                        lost_epoch=epoch,
                        without=rng.choice(("", replica)),
                        is_planned=rng.random() < 0.3,
                    )
                )
            case 6:
                waits = f"road-{rng.randrange(10**6, 10**6 + 5):032x}"
                await tried(tenants.wait(waits, entrants[-1], alive_s=5, most=4, most_of_tenant=3))
                if rng.random() < 0.2:
                    await tried(tenants.quit(waits, entrants[-1]))
            case 7:
                await tried(store.release(session_id, epoch))
            case 8:
                await tried(store.end(session_id, entrant.tenant))
        if turn % 20 == 0:
            both.compare()
    assert both.compare() > 30
    assert len(both.scripts) == 11
    assert {"ok", "engine_full", "superseded", "session_closed", "quota_exceeded"} <= {*outcomes}, outcomes
    await asyncio.to_thread(both.real.close)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_takes_the_place_of_ours_and_changes_nothing_else(name: str) -> None:
    assert scripts.SEATS.count(scripts.ROOMIEST) == 1
    assert (
        scripts.SEATS.replace(scripts.ROOMIEST, POLICIES[name]).count("local function roomiest(without)") == 1
    )
