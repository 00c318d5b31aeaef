"""The values of certification: what is to be certified, what was tested, a certificate."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webfarm.errors import WebfarmError

PACKAGES, RELEASE = "packages", "release"


class Uncertified(WebfarmError):
    """Production may not have it: for each profile why, and what to type."""


class NotCertified(WebfarmError):
    """A test on a preproduction server failed; the message names the server."""


@dataclass(frozen=True)
class Subject:
    """What is certified.

    kind
        ``packages`` or ``release``.
    words
        The words of the package set, sorted; or the release's name alone.
    """

    kind: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {', '.join(self.words)}"

    @property
    def command(self) -> str:
        """What to type to have it certified."""
        if self.kind == RELEASE:
            name = self.words[0]
            shown = f"\"'{name}'\"" if _is_number(name) else name
            return f"salt-run upgrade.certify release={shown}"
        return f"salt-run upgrade.certify packages='[{', '.join(self.words)}]'"


def _is_number(text: str) -> bool:
    """YAML would not read it as text."""
    return text.replace(".", "", 1).replace("_", "").isdecimal()


@dataclass(frozen=True)
class Tested:
    """What one preproduction server ran for one hardware profile.

    state
        ``running``, ``passed`` or ``failed``.
    packages
        Name to ``{"to": version, "digest": "sha256:…"}``: all of which the binary is known, in the
        versions that were installed before the tests and still after them.
    release
        ``{"php", "webapp"}``: versions, and ``"digests"`` of both trees; empty for packages.
    evidence
        The tests' results in their order: ``{"what", "ok", "seconds", …}``.
    """

    profile: str
    server: str
    state: str
    started: float
    ended: float | None = None
    boots: tuple[str, ...] = ()
    packages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    release: Mapping[str, Any] = field(default_factory=dict)
    evidence: tuple[Mapping[str, Any], ...] = ()
    message: str = ""


@dataclass(frozen=True)
class Certificate:
    """One certification; ``state`` is ``running``, ``passed``, ``failed`` or ``damaged``.

    A certificate counts as a whole: it passed when all of its profiles did.
    """

    id: int
    subject: Subject
    profiles: tuple[str, ...]
    state: str
    who: str
    host: str
    started: float
    ended: float | None = None
    message: str = ""
    revoked_at: float | None = None
    revoked_by: str = ""
    revoked_why: str = ""
    tested: Mapping[str, Tested] = field(default_factory=dict)

    def standing(self, now: float, max_age_days: float) -> str:
        """``valid``, ``expired``, ``revoked``, ``failed``, ``running`` or ``damaged``.

        One that ended in the future is no longer trusted than any other: the master's clock went
        back, so it counts as expired.
        """
        if self.state != "passed":
            return self.state
        if self.revoked_at is not None:
            return "revoked"
        age = now - (self.ended or 0.0)
        return "valid" if -60.0 <= age <= max_age_days * 86400 else "expired"
