"""A lab's secrets: a CA of its own, the public certificate, passwords, minion keys."""

from __future__ import annotations

import secrets
from pathlib import Path

from .places import CERTIFICATES
from .terminal import run

AUTHORITY = CERTIFICATES / "ca.pem"


def password() -> str:
    return secrets.token_urlsafe(24)


def certificate(domain: str, addresses: tuple[str, ...]) -> str:
    """A certificate for ``domain`` and its key, as PEM, from a CA of the lab's own.

    The CA's certificate is left in :data:`AUTHORITY` for the clients.
    """
    CERTIFICATES.mkdir(parents=True, mode=0o700, exist_ok=True)
    ca_key, key = CERTIFICATES / "ca.key", CERTIFICATES / "public.key"
    request, chain = CERTIFICATES / "public.csr", CERTIFICATES / "public.crt"
    for path in (ca_key, key):
        _openssl(f"ecparam -name prime256v1 -genkey -noout -out {path}")
    _openssl(
        f"req -x509 -new -key {ca_key} -sha256 -days 30 -out {AUTHORITY} -subj /CN=Webfarm-lab"
    )
    _openssl(f"req -new -key {key} -subj /CN={domain} -out {request}")
    names = [f"DNS:{domain}", *(f"IP:{address}" for address in addresses)]
    extensions = CERTIFICATES / "extensions"
    extensions.write_text(f"subjectAltName={','.join(names)}\nextendedKeyUsage=serverAuth\n")
    _openssl(
        f"x509 -req -in {request} -CA {AUTHORITY} -CAkey {ca_key} -CAcreateserial -sha256 -days 30 "
        f"-extfile {extensions} -out {chain}"
    )
    return chain.read_text() + key.read_text()


def _openssl(words: str) -> None:
    run(["openssl", *words.split()])


def minion_key(folder: Path, accepted: Path) -> None:
    """Make a minion's key pair in ``folder``, already accepted by the master in ``accepted``."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    private, public = folder / "minion.pem", folder / "minion.pub"
    _openssl(f"genrsa -traditional -out {private} 2048")
    private.chmod(0o400)
    _openssl(f"rsa -in {private} -pubout -out {public}")
    accepted.parent.mkdir(parents=True, exist_ok=True)
    accepted.write_text(public.read_text())
