"""Ports: a gRPC server on each, with its limits, its certificate, and the methods that belong there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.calls import CallLimits, Calls
from services.errors import BadSetting, PortTaken
from services.tls import Identity, Tls, internal_identity, public_identity, server_credentials

# What one message may weigh: a first picture and what comes with it. A larger one holds up everybody while it
# is read.
MAX_MESSAGE_BYTES = 6 << 20
# Among ourselves: a session's whole window of latents, when a decoder hands it to the next engine.
MAX_WINDOW_BYTES = 32 << 20
# Who opens connections, streams or calls and says nothing there takes no more than this of a port.
MAX_CONNECTIONS = 4096
MAX_STREAMS = 1024  # on one connection; *web* has two for each of its players
MAX_CALLS = 16_384

# Pings find a peer that hangs, or whose machine vanished without closing its connections.
PING = (
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC sends a ping of its own now and then, and none of ours while that one is not answered.
    ("grpc.http2.ping_timeout_ms", 3000),
)


class Service(Protocol):
    """What Host asks of a service."""

    name: str

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds its servicers and returns their full gRPC names."""

    async def start(self) -> None:
        """Opens connections and starts background tasks; nobody calls before it returns."""

    async def stop(self) -> None:
        """Drains; calls in progress are cut only after it returns."""


@runtime_checkable
class InternalService(Protocol):
    """What Host asks of a service that has methods for our own services alone."""

    def bind_internal(self, server: grpc.aio.Server) -> Sequence[str]:
        """As Service.bind."""


@dataclass(frozen=True)
class Port:
    """A server that is not started yet."""

    server: grpc.aio.Server
    names: Sequence[str]  # of its gRPC services
    address: str  # host:port with the real port


def public_port(service: Service, address: str, tls: Tls, status: health.aio.HealthServicer) -> Port:
    """For players. Raises PortTaken, BadSetting."""
    server = _server(service.name, CallLimits(), MAX_MESSAGE_BYTES)
    return _port(service, server, service.bind(server), address, public_identity(tls), status)


def internal_port(service: Service, address: str, tls: Tls, status: health.aio.HealthServicer) -> Port:
    """For our own services, with every method. With TLS a caller must show a certificate of ours.

    Raises PortTaken, BadSetting.
    """
    identity = internal_identity(tls)
    callers = tls.callers if identity else frozenset[str]()
    limits = CallLimits(stream_message_bytes=MAX_WINDOW_BYTES, callers=callers)
    server = _server(service.name, limits, MAX_WINDOW_BYTES)
    names = [*service.bind(server)]
    if isinstance(service, InternalService):
        names += service.bind_internal(server)
    return _port(service, server, names, address, identity, status)


def _server(name: str, limits: CallLimits, max_message_bytes: int) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[Calls(name, limits)],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", MAX_WINDOW_BYTES),
            # Without this a second server on the same port would silently share its connections.
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.max_connection_idle_ms", 300_000),
            ("grpc.server_handshake_timeout_ms", 10_000),
            *PING,
        ],
        maximum_concurrent_rpcs=MAX_CALLS,
    )


def _port(
    service: Service,
    server: grpc.aio.Server,
    names: Sequence[str],
    address: str,
    identity: Identity | None,
    status: health.aio.HealthServicer,
) -> Port:
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    return Port(server, names, _taken(service.name, server, address, identity))


def _taken(name: str, server: grpc.aio.Server, address: str, identity: Identity | None) -> str:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadSetting(
            f"{name} was told to listen on {address!r}; it must be host:port, the port from 0 to 65535"
        )
    try:
        if identity is None:
            taken_port = server.add_insecure_port(address)
        else:
            taken_port = server.add_secure_port(address, server_credentials(identity))
    except RuntimeError as error:
        raise PortTaken(
            f"{name} cannot listen on {address}: port {port} is in use or not "
            "ours to take; stop the other program, or choose another port (0 takes a free one)"
        ) from error
    return f"{host}:{taken_port}"
