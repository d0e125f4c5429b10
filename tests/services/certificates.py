"""Certificates of a test's own, as files that services read."""

import datetime
from pathlib import Path

import trustme

from services.tls import Tls

DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates, and writes them into a folder."""

    def __init__(self, folder: Path, name: str = "ours") -> None:
        self._authority = trustme.CA()
        self._folder = folder / name
        self._folder.mkdir()
        self.file = str(self._folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *, expires_in: datetime.timedelta = DAY) -> tuple[str, str]:
        """Files of a certificate for this name and for 127.0.0.1, and of its key, over older ones."""
        until = datetime.datetime.now(datetime.UTC) + expires_in
        issued = self._authority.issue_cert(name, "127.0.0.1", not_before=until - 2 * DAY, not_after=until)
        cert, key = (self._folder / f"{name}.{part}.pem" for part in ("cert", "key"))
        cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return str(cert), str(key)

    def tls(self, name: str, *, callers: str = "") -> Tls:
        """What a service of this name is set to."""
        cert, key = self.issue(name)
        return Tls(tls_cert_file=cert, tls_key_file=key, tls_ca_file=self.file, tls_callers=callers)
