"""TLS: which certificate a process shows, and whose it believes; files may be exchanged while it runs."""

import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from services import telemetry
from services.errors import BadSetting
from services.files import Files

log = telemetry.logger("tls")


@dataclass(frozen=True)
class Tls:
    """Certificates of a service, as PEM files. With none everything is plain text."""

    tls_cert_file: str = ""  # our certificate and its chain: on our ports, and towards other services
    tls_key_file: str = ""  # its private key
    tls_ca_file: str = ""  # who signs the certificates of our services; with it they are called by TLS alone
    tls_callers: str = ""  # names in certificates that may call internal ports, by commas; empty: all of ours
    tls_peer_name: str = ""  # name in the certificates of services that we call; empty: the host that we dial
    tls_public_cert_file: str = ""  # what players and browsers are shown; empty: tls_cert_file
    tls_public_key_file: str = ""  # its private key
    tls_player_ca_file: str = ""  # who signs players' certificates; empty: players need none

    def __post_init__(self) -> None:
        _check_pair("TLS", self.tls_cert_file, self.tls_key_file)
        _check_pair("TLS_PUBLIC", self.tls_public_cert_file, self.tls_public_key_file)
        if self.tls_callers and not self.tls_cert_file:
            raise BadSetting(
                "TLS_CALLERS is set and TLS_CERT_FILE is not: in plain text nobody has a name; set both, or"
                " neither"
            )

    @property
    def callers(self) -> frozenset[str]:
        """Names that may call internal ports; none: every certificate of ours."""
        return frozenset(name.strip() for name in self.tls_callers.split(",") if name.strip())


@dataclass(frozen=True)
class Pem:
    """What the files held, all of one moment."""

    cert: bytes
    key: bytes = field(repr=False)
    ca: bytes | None


class Identity:
    """A certificate with its key and whom it believes, as they last made sense.

    Files that do not belong together, as in the middle of an exchange, are not taken; the log says so. May be
    asked from any thread.
    """

    def __init__(self, cert_file: str, key_file: str, ca_file: str) -> None:
        """Any may be empty. Raises BadSetting where they cannot be used."""
        self._paths = (cert_file, key_file, ca_file)
        self._files = Files(*self._paths)
        self._lock = threading.Lock()
        try:
            self._pem, self._asking, self._plain = self._read()
        except (OSError, ValueError) as error:
            named = ", ".join(path for path in self._paths if path)
            raise BadSetting(
                f"the certificate cannot be used ({error}); look at {named}: PEM files that belong together"
            ) from error

    def pem(self) -> Pem:
        """As the files are now."""
        self._look()
        return self._pem

    def context(self, *, asks: bool) -> ssl.SSLContext:
        """For a server of Python's own, as the files are now. `asks`: callers for theirs, if it has a CA."""
        self._look()
        return self._asking if asks else self._plain

    def _look(self) -> None:
        with self._lock:
            if not self._files.have_changed():
                return
            try:
                self._pem, self._asking, self._plain = self._read()
            except (OSError, ValueError) as error:
                log.warning("certificate not exchanged", files=self._paths, error=str(error))
            else:
                log.info("certificate exchanged", files=self._paths)

    def _read(self) -> tuple[Pem, ssl.SSLContext, ssl.SSLContext]:
        """Raises OSError, of which ssl.SSLError is one, or ValueError."""
        cert_file, key_file, ca_file = self._paths
        asking, plain = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        for context in (asking, plain):
            if cert_file:
                context.load_cert_chain(cert_file, key_file)
        if ca_file:
            asking.load_verify_locations(ca_file)
            asking.verify_mode = ssl.CERT_REQUIRED
        cert, key, ca = (Path(path).read_bytes() if path else None for path in self._paths)
        return Pem(cert or b"", key or b"", ca), asking, plain


def _check_pair(kind: str, cert_file: str, key_file: str) -> None:
    if bool(cert_file) != bool(key_file):
        raise BadSetting(f"{kind}_CERT_FILE and {kind}_KEY_FILE belong together; set both, or neither")


def internal_identity(tls: Tls) -> Identity | None:
    """What a port for our own services shows and asks for; None: plain text. Raises BadSetting."""
    if not tls.tls_cert_file:
        return None
    if not tls.tls_ca_file:
        raise BadSetting(
            "TLS_CERT_FILE is set and TLS_CA_FILE is not: whoever calls an internal port must show a"
            " certificate, so say who signs them"
        )
    return Identity(tls.tls_cert_file, tls.tls_key_file, tls.tls_ca_file)


def public_identity(tls: Tls) -> Identity | None:
    """What a port for players shows and asks for; None: plain text. Raises BadSetting."""
    cert_file, key_file = tls.tls_public_cert_file, tls.tls_public_key_file
    if not cert_file:
        cert_file, key_file = tls.tls_cert_file, tls.tls_key_file
    if not cert_file:
        if tls.tls_player_ca_file:
            raise BadSetting("TLS_PLAYER_CA_FILE is set and there is no TLS_CERT_FILE to show players")
        return None
    return Identity(cert_file, key_file, tls.tls_player_ca_file)


def caller_identity(tls: Tls) -> Identity | None:
    """What we show to services that we call; None: plain text. Raises BadSetting."""
    if not tls.tls_ca_file:
        return None
    return Identity(tls.tls_cert_file, tls.tls_key_file, tls.tls_ca_file)


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """For a gRPC port. The files are looked at in every handshake."""

    def shown() -> grpc.ServerCertificateConfiguration:
        pem = identity.pem()
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.ca)

    asks = identity.pem().ca is not None
    return grpc.dynamic_ssl_server_credentials(shown(), shown, require_client_authentication=asks)


def server_context(identity: Identity, *, asks: bool = True) -> ssl.SSLContext:
    """For an HTTP port. The files are looked at in every handshake."""
    first = identity.context(asks=asks)

    def exchange(shaking: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        shaking.context = identity.context(asks=asks)

    first.sni_callback = exchange
    return first
