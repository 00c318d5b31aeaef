"""What a package manager would change, against what was certified; pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webfarm.errors import WebfarmError

MOST_CHANGES = 5000
_NAME = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_+-]*)?(:[A-Za-z0-9_.-]+)?"
)
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~:_-]*")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Refused(WebfarmError):
    """This machine would not get what was certified; nothing was changed."""


@dataclass(frozen=True)
class Change:
    """A package that would be installed.

    old
        The version that is installed, None for a new package.
    digest
        ``sha256:HEX`` of the binary package.
    size
        Bytes of the binary package.
    """

    name: str
    old: str | None
    new: str
    digest: str
    size: int

    def shown(self) -> dict[str, Any]:
        """As the functions return it."""
        return {"from": self.old, "to": self.new, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Binary:
    """What was certified of a package."""

    version: str
    digest: str


def expected(value: object) -> dict[str, Binary]:
    """Read ``{name: {"to": version, "digest": "sha256:…"}}``; other keys are left alone.

    Raises :class:`WebfarmError` that shows the first entry that is none.
    """
    if not isinstance(value, Mapping) or not 0 < len(value) <= MOST_CHANGES:
        raise WebfarmError(
            f"expected must be {{name: {{to, digest}}}} with 1..{MOST_CHANGES} packages, as"
            f" `salt-run upgrade.certify` recorded them, it is {value!a:.60}; nothing was changed"
        )
    out = {}
    for name, entry in value.items():
        to = entry.get("to") if isinstance(entry, Mapping) else None
        digest = entry.get("digest") if isinstance(entry, Mapping) else None
        if not (
            _matches(_NAME, name) and _matches(_VERSION, to) and _matches(_DIGEST, digest)
        ) or ".." in str(name):
            raise WebfarmError(
                f"expected: {name!a:.60}: {entry!a:.120} is no package with its version (to) and"
                " digest (sha256:HEX); nothing was changed"
            )
        out[name] = Binary(str(to), str(digest))
    return out


def compare(
    changes: Sequence[Change], certified: Mapping[str, Binary], installed: Mapping[str, str]
) -> None:
    """Raise :class:`Refused` unless this machine would end with exactly what was certified.

    Whatever would change must be certified with this version and digest. What was certified and
    would not change must be installed with the certified version already.
    """
    faults = []
    coming = {change.name: change for change in changes}
    for name, change in sorted(coming.items()):
        binary = certified.get(name)
        if binary is None:
            faults.append(f"{name} {change.new} would be installed too and was not certified")
        elif binary.version != change.new:
            faults.append(f"{name} would become {change.new}, certified is {binary.version}")
        elif binary.digest != change.digest:
            faults.append(
                f"{name} {change.new} is another binary than the certified one:"
                f" {change.digest[:19]}…, certified is {binary.digest[:19]}…"
            )
    for name, binary in sorted(certified.items()):
        here = installed.get(name)
        if name not in coming and here != binary.version:
            faults.append(
                f"{name} {binary.version} was certified and would not be installed"
                f" (here: {here or 'not installed'})"
            )
    if faults:
        raise Refused(refusal(faults))


def refusal(faults: Sequence[str]) -> str:
    """The message: each fault, and what to do."""
    more = f"; and {len(faults) - 20} more" if len(faults) > 20 else ""
    return (
        f"{'; '.join(faults[:20])}{more}. Nothing was changed. Fetch this machine's indexes anew"
        " with `webfarm_packages.sync`, bring it to where the preproduction server was, or certify"
        " the set as it is now with `salt-run upgrade.certify packages='[…]'`"
    )


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and len(value) <= 200 and bool(pattern.fullmatch(value))
