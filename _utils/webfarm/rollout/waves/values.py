"""The values of a wave: who takes part, what is wanted there, what is seen and remembered."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Expected = Mapping[str, Mapping[str, str]]  # package -> {"to": version, "digest": "sha256:…"}
REBOOTS = ("auto", "yes", "no")
NO_SNAPSHOTS = "none"


@dataclass(frozen=True)
class MemberBefore:
    """A server as it was when a wave came to it; it outlives the process, in the journal.

    boot_id
        Of the moment before it was changed: another one proves a reboot.
    snapshot
        The name of the snapshot that is taken of it.
    installed
        The versions of the wanted packages.
    attempted
        A change of its packages was begun.
    """

    boot_id: str = ""
    snapshot: str = ""
    installed: Mapping[str, str] = field(default_factory=dict)
    attempted: bool = False


@dataclass(frozen=True)
class Wave:
    """One server of each farm of a site, and what is installed on it.

    members
        Server -> its farm; a farm that has no server of this number has none here.
    expected
        Hardware profile -> what was certified for it.
    reboot
        ``yes``, ``no`` (services are restarted) or ``auto`` (as the packages need).
    back
        Empty, or server -> how it was: it is taken back there by its snapshot.
    online
        Nothing leaves service; then there may be several servers of a farm.
    """

    number: int
    members: Mapping[str, str]
    packages: tuple[str, ...]
    expected: Mapping[str, Expected]
    reboot: str = "auto"
    back: Mapping[str, MemberBefore] = field(default_factory=dict)
    online: bool = False

    @property
    def label(self) -> str:
        """A short name for the packages as they were certified: what stands for a release."""
        basis = {**asdict(self), "number": 0, "members": {}, "back": sorted(self.back)}
        text = json.dumps(basis, sort_keys=True, default=str)
        kind = "back" if self.back else "os"
        return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


@dataclass(frozen=True)
class OsView:
    """What a server says of its system.

    installed
        The wanted packages that it has, and their versions.
    snapshots
        The names of its snapshots; ``provider`` who makes them.
    restored
        The snapshot that the running root came from; empty for none.
    failed
        Services of ours that do not run.
    """

    installed: Mapping[str, str] = field(default_factory=dict)
    provider: str = NO_SNAPSHOTS
    snapshots: frozenset[str] = frozenset()
    restored: str = ""
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class WaveMemory:
    """What a wave knows besides its last observation; only ``before`` outlives the process.

    done
        Steps that an observation cannot show: preflight, soft, quiesce, open, soak.
    idle
        How many observations in a row showed nothing in flight on the members held.
    reboot
        Server -> whether its packages need a reboot, as the install said; ``affects`` which units
        run from their files.
    restarted
        Servers whose services were restarted after the install.
    verified
        Servers that were seen in order after their work.
    failed
        Servers that must be taken back, and why.
    lost
        Servers that cannot be brought into service, and why: they stay out.
    gives_up
        Why no more work is begun; empty while it goes on.
    """

    done: frozenset[str] = frozenset()
    idle: int = 0
    before: Mapping[str, MemberBefore] = field(default_factory=dict)
    reboot: Mapping[str, bool] = field(default_factory=dict)
    affects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    restarted: frozenset[str] = frozenset()
    verified: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    gives_up: str = ""


def wave(data: Mapping[str, Any] | None) -> Wave | None:
    """A wave from the journal's JSON."""
    if data is None:
        return None
    back = {name: MemberBefore(**one) for name, one in data["back"].items()}
    return Wave(**{**data, "packages": tuple(data["packages"]), "back": back})
