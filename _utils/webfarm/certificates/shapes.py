"""Check what comes from a minion or from a file before anything relies on it; pure.

Each function returns the value in its expected shape or raises :class:`BadShape`, whose message
says what was expected and what was seen.
"""

import re
from collections.abc import Mapping
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.shape import shown

MOST = 20_000  # packages, units, files
_PACKAGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+_./:-]{0,199}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~:_-]{0,199}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_TREE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]{0,119}\.service", re.ASCII)
_BOOT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

Expected = dict[str, dict[str, str]]


class BadShape(WebfarmError):
    """Data that is not what it should be."""


def mapping(value: object, what: str) -> Mapping[str, Any]:
    """A mapping of text to anything."""
    if not isinstance(value, Mapping) or len(value) > MOST:
        raise BadShape(f"{what} is {shown(value)}, expected a mapping")
    for key in value:
        if not isinstance(key, str):
            raise BadShape(f"{what} has the key {shown(key)}, expected text")
    return value


def field(value: Mapping[str, Any], key: str, what: str) -> Any:
    """The entry ``key``, which must be there."""
    if key not in value:
        raise BadShape(f"{what} has no {key}")
    return value[key]


def package(value: object) -> str:
    """A package's name."""
    return _match(_PACKAGE, value, "a package's name")


def version(value: object) -> str:
    """A package's version."""
    return _match(_VERSION, value, "a package's version")


def digest(value: object) -> str:
    """A binary's digest: ``sha256:`` and 64 digits."""
    return _match(_DIGEST, value, "a digest (sha256: and 64 hexadecimal digits)")


def tree(value: object) -> str:
    """The digest of a release's tree: 64 digits."""
    return _match(_TREE, value, "a tree's digest (64 hexadecimal digits)")


def boot(value: object) -> str:
    """A kernel's boot id."""
    return _match(_BOOT, value, "a boot id")


def expected(value: object, what: str) -> Expected:
    """Name to ``{"to", "digest"}``; other keys of an entry are left out."""
    found: Expected = {}
    for name, entry in mapping(value, what).items():
        of = f"{what} of {package(name)}"
        to, known = (field(mapping(entry, of), key, of) for key in ("to", "digest"))
        found[name] = {"to": version(to), "digest": digest(known)}
    return found


def versions(value: object, what: str) -> dict[str, str]:
    """Name to version."""
    return {package(name): version(entry) for name, entry in mapping(value, what).items()}


def affected(value: object, what: str) -> frozenset[str]:
    """What ``{unit: [packages]}`` names: units, and commands of processes that have none."""
    return frozenset(mapping(value, what))


def is_service(name: str) -> bool:
    """A unit that can be restarted by itself, and no scope, slice or bare command."""
    return _SERVICE.fullmatch(name) is not None


def name(value: object, what: str) -> str:
    """A name of the pillar."""
    fault = names.problem(value)
    if fault:
        raise BadShape(f"{what} {shown(value)} {fault}")
    return str(value)


def flag(value: object, what: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise BadShape(f"{what} is {shown(value)}, expected True or False")
    return value


def _match(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadShape(f"{shown(value)} is not {what}")
    return value
