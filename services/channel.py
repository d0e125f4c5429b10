"""`Channel`: a connection to another service of ours, which takes new certificates when it dials again."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from services.tls import Identity, Pem


class Channel(grpc.aio.Channel):
    """A gRPC channel, and another one beneath it whenever certificates were exchanged.

    Calls that are open stay where they are, and an older channel is closed with its last one.
    """

    def __init__(
        self, address: str, identity: Identity | None, options: Sequence[tuple[str, Any]] = ()
    ) -> None:
        """`identity`: what is shown, and whom it believes; None: plain text."""
        self._address = address
        self._identity = identity
        self._options = options
        self._shown: Pem | None = None
        self._newest: grpc.aio.Channel | None = None
        self._calls: dict[grpc.aio.Channel, int] = {}  # open ones of each
        self._closing: set[asyncio.Task[None]] = set()
        self._is_lost = True  # until it is ready for the first time

    def trouble(self, peer: str) -> str | None:
        """Why `peer` cannot be asked now, where that is so. Dials, so as to know it early."""
        state = self.get_state(try_to_connect=True)
        if state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
            self._is_lost = state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        return f"{peer} does not answer at {self._address}" if self._is_lost else None

    async def __aenter__(self) -> "Channel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        channels, self._newest = [*self._calls], None
        self._calls.clear()
        for channel in channels:
            await channel.close(grace)
        await asyncio.gather(*self._closing)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._current().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._current().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._current().channel_ready()

    def unary_unary(self, *method: Any, **codec: Any) -> Any:
        return self._late("unary_unary", *method, **codec)

    def unary_stream(self, *method: Any, **codec: Any) -> Any:
        return self._late("unary_stream", *method, **codec)

    def stream_unary(self, *method: Any, **codec: Any) -> Any:
        return self._late("stream_unary", *method, **codec)

    def stream_stream(self, *method: Any, **codec: Any) -> Any:
        return self._late("stream_stream", *method, **codec)

    def _late(self, kind: str, *method: Any, **codec: Any) -> Callable[..., Any]:
        """A method that is bound when it is called: stubs outlive certificates."""

        def call(*request: Any, **how: Any) -> Any:
            channel = self._current()
            begun = getattr(channel, kind)(*method, **codec)(*request, **how)
            self._calls[channel] += 1
            begun.add_done_callback(lambda _: self._ended(channel))
            return begun

        return call

    def _ended(self, channel: grpc.aio.Channel) -> None:
        if channel in self._calls:
            self._calls[channel] -= 1
            self._close_idle()

    def _current(self) -> grpc.aio.Channel:
        pem = self._identity.pem() if self._identity else None
        if self._newest is None or pem is not self._shown:
            self._shown = pem
            self._newest = self._dialled(pem)
            self._calls[self._newest] = 0
            self._close_idle()
        return self._newest

    def _close_idle(self) -> None:
        for channel in [each for each, calls in self._calls.items() if not calls]:
            if channel is not self._newest:
                del self._calls[channel]
                closing = asyncio.create_task(channel.close())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)

    def _dialled(self, pem: Pem | None) -> grpc.aio.Channel:
        if pem is None:
            return grpc.aio.insecure_channel(self._address, options=self._options)
        credentials = grpc.ssl_channel_credentials(pem.ca, pem.key or None, pem.cert or None)
        return grpc.aio.secure_channel(self._address, credentials, options=self._options)
