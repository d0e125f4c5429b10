"""`Calls`: what every call passes on its way in: who calls, what is sent, and how it is refused."""

import asyncio
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from services import telemetry
from services.errors import BadRequest, CallerNotAllowed, ServiceError
from services.relay import refusal_in

# Generic in the type stubs alone, so quoted.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_NAMES = ("x509_subject_alternative_name", "x509_common_name")


@dataclass(frozen=True)
class CallLimits:
    """What a call may ask of a port."""

    stream_message_bytes: int = 64 << 10  # one message of a stream; what players say there is small
    request_s: float = 10.0  # longest wait for the request of a call that is no stream
    callers: frozenset[str] = frozenset()  # names of which a caller's certificate must have one; none: any


@dataclass(frozen=True)
class _Unreadable:
    """Stands for a message that could not be read, until somebody can be told."""

    refusal: BadRequest


class Calls(grpc.aio.ServerInterceptor):
    """Turns a ServiceError into its status; anything else is INTERNAL and logged with its traceback.

    A call that is no stream is taken as a stream of one request, which is the same on the wire: only so can a
    request that never comes be given up.
    """

    def __init__(self, service_name: str, limits: CallLimits | None = None) -> None:
        self._limits = limits or CallLimits()
        self._log = telemetry.logger(service_name)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        found = await continuation(handler_call_details)
        if found is None:  # not one of our methods: grpc answers UNIMPLEMENTED itself
            return None
        method = handler_call_details.method
        # grpc.aio gives each kind of method its own attribute and its own constructor.
        behaviour: Any = found.unary_unary or found.stream_unary or found.unary_stream or found.stream_stream
        is_stream = found.request_streaming

        async def answer(requests: AsyncIterator[Any], context: Context) -> Any:
            telemetry.begin_call()
            try:
                self._check_caller(context)
                return await behaviour(_read(requests) if is_stream else await self._only(requests), context)
            except Exception as error:
                return await self._refuse(error, method, context)

        async def stream(requests: AsyncIterator[Any], context: Context) -> None:
            telemetry.begin_call()
            try:
                self._check_caller(context)
                produced = behaviour(_read(requests) if is_stream else await self._only(requests), context)
                if not hasattr(produced, "__aiter__"):
                    await produced
                    return
                # Closed here, not by the garbage collector: a cancelled call must let go of its seat at once.
                async with aclosing(cast(typing.AsyncGenerator[Any, None], produced)) as responses:
                    async for response in responses:
                        await context.write(response)
            except grpc.aio.InternalError as error:
                # So ends a write to a client that has gone: there is nobody left to be told.
                self._log.info("client left", method=method, error=str(error))
            except Exception as error:
                await self._refuse(error, method, context)

        codec = {
            "request_deserializer": self._reading(found.request_deserializer, is_stream),
            "response_serializer": found.response_serializer,
        }
        if found.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, **codec)
        return grpc.stream_unary_rpc_method_handler(answer, **codec)

    def _check_caller(self, context: Context) -> None:
        """Raises CallerNotAllowed."""
        if not self._limits.callers:
            return
        shown = context.auth_context()
        names = {name.decode(errors="replace") for kind in _NAMES for name in shown.get(kind, ()) if name}
        if not names & self._limits.callers:
            raise CallerNotAllowed(
                f"the caller's certificate is for {', '.join(sorted(names)) or 'nobody'}, who may not call"
                " internal methods; add the name to TLS_CALLERS, or call the public port"
            )

    def _reading(self, read: Callable[[bytes], Any], is_stream: bool) -> Callable[[bytes], Any]:
        most_bytes = self._limits.stream_message_bytes

        def reading(sent: bytes) -> Any:
            if is_stream and len(sent) > most_bytes:
                return _Unreadable(BadRequest("message", f"has {len(sent)} bytes; send at most {most_bytes}"))
            try:
                return read(sent)
            except DecodeError:
                return _Unreadable(BadRequest("message", "is no protobuf message that this method takes"))

        return reading

    async def _only(self, requests: AsyncIterator[Any]) -> Any:
        within_s = self._limits.request_s
        try:
            async with asyncio.timeout(within_s):
                async for request in _read(requests):
                    return request
        except TimeoutError as error:
            raise BadRequest(
                "request", f"did not come within {within_s:g} s; send it with the call"
            ) from error
        raise BadRequest("request", "is missing; send it with the call")

    async def _refuse(self, error: Exception, method: str, context: Context) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        refusal = refusal_in(error)
        if refusal is None:
            self._log.exception("call failed", error, method=method)
            refusal = ServiceError(f"{method} failed inside the service; its log has the traceback")
        else:
            self._log.info("call refused", method=method, reason=refusal.reason)
        await context.abort(refusal.code, refusal.message, refusal.trailing_metadata())


async def _read(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """Raises BadRequest at a message that could not be read."""
    async for request in requests:
        if isinstance(request, _Unreadable):
            raise request.refusal
        yield request
