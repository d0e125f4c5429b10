"""A decoder's latents survive their engine: real gRPC, real Valkey, and engines that break on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest

from livevideo.v1 import engine_pb2_grpc, resume_pb2_grpc
from livevideo.v1.engine_pb2 import GenerateRequest, GenerateResponse, Latent, Seated, Start
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
from services.errors import SessionClosed

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SessionServiceAsyncStub

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
SourceOf = Callable[[Session], LatentSource]

KEPT = 4
LIMIT = 20


@dataclass
class BreakingEngine(engine_pb2_grpc.EngineServiceServicer):
    """Call i answers latents below ends[i], then breaks with `status`; the last call ends well."""

    sessions: "SessionServiceAsyncStub"
    ends: list[int]
    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    skips: int = 0
    name: str = "engine"
    starts: list[Start] = field(default_factory=list)
    credits: list[int] = field(default_factory=list)
    broke: asyncio.Event = field(default_factory=asyncio.Event)

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        engine_pb2_grpc.add_EngineServiceServicer_to_server(self, server)
        return ("livevideo.v1.EngineService",)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

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


async def opened(session_stub: "SessionServiceAsyncStub", road: Model, address: str) -> Session:
    await session_stub.Announce(AnnounceRequest(replica="engine-1", address=address, model=road, slots=2))
    return await session_stub.Open(OpenRequest(model="road"))


@pytest.fixture
def source_of(dial: Dial, sessions_address: str) -> SourceOf:
    resume = resume_pb2_grpc.ResumeServiceStub(dial(sessions_address))
    patience = Patience(broken_s=30.0, retry_s=0.01)
    return lambda session: LatentSource(resume, session.session_id, limit=LIMIT, kept=KEPT, patience=patience)


async def test_latents_go_on_in_order_when_engines_break(
    serve: Serve, session_stub: "SessionServiceAsyncStub", road: Model, source_of: SourceOf
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
    serve: Serve, session_stub: "SessionServiceAsyncStub", road: Model, source_of: SourceOf
) -> None:
    engine = BreakingEngine(session_stub, ends=[3, 9], status=grpc.StatusCode.INVALID_ARGUMENT)
    session = await opened(session_stub, road, await serve(engine))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        async for _ in source_of(session).latents():
            pass
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(engine.starts) == 1


async def test_a_session_that_was_closed_meanwhile_ends(
    serve: Serve, session_stub: "SessionServiceAsyncStub", road: Model, source_of: SourceOf
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
    serve: Serve, session_stub: "SessionServiceAsyncStub", road: Model, source_of: SourceOf
) -> None:
    session = await opened(session_stub, road, await serve(BreakingEngine(session_stub, ends=[3], skips=1)))
    with pytest.raises(RuntimeError, match=r"latent 1 .* 0 was due"):
        async for _ in source_of(session).latents():
            pass
