"""What strangers send: messages that are none, requests that never come, a thousand streams of nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from livevideo.v1 import session_pb2_grpc
from livevideo.v1.control_pb2 import ControlEvent
from livevideo.v1.session_pb2 import ListModelsRequest, ListModelsResponse, OpenRequest, Session
from services import errors
from services.app import Service, open_channel
from services.calls import CallLimits, Calls
from services.control import service as control
from services.ports import MAX_MESSAGE_BYTES
from tests.services.asking import LEFT, Sessions, refused
from tests.services.scripted import Scripted

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
SEND, OPEN = "/livevideo.v1.ControlService/Send", "/livevideo.v1.SessionService/Open"
MANY = 1000
DEADLINE_S = 60.0


class Lists(Scripted, session_pb2_grpc.SessionServiceServicer):
    """Opens whatever is asked for, and lists nothing."""

    async def Open(self, request: OpenRequest, context: Any) -> Session:
        return Session(prompt=request.prompt)

    async def ListModels(self, request: ListModelsRequest, context: Any) -> ListModelsResponse:
        return ListModelsResponse()


def lists() -> Lists:
    return Lists()  # type: ignore[abstract]


async def test_a_request_that_is_no_protobuf_is_a_bad_request_and_no_event_of_ours(
    serve: Serve, dial: Dial, caplog: pytest.LogCaptureFixture
) -> None:
    channel: Any = dial(await serve(lists()))
    for sent in (b"\xff", b"\x0a\x7f", b"\x0a\x02\xff\xfe"):
        refusal = await refused(channel.unary_unary(OPEN)(sent))
        assert isinstance(refusal, errors.BadRequest)
        assert "no protobuf message" in refusal.message
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_message_that_is_none_ends_a_stream_in_a_sentence(control_address: str, dial: Dial) -> None:
    for sent, told in ((b"\xff", "no protobuf message"), (bytes(65_537), "has 65537 bytes")):
        channel: Any = dial(control_address)
        call = channel.stream_stream(SEND)()
        await call.write(sent)
        refusal = await refused(call.read())
        assert isinstance(refusal, errors.BadRequest)
        assert told in refusal.message


async def test_what_is_too_large_for_a_port_is_not_even_read(serve: Serve, dial: Dial) -> None:
    channel: Any = dial(await serve(lists()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(OPEN)(bytes(MAX_MESSAGE_BYTES + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(OPEN)(b"", metadata=(("word", "x" * 100_000),))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await channel.unary_unary(OPEN)(OpenRequest(prompt="road").SerializeToString())


async def test_a_request_that_never_comes_is_given_up(dial: Dial) -> None:
    """The client opens the call of a method that is no stream, and sends nothing in it."""
    server = grpc.aio.server(interceptors=[Calls("lists", CallLimits(request_s=0.3))])
    session_pb2_grpc.add_SessionServiceServicer_to_server(lists(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel: Any = dial(f"127.0.0.1:{port}")
    call = channel.stream_unary(OPEN)(_never())
    refusal = await refused(call)
    assert isinstance(refusal, errors.BadRequest)
    assert "did not come within 0.3 s" in refusal.message
    done = channel.stream_unary(OPEN)()
    await done.done_writing()
    assert "is missing" in (await refused(done)).message
    await server.stop(0)


@pytest.mark.slow
async def test_a_thousand_streams_that_say_nothing_keep_nobody_out(
    serve: Serve,
    sessions_address: str,
    session_stub: Sessions,
    announcement: Any,
    running: Callable[[], set["asyncio.Task[object]"]],
    until_ended: Callable[[set["asyncio.Task[object]"]], Awaitable[None]],
) -> None:
    settings = control.Settings(sessions_address=sessions_address, first_event_s=2.0)
    address = await serve(control.ControlService(settings))
    await session_stub.Announce(announcement)
    session_id = (await session_stub.Open(OpenRequest())).session_id
    before = running()
    async with open_channel(address) as strangers, open_channel(address) as players:
        silent = [strangers.stream_stream(SEND)() for _ in range(MANY)]
        send = players.stream_stream(
            SEND, request_serializer=ControlEvent.SerializeToString, response_deserializer=None
        )()
        await send.write(ControlEvent(session_id=session_id, seq=1, keys=LEFT))
        assert await asyncio.wait_for(send.read(), DEADLINE_S)
        send.cancel()
        codes = await asyncio.wait_for(asyncio.gather(*(call.code() for call in silent)), DEADLINE_S)
        assert set(codes) == {grpc.StatusCode.INVALID_ARGUMENT}
    await until_ended(before)


@pytest.mark.slow
async def test_a_thousand_connections_that_say_nothing_or_little_keep_nobody_out(
    serve: Serve, dial: Dial
) -> None:
    address = await serve(lists())
    host, _, port = address.rpartition(":")
    async with AsyncExitStack() as stack:
        for i in range(MANY):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write((b"", b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01")[i % 4])
        health = health_pb2_grpc.HealthStub(dial(address))
        answer = await asyncio.wait_for(health.Check(health_pb2.HealthCheckRequest()), DEADLINE_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def _never() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""
