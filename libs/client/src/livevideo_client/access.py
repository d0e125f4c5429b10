"""Where the services are, whom one believes there, and who one is."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_MOST_BYTES = 8 << 20  # a raw picture of 1080p; a session brings its first picture back
_SECRET = re.compile(r"[!-~]{1,400}")
_OPTIONS = (
    ("grpc.max_receive_message_length", _MOST_BYTES),
    ("grpc.max_send_message_length", _MOST_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name the time that making a connection may take: on a busy machine TLS needs some.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Pings find a service that hangs, or whose machine vanished without closing its connections: a place in
    # the queue and notices may say nothing for hours.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC sends a ping of its own now and then, and none of ours while that one is not answered.
    ("grpc.http2.ping_timeout_ms", 3000),
)


@dataclass(frozen=True)
class Services:
    """host:port of each service, or several with commas between: where one is lost, the next one is asked."""

    sessions: str
    control: str
    frames: str

    @staticmethod
    def at(address: str) -> "Services":
        """All of them at one address, as `make play` and a gateway have them."""
        return Services(address, address, address)

    def __post_init__(self) -> None:
        for name in ("sessions", "control", "frames"):
            if not all(re.fullmatch(r"\S+:\d+", each) for each in getattr(self, name).split(",")):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; give host:port, or several with commas between"
                )


def bearer(secret: str) -> Metadata:
    """What a call carries; nothing where there is no secret."""
    return (("authorization", f"Bearer {secret}"),) if secret else ()


def checked(secret: str) -> str:
    """The same secret, without spaces around it. Raises ValueError, which never repeats it."""
    secret = secret.strip()
    if secret and not _SECRET.fullmatch(secret):
        raise ValueError("this is no key; give the key alone, one line without spaces")
    return secret


def dialled(address: str, ca_file: Path | str | None = None) -> grpc.aio.Channel:
    """A channel, which connects when it is used. ca_file: PEM, who signs the services' certificates; None:
    they are spoken to in plain text. Raises ValueError where that file is none."""
    if ca_file is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    try:
        ca = Path(ca_file).read_bytes()
    except OSError as error:
        raise ValueError(f"the file of certificates cannot be read: {error}") from error
    if b"-----BEGIN CERTIFICATE-----" not in ca:
        raise ValueError(f"{ca_file} holds no certificate; give the PEM file of who signs the services'")
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca), options=_OPTIONS)
