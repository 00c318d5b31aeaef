"""Say which services a change of packages disturbs; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from webfarm.packages.running import Process
from webfarm.packages.settings import Packages


@dataclass(frozen=True)
class Disruption:
    """What a change disturbs.

    affects
        The packages whose files a unit's processes run from: ``{unit: (package, …)}``.
    disruptive
        The packages that must not be changed in service, each with the reason.
    """

    affects: Mapping[str, tuple[str, ...]]
    disruptive: Mapping[str, str]


def look(
    owned: Mapping[str, frozenset[str]], running: Iterable[Process], settings: Packages
) -> Disruption:
    """What changing these packages disturbs.

    owned
        The packages that would change, each with the files that it has installed here, by their
        real paths; none for a new package.
    """
    owner = {path: name for name, files in owned.items() for path in files}
    found: dict[str, set[str]] = {}
    for process in running:
        for path in process.files & owner.keys():
            found.setdefault(process.unit or process.command, set()).add(owner[path])
    disruptive = {}
    for name in owned:
        listed = matching(name, settings.disruptive)
        if listed:
            disruptive[name] = f"the pillar's webfarm:packages:disruptive has {listed}"
            continue
        users = sorted(
            unit
            for unit, names in found.items()
            if name in names and matching(unit, settings.services)
        )
        if users:
            disruptive[name] = f"{', '.join(users)} runs from its files"
    return Disruption({unit: tuple(sorted(names)) for unit, names in found.items()}, disruptive)


def matching(name: str, globs: Iterable[str]) -> str | None:
    """The first glob that ``name`` (an architecture after ``:`` aside) matches."""
    plain = name.partition(":")[0]
    return next((glob for glob in globs if fnmatchcase(plain, glob)), None)
