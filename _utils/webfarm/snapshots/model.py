"""What every provider of snapshots offers, and which snapshots are old enough to go; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.snapshots.settings import Snapshots

ASIDE = "aside-"
_LONGEST = 48  # LVM's names have at most 127 characters, a root's that was put aside two of these


class SnapshotError(WebfarmError):
    """A snapshot could not be taken, found, restored or dropped."""


@dataclass(frozen=True)
class Snapshot:
    """A root as it was; ``at`` in seconds since 1970."""

    name: str
    at: int
    size: int | None = None

    def plain(self) -> dict[str, Any]:
        """For Salt."""
        known = {} if self.size is None else {"size": self.size}
        return {"name": self.name, "at": self.at, **known}


class Provider(Protocol):
    """Snapshots of this machine's root. Each call finishes what a killed one has begun."""

    def space(self) -> dict[str, Any]:
        """``{"provider", "ok", "free_percent", "why"}``; never raises for a lack of space."""

    def take(self, name: str) -> dict[str, Any]:
        """``{"name", "taken": True, "at"}``; the same for a name that is there already."""

    def snapshots(self) -> list[dict[str, Any]]:
        """``[{"name", "at"}]``, oldest first."""

    def aside(self) -> list[dict[str, Any]]:
        """The roots that a restore has put aside, as :meth:`snapshots`."""

    def restore(self, name: str) -> dict[str, Any]:
        """From the next boot on the root is the snapshot: ``{"name", "reboot": True}``."""

    def carry(self) -> dict[str, Any]:
        """Give a root that waits for the next boot what is preserved, as it is now."""

    def waiting(self) -> str | None:
        """The snapshot that the next boot will run, while another root runs still."""

    def restored(self) -> str | None:
        """The snapshot that the running root came from."""

    def drop(self, name: str) -> dict[str, Any]:
        """``{"name", "dropped": whether it was there}``, a snapshot or a root put aside."""

    def expire(self) -> dict[str, Any]:
        """Drop what is too old or too many: ``{"dropped": [names]}``."""


def check_name(name: object) -> str:
    """``name`` when a snapshot may be called so; raises :class:`webfarm.errors.BadName`."""
    checked = names.check(name, "snapshot")
    if len(checked) > _LONGEST:
        raise SnapshotError(
            f"snapshot name {checked} has {len(checked)} characters, at most {_LONGEST} are"
            " allowed; nothing was changed"
        )
    return checked


def check_new_name(name: object) -> str:
    """As :func:`check_name`; names of roots put aside are refused too."""
    checked = check_name(name)
    if checked.startswith(ASIDE) or checked.endswith((".", "-")):
        raise SnapshotError(
            f"snapshot name {checked}: names that begin with {ASIDE} or end with . or - are not"
            " allowed; nothing was changed"
        )
    return checked


def aside_name(at: int, others: Sequence[str]) -> str:
    """A name for a root that is put aside now; ``others`` are taken."""
    number = 1
    while (name := f"{ASIDE}{at}.{number}") in others:
        number += 1
    return name


def aside_at(name: str) -> int | None:
    """When the root of this name was put aside; None for any other name."""
    seconds, _, number = name.removeprefix(ASIDE).partition(".")
    good = name.startswith(ASIDE) and 0 < len(seconds) < 12 and 0 < len(number) < 9
    if good and all(part.isascii() and part.isdigit() for part in (seconds, number)):
        return int(seconds)
    return None


def expired(
    snapshots: Sequence[Snapshot], settings: Snapshots, now: float, needed: Sequence[str | None]
) -> list[str]:
    """The names that go: too many or too old; never the newest, nor one that is ``needed``."""
    newest_first = sorted(snapshots, key=lambda one: (one.at, one.name), reverse=True)
    return [
        one.name
        for place, one in enumerate(newest_first)
        if place > 0
        and one.name not in needed
        and (place >= settings.keep or too_old(one.at, settings, now))
    ]


def expired_aside(
    aside: Sequence[Snapshot], settings: Snapshots, now: float, needed: Sequence[str | None]
) -> list[str]:
    """As :func:`expired`, for roots put aside: the newest of them may go too."""
    newest_first = sorted(aside, key=lambda one: (one.at, one.name), reverse=True)
    return [
        one.name
        for place, one in enumerate(newest_first)
        if one.name not in needed
        and (place >= settings.keep_aside or too_old(one.at, settings, now))
    ]


def too_old(at: int, settings: Snapshots, now: float) -> bool:
    """A snapshot of the future is not: the clock was wrong, then or now."""
    return now - at > settings.max_age_days * 86400


def judge_space(provider: str, free: int, whole: int, settings: Snapshots) -> dict[str, Any]:
    """What ``space`` answers for ``free`` of ``whole`` bytes."""
    percent = round(100 * free / whole, 1) if whole > 0 else 0.0
    ok = percent >= settings.min_free_percent
    why = (
        ""
        if ok
        else f"{percent:g} % are free for snapshots, {settings.min_free_percent:g} % must be;"
        " drop old ones: webfarm_snapshot.expire, webfarm_snapshot.drop NAME"
    )
    return {"provider": provider, "ok": ok, "free_percent": percent, "why": why}
