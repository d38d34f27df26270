"""A certificate authority of the tests' own."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest


class Authority:
    """A certificate authority of the tests' own, and what it signs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._new_key("ca")
        # Python 3.13 and later refuse an authority that does not say what its key is for.
        self._openssl("req -x509 -key ca.key -subj /CN=ca -days 2 -out ca.pem -addext keyUsage=critical,keyCertSign")
        self._new_key("server")
        self._openssl("req -new -key server.key -subj /CN=server -out server.csr")

    def context(self, name: str, *, days: int = 2) -> ssl.SSLContext:
        """What a server needs to pass for *name*, as OpenSSL writes it: ``IP:127.0.0.1`` or ``DNS:example.org``."""
        (self._folder / "names").write_text(f"subjectAltName={name}")
        signing = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out server.pem"
        self._openssl(f"{signing} -days {days}")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server.key")
        return context

    def _new_key(self, name: str) -> None:
        self._openssl(f"ecparam -name prime256v1 -genkey -noout -out {name}.key")

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self._folder, check=True, capture_output=True)


def trust(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    # Read at the first https request of a transport.
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
