"""Envelopes: a JSON object as text, with its sender's signature; told from forgeries.

A minion may fire any tag with any data: ``_minion_event`` in Salt's ``daemons/masterapi.py`` fires
a list of events as it came, and the id in a beacon's data is what its sender wrote. So what the
master shall believe of a minion is signed with that minion's own key (``pki_dir/minion.pem``) and
checked with the key that the master accepted (``pki_dir/minions/ID``); what a minion shall believe
of the master is signed with ``pki_dir/master.pem`` and checked with ``minion_master.pub``.

An envelope is ``{"body": JSON text, "signature": base64}``. The signature is RSA PKCS #1 v1.5 over
SHA-256 (RFC 8017, 8.2) of ``context + "\\n" + body``: the text itself is signed, so nobody has to
agree on how an object is written, and what was signed for one purpose is worth nothing for another.
"""

import base64
import binascii
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

from webfarm.errors import WebfarmError

REPORT = "webfarm-report-1"
VECTOR = "webfarm-vector-1"
APPLIED = "webfarm-applied-1"
MAX_BYTES = 16_384
MAX_SIGNATURE = 2_048  # base64 characters: an RSA key of 12,000 bits
MAX_DEPTH = 8
MAX_KEYS = 8_192  # keys that are kept loaded: a few KiB each

K = TypeVar("K")


class Forged(WebfarmError):
    """An envelope that is not to be believed.

    kind
        ``shape``, ``size``, ``key``, ``signature`` or ``json``, for counting.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


def seal(
    body: Mapping[str, Any], private_key: Path, context: str, password: str | None = None
) -> dict[str, str]:
    """Sign ``body``; returns the envelope ``{"body": …, "signature": …}``.

    private_key
        A PEM file; it is loaded again when it has changed.
    context
        :data:`REPORT`, :data:`VECTOR` or :data:`APPLIED`.
    password
        Of the PEM file (``key_pass`` of a Salt master).

    Raises :class:`WebfarmError` when the key cannot be used or ``body`` is no JSON object.
    """
    try:
        text = json.dumps(dict(body), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise WebfarmError(f"what should be signed is no JSON object: {error}") from None

    def load(pem: bytes) -> RSAPrivateKey:
        found = load_pem_private_key(pem, password.encode() if password else None)
        if not isinstance(found, RSAPrivateKey):
            raise ValueError("it is no RSA key")
        return found

    try:
        key = _PRIVATE.get(private_key, load)
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise WebfarmError(
            f"the key {private_key} cannot be used to sign: {error}; expected an RSA key in PEM, "
            "readable for this account"
        ) from None
    signature = key.sign(_signed(context, text), PKCS1v15(), SHA256())
    return {"body": text, "signature": base64.b64encode(signature).decode()}


def open_(
    envelope: object, public_key: Path, context: str, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """The body of an envelope that ``public_key``'s owner has signed for this ``context``.

    envelope
        As it came, from anybody; other keys than ``body`` and ``signature`` are ignored.
    max_bytes
        The longest body that is looked at.

    The body is a JSON object, not nested deeper than 8, without NaN, infinite numbers, duplicate
    keys or text that is no Unicode; what is in it is for the caller to check.

    Raises :class:`Forged`.
    """
    text, signature = _parts(envelope, max_bytes)
    try:
        key = _PUBLIC.get(public_key, _public)
    except (OSError, TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise Forged("key", f"no usable key of the sender at {public_key}: {error}") from None
    try:
        key.verify(signature, _signed(context, text), PKCS1v15(), SHA256())
    except InvalidSignature:
        raise Forged(
            "signature", f"not signed for {context} with the key of {public_key}"
        ) from None
    return _object(text)


def _signed(context: str, text: str) -> bytes:
    return f"{context}\n{text}".encode()


def _parts(envelope: object, max_bytes: int) -> tuple[str, bytes]:
    if not isinstance(envelope, Mapping):
        raise Forged("shape", f"expected an envelope, found {type(envelope).__name__}")
    body, signature = envelope.get("body"), envelope.get("signature")
    if not isinstance(body, str) or not isinstance(signature, str):
        raise Forged("shape", "expected an envelope of the texts `body` and `signature`")
    # a character is at least a byte: a text that is too long is not encoded first
    if len(body) > max_bytes or len(signature) > MAX_SIGNATURE:
        raise Forged("size", f"a body of {len(body)} characters, at most {max_bytes} are taken")
    try:
        if len(body.encode()) > max_bytes:
            raise Forged("size", f"a body of more than {max_bytes} bytes")
        return body, base64.b64decode(signature.encode(), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Forged("shape", "the signature is not base64, or the body no Unicode") from None


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(
            text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_without_twins
        )
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
        _check_depth(found, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise Forged("json", f"the body is not a JSON object as expected: {error}") from None
    return found


def _refused(constant: str) -> object:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is no finite number")
    return number


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key that is there twice")
    return found


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, str):
        value.encode()  # an escaped half of a surrogate pair is no Unicode
    elif isinstance(value, dict | list):
        if left == 0:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_depth(inner, left - 1)


def _public(pem: bytes) -> RSAPublicKey:
    found = load_pem_public_key(pem)
    if not isinstance(found, RSAPublicKey):
        raise ValueError("it is no RSA key")
    return found


class _Keys(Generic[K]):
    """Loaded keys by path; one whose file has changed is loaded again."""

    def __init__(self) -> None:
        self.loaded: dict[Path, tuple[tuple[int, int, int], K]] = {}

    def get(self, path: Path, load: Callable[[bytes], K]) -> K:
        status = os.stat(path)
        mark = (status.st_mtime_ns, status.st_ino, status.st_size)
        known = self.loaded.get(path)
        if known is not None and known[0] == mark:
            return known[1]
        key = load(Path(path).read_bytes())
        if len(self.loaded) >= MAX_KEYS:
            self.loaded.clear()
        self.loaded[path] = (mark, key)
        return key


_PRIVATE = _Keys[RSAPrivateKey]()
_PUBLIC = _Keys[RSAPublicKey]()
