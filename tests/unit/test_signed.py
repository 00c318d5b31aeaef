"""Envelopes that are believed, and every way in which one is not."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from webfarm import signed
from webfarm.errors import WebfarmError
from webfarm.signed import REPORT, VECTOR, Forged


def write_pair(folder: Path, name: str, password: bytes | None = None) -> tuple[Path, Path]:
    """A new key as Salt keeps it: NAME.pem and NAME.pub."""
    key = rsa.generate_private_key(65537, 2048)
    closed = BestAvailableEncryption(password) if password else NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, closed))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pki"), "minion")


def envelope_of(text: str, private: Path, context: str = REPORT) -> dict[str, str]:
    """What an owner of the key can make who does not use `seal`."""
    key = signed.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    signature = key.sign(
        f"{context}\n{text}".encode("utf-8", "surrogatepass"), PKCS1v15(), SHA256()
    )
    return {"body": text, "signature": base64.b64encode(signature).decode()}


def refused(envelope: object, public: Path, kind: str, **more: Any) -> None:
    with pytest.raises(Forged) as raised:
        signed.open_(envelope, public, REPORT, **more)
    assert raised.value.kind == kind, raised.value


def test_what_was_sealed_is_opened(keys: tuple[Path, Path]) -> None:
    private, public = keys
    body = {"v": 1, "id": "site1-farm1-ws1", "at": 12.5, "more": {"none": None, "text": "fárm"}}
    envelope = signed.seal(body, private, REPORT)
    assert set(envelope) == {"body", "signature"}
    assert signed.open_(json.loads(json.dumps(envelope)), public, REPORT) == body
    assert signed.open_({**envelope, "_stamp": "…"}, public, REPORT) == body


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=20)
        | st.lists(st.integers(), max_size=3),
        max_size=5,
    )
)
def test_any_json_object_comes_out_as_it_went_in(
    keys: tuple[Path, Path], body: dict[str, Any]
) -> None:
    assert signed.open_(signed.seal(body, keys[0], REPORT), keys[1], REPORT) == body


@pytest.mark.parametrize(
    "body", [{"at": float("nan")}, {"at": float("inf")}, {"at": b"x"}, {"at": {1, 2}}]
)
def test_what_is_no_json_is_not_sealed(keys: tuple[Path, Path], body: dict[str, Any]) -> None:
    with pytest.raises(WebfarmError, match="no JSON object"):
        signed.seal(body, keys[0], REPORT)


def test_another_servers_key_signs_nothing_of_mine(keys: tuple[Path, Path], tmp_path: Path) -> None:
    stranger, _ = write_pair(tmp_path, "stranger")
    refused(signed.seal({"id": "me"}, stranger, REPORT), keys[1], "signature")


def test_a_changed_body_is_refused(keys: tuple[Path, Path]) -> None:
    envelope = signed.seal({"weight": 100}, keys[0], REPORT)
    refused({**envelope, "body": envelope["body"].replace("100", "101")}, keys[1], "signature")
    refused({**envelope, "body": envelope["body"] + " "}, keys[1], "signature")


def test_a_report_is_no_vector(keys: tuple[Path, Path]) -> None:
    envelope = signed.seal({"v": 1}, keys[0], REPORT)
    with pytest.raises(Forged):
        signed.open_(envelope, keys[1], VECTOR)
    # nor does a context reach into the body
    moved = {**envelope, "body": f"{REPORT}\n{envelope['body']}"}
    with pytest.raises(Forged):
        signed.open_(moved, keys[1], "")


@pytest.mark.parametrize(
    "envelope",
    [
        None,
        "text",
        b"bytes",
        7,
        [],
        [{"body": "{}", "signature": "AAAA"}],
        {},
        {"body": "{}"},
        {"signature": "AAAA"},
        {"body": {}, "signature": "AAAA"},
        {"body": b"{}", "signature": "AAAA"},
        {"body": "{}", "signature": None},
        {"body": "{}", "signature": ["AAAA"]},
        {"body": "{}", "signature": "not base64!"},
        {"body": "{}", "signature": "AAA"},
        {"body": "{}", "signature": "ÄÄÄÄ"},
        {"body": "\ud800", "signature": "AAAA"},
    ],
    ids=repr,
)
def test_what_is_no_envelope_is_refused(keys: tuple[Path, Path], envelope: object) -> None:
    refused(envelope, keys[1], "shape")


def test_a_huge_payload_is_refused_before_it_is_looked_at(keys: tuple[Path, Path]) -> None:
    private, public = keys
    refused(signed.seal({"x": "y" * 1_000_000}, private, REPORT), public, "size")
    refused({"body": "{}", "signature": "A" * 1_000_000}, public, "size")
    # bytes count, not characters
    refused(envelope_of(json.dumps({"x": "é" * 60}, ensure_ascii=False), private), public, "size",
            max_bytes=100)  # fmt: skip
    fits = signed.seal({"x": "y" * 90}, private, REPORT)
    assert signed.open_(fits, public, REPORT, max_bytes=len(fits["body"]))
    refused(fits, public, "size", max_bytes=len(fits["body"]) - 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "7",
        '"text"',
        "{}{}",
        '{"at": NaN}',
        '{"at": Infinity}',
        '{"at": -Infinity}',
        '{"at": 1e999}',
        '{"at": 1' + "0" * 5_000 + "}",
        '{"id": "me", "id": "you"}',
        '{"more": {"a": 1, "a": 1}}',
        '{"text": "\\ud800"}',
        '{"\\udfff": 1}',
        '{"a":' * 9 + "1" + "}" * 9,
        '{"a":' + "[" * 8 + "]" * 8 + "}",
        '{"a":' + "[" * 8_000 + "]" * 8_000 + "}",
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_signed_nonsense_is_still_nonsense(keys: tuple[Path, Path], text: str) -> None:
    """The owner of a key may have lost his machine to somebody else."""
    refused(envelope_of(text, keys[0]), keys[1], "json")


def test_a_sender_without_an_accepted_key_is_refused(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    envelope = signed.seal({"v": 1}, keys[0], REPORT)
    refused(envelope, tmp_path / "nobody", "key")
    (tmp_path / "broken").write_text("no key")
    refused(envelope, tmp_path / "broken", "key")
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "curve").write_bytes(
        other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    refused(envelope, tmp_path / "curve", "key")


def test_a_key_that_was_taken_back_or_replaced_counts_at_once(tmp_path: Path) -> None:
    private, public = write_pair(tmp_path, "minion")
    envelope = signed.seal({"v": 1}, private, REPORT)
    assert signed.open_(envelope, public, REPORT)
    private2, public2 = write_pair(tmp_path, "second")
    os.replace(public2, public)
    refused(envelope, public, "signature")
    os.replace(private2, private)
    assert signed.open_(signed.seal({"v": 1}, private, REPORT), public, REPORT)
    public.unlink()
    refused(envelope, public, "key")


def test_a_key_with_a_password_signs(tmp_path: Path) -> None:
    private, public = write_pair(tmp_path, "master", b"secret")
    assert signed.open_(signed.seal({"v": 1}, private, VECTOR, "secret"), public, VECTOR)
    os.utime(private)
    with pytest.raises(WebfarmError, match="cannot be used to sign"):
        signed.seal({"v": 1}, private, VECTOR, "wrong")
    with pytest.raises(WebfarmError, match="cannot be used to sign"):
        signed.seal({"v": 1}, tmp_path / "none.pem", VECTOR)
