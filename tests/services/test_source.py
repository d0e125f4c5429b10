"""A decoder's latents survive their engine: real gRPC, real Valkey, and engines that break on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import pytest

from livevideo.v1 import engine_pb2_grpc, resume_pb2_grpc
from livevideo.v1.engine_pb2 import GenerateRequest, GenerateResponse, Latent, Ready, Seated, Start
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    CloseRequest,
    Model,
    OpenRequest,
    Session,
)
from services.app import Context, Service
from services.decoder.source import LatentSource, Patience
from services.errors import NoEngine, SessionClosed
from tests.services.asking import Sessions
from tests.services.scripted import Scripted

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
SourceOf = Callable[[Session], LatentSource]

KEPT = 4
LIMIT = 20


@dataclass
class BreakingEngine(Scripted, engine_pb2_grpc.EngineServiceServicer):
    """Call i answers latents below ends[i], then breaks with `status`; the last call ends well."""

    sessions: Sessions
    ends: list[int]
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    skips: int = 0
    starts: list[Start] = field(default_factory=list)
    credits: list[int] = field(default_factory=list)
    broke: asyncio.Event = field(default_factory=asyncio.Event)

    async def Generate(
        self, requests: AsyncIterator[GenerateRequest], context: Context
    ) -> AsyncIterator[GenerateResponse]:
        start = (await anext(requests)).start
        self.starts.append(start)
        claim = ClaimRequest(session_id=start.session_id, replica="engine-1", after_epoch=start.after_epoch)
        epoch = (await self.sessions.Claim(claim)).epoch
        self.credits.append((await anext(requests)).credit.latents)
        first = start.past[-1].index + 1 if start.past else 0
        yield GenerateResponse(seated=Seated(epoch=epoch, next_index=first))
        end = self.ends[len(self.starts) - 1]
        for index in range(first, end):
            yield GenerateResponse(latent=Latent(index=index + self.skips))
        if len(self.starts) < len(self.ends):
            self.broke.set()
            await context.abort(self.status, "this engine breaks on purpose")


async def opened(session_stub: Sessions, road: Model, address: str) -> Session:
    await session_stub.Announce(AnnounceRequest(replica="engine-1", address=address, model=road, slots=2))
    return await session_stub.Open(OpenRequest(model="road"))


@pytest.fixture
def source_of(dial: Dial, sessions_address: str) -> SourceOf:
    resume = resume_pb2_grpc.ResumeServiceStub(dial(sessions_address))
    patience = Patience(broken_s=30.0, retry_s=0.01)
    return lambda session: LatentSource(resume, session.session_id, limit=LIMIT, kept=KEPT, patience=patience)


async def test_latents_go_on_in_order_when_engines_break(
    serve: Serve, session_stub: Sessions, road: Model, source_of: SourceOf
) -> None:
    engine = BreakingEngine(session_stub, ends=[3, 3, 9, 12])
    session = await opened(session_stub, road, await serve(engine))
    said = [said async for said in source_of(session).latents()]
    assert isinstance(said[0], Seated)
    assert [latent.index for latent in said[1:] if isinstance(latent, Latent)] == [*range(12)]
    assert len(said) == 1 + 12, "seated is said once, and no latent twice"
    pasts = [[latent.index for latent in start.past] for start in engine.starts]
    assert pasts == [[], [0, 1, 2], [0, 1, 2], [0, 1, 5, 6, 7, 8]]
    assert engine.credits == [LIMIT, LIMIT - 3, LIMIT - 3, LIMIT - 9], "no credit is lost or given twice"


async def test_a_refusal_is_not_tried_again(
    serve: Serve, session_stub: Sessions, road: Model, source_of: SourceOf
) -> None:
    engine = BreakingEngine(session_stub, ends=[3, 9], status=grpc.StatusCode.INVALID_ARGUMENT)
    session = await opened(session_stub, road, await serve(engine))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        async for _ in source_of(session).latents():
            pass
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(engine.starts) == 1


async def test_a_session_that_was_closed_meanwhile_ends(
    serve: Serve, session_stub: Sessions, road: Model, source_of: SourceOf
) -> None:
    engine = BreakingEngine(session_stub, ends=[3, 9])
    session = await opened(session_stub, road, await serve(engine))
    latents = source_of(session).latents()
    seen = [await anext(latents) for _ in range(1 + 3)]
    assert isinstance(seen[-1], Latent)
    assert seen[-1].index == 2
    await session_stub.Close(CloseRequest(session_id=session.session_id))
    with pytest.raises(SessionClosed, match="open a new one"):
        await anext(latents)


async def test_an_engine_that_skips_a_latent_is_not_believed(
    serve: Serve, session_stub: Sessions, road: Model, source_of: SourceOf
) -> None:
    session = await opened(session_stub, road, await serve(BreakingEngine(session_stub, ends=[3], skips=1)))
    with pytest.raises(RuntimeError, match=r"latent 1 .* 0 was due"):
        async for _ in source_of(session).latents():
            pass


@dataclass
class MovingEngine(Scripted, engine_pb2_grpc.EngineServiceServicer):
    """Makes what there is credit for; from latent `hangs_at` on nothing; from `leaves_at` on it says so."""

    sessions: Sessions
    replica: str
    until: int
    hangs_at: int = 1000
    leaves_at: int = 1000
    starts: list[Start] = field(default_factory=list)
    since: list[int] = field(default_factory=list)

    async def Generate(
        self, requests: AsyncIterator[GenerateRequest], context: Context
    ) -> AsyncIterator[GenerateResponse]:
        start = (await anext(requests)).start
        self.starts.append(start)
        known = [latent.index for latent in start.past]
        if start.is_ahead:
            yield GenerateResponse(ready=Ready())
            self.since = [latent.index for latent in (await anext(requests)).take.since]
            known += self.since
        claim = ClaimRequest(session_id=start.session_id, replica=self.replica, after_epoch=start.after_epoch)
        epoch = (await self.sessions.Claim(claim)).epoch
        index = known[-1] + 1 if known else 0
        yield GenerateResponse(seated=Seated(epoch=epoch, next_index=index))
        async for request in requests:
            for _ in range(request.credit.latents):
                if index == self.hangs_at:
                    await asyncio.Event().wait()
                if index == self.until:
                    return
                yield GenerateResponse(latent=Latent(index=index, is_leaving=index >= self.leaves_at))
                index += 1
                await asyncio.sleep(0.01)


async def two_engines(
    serve: Serve,
    session_stub: Sessions,
    road: Model,
    *,
    hangs_at: int = 1000,
    leaves_at: int = 1000,
) -> tuple[MovingEngine, MovingEngine, Session]:
    engines = [
        MovingEngine(session_stub, "engine-1", 12, hangs_at, leaves_at),
        MovingEngine(session_stub, "engine-2", 12),
    ]
    session = await opened(session_stub, road, await serve(engines[0]))
    second = AnnounceRequest(replica="engine-2", address=await serve(engines[1]), model=road, slots=2)
    await session_stub.Announce(second)
    return engines[0], engines[1], session


async def test_an_engine_that_owes_a_latent_is_given_up(
    serve: Serve, session_stub: Sessions, road: Model, source_of: SourceOf
) -> None:
    first, second, session = await two_engines(serve, session_stub, road, hangs_at=5)
    said = [said async for said in source_of(session).latents()]
    assert [latent.index for latent in said if isinstance(latent, Latent)] == [*range(12)]
    assert [len(first.starts), len(second.starts)] == [1, 1]
    assert second.starts[0].after_epoch == 1


async def test_a_viewer_that_lets_nothing_come_is_owed_nothing(
    serve: Serve, session_stub: Sessions, road: Model, dial: Dial, sessions_address: str
) -> None:
    _, second, session = await two_engines(serve, session_stub, road)
    patience = Patience(hang_s=0.2, seated_s=20.0)
    resume = resume_pb2_grpc.ResumeServiceStub(dial(sessions_address))
    source = LatentSource(resume, session.session_id, limit=2, kept=KEPT, patience=patience)
    latents = source.latents()
    for _ in range(1 + 2):
        await anext(latents)
    coming = asyncio.ensure_future(anext(latents))
    await asyncio.sleep(0.6)
    source.allow(3)
    latent = await asyncio.wait_for(coming, 20)
    assert isinstance(latent, Latent)
    assert latent.index == 2
    assert not second.starts
    await latents.aclose()


async def test_an_engine_that_leaves_plays_on_until_another_is_ready(
    serve: Serve, session_stub: Sessions, road: Model, source_of: SourceOf
) -> None:
    _, second, session = await two_engines(serve, session_stub, road, leaves_at=3)
    said = [said async for said in source_of(session).latents()]
    assert [latent.index for latent in said if isinstance(latent, Latent)] == [*range(12)]
    (start,) = second.starts
    assert start.is_ahead
    assert start.seed == session.seed
    assert start.past[-1].index == 3
    assert second.since == [*range(4, 4 + len(second.since))]
    assert second.since, "it had played on"


async def test_where_nobody_takes_a_session_that_is_said_without_an_address(
    serve: Serve, session_stub: Sessions, road: Model, dial: Dial, sessions_address: str
) -> None:
    session = await opened(session_stub, road, "127.0.0.1:1")
    patience = Patience(broken_s=0.3, retry_s=0.01)
    resume = resume_pb2_grpc.ResumeServiceStub(dial(sessions_address))
    source = LatentSource(resume, session.session_id, limit=2, kept=KEPT, patience=patience)
    with pytest.raises(NoEngine) as refusal:
        await anext(source.latents())
    assert "127.0.0.1" not in refusal.value.message
    assert refusal.value.retry_after_s
