"""From what an operator typed to a run of waves: scope, packages, what was certified, members."""

from collections.abc import Mapping, Sequence
from typing import Any

from webfarm import names
from webfarm.certificates.model import Uncertified
from webfarm.errors import WebfarmError
from webfarm.packages.wanted import wanted
from webfarm.policy import budget
from webfarm.rollout import arguments
from webfarm.rollout.context import Context
from webfarm.rollout.model import Goal, Reply, Run, listed
from webfarm.rollout.waves.values import REBOOTS, Expected, Wave
from webfarm.topology import Site

KINDS = ("online", "disruptive")
PRETEND_SECONDS = 300.0
ALL = "all"


def sites(context: Context, site: object) -> dict[str, Site]:
    """The sites of the scope: one, or ``all``."""
    name = names.check(site, "site")
    if name == ALL:
        return dict(context.topology.sites)
    return {name: context.topology.site(name)}


def kind_of(kind: object) -> str:
    """``online`` or ``disruptive``."""
    if kind not in KINDS:
        raise WebfarmError(
            f"kind is {kind!a:.40}, expected one of {', '.join(KINDS)}: online for packages that "
            "restart nothing, disruptive for all others; nothing was changed"
        )
    return str(kind)


def reboot_of(reboot: object) -> str:
    """``auto``, ``yes`` or ``no``; YAML reads the last two as truths."""
    word = {True: "yes", False: "no"}.get(reboot, reboot) if isinstance(reboot, bool) else reboot
    if word not in REBOOTS:
        raise WebfarmError(
            f"reboot is {reboot!a:.40}, expected one of {', '.join(REBOOTS)}; nothing was changed"
        )
    return str(word)


def pretended(
    context: Context, scope: Mapping[str, Site], packages: Sequence[str]
) -> dict[str, Reply]:
    """What each server of the scope says that the packages would change."""
    found: dict[str, Reply] = {}
    for name, site in scope.items():
        members = [server for farm in site.farms.values() for server in farm.servers]
        found |= context.cluster.call(
            name,
            "webfarm_packages.pretend",
            members,
            {"packages": list(packages)},
            PRETEND_SECONDS,
        )
    return found


def profiles(scope: Mapping[str, Site]) -> tuple[str, ...]:
    """The hardware profiles of the scope's servers."""
    servers = (
        s for site in scope.values() for f in site.farms.values() for s in f.servers.values()
    )
    return tuple(sorted({server.hw_profile for server in servers}))


def expected(
    context: Context, scope: Mapping[str, Site], packages: Sequence[str], force: str
) -> tuple[dict[str, Expected], str]:
    """What must be installed, for each profile, to the last byte; and what ``force`` goes past.

    What the certificates say; without preproduction, or by force, what the first server of the
    profile that has something to do would install.
    """
    past = ""
    try:
        found = context.certified and context.certified(tuple(packages), profiles(scope))
    except Uncertified as error:
        if not force:
            raise
        found, past = None, str(error)
    if found is not None:
        return {name: {p: dict(e) for p, e in one.items()} for name, one in found.items()}, past
    asked = pretended(context, scope, packages)
    result: dict[str, Expected] = {}
    for site in scope.values():
        for farm in site.farms.values():
            for name, server in farm.servers.items():
                changes = _changes(asked[name])
                if changes and not result.get(server.hw_profile):
                    result[server.hw_profile] = changes
    if not result and not any(reply.ok for reply in asked.values()):
        shown = listed([f"{name}: {reply.error}" for name, reply in asked.items()])
        raise WebfarmError(f"no server says what would be installed: {shown}")
    return result, past


def _changes(reply: Reply) -> Expected:
    value = reply.value.get("changes") if reply.ok and isinstance(reply.value, Mapping) else None
    if not isinstance(value, Mapping):
        return {}
    return {
        str(name): {"to": str(one["to"]), "digest": str(one["digest"])}
        for name, one in value.items()
        if isinstance(one, Mapping) and one.get("to") and one.get("digest")
    }


def waves(
    scope: Mapping[str, Site],
    packages: Sequence[str],
    certified: Mapping[str, Expected],
    reboot: str,
    online: bool = False,
) -> tuple[Goal, ...]:
    """Wave k has the k-th server of each farm, in the pillar's order; site by site.

    online
        As many servers of each farm at once as its budget allows (``max_failed``).
    """
    goals = []
    for name, site in scope.items():
        turns: dict[int, dict[str, str]] = {}
        for farm, plan in site.farms.items():
            size = max(1, budget(site.policy.max_failed, len(plan.servers))) if online else 1
            for position, server in enumerate(plan.servers):
                turns.setdefault(position // size, {})[server] = farm
        for number, members in sorted(turns.items()):
            wave = Wave(number + 1, members, tuple(packages), certified, reboot, online=online)
            label = f"{'batch' if online else 'wave'}-{number + 1}"
            goals.append(Goal(name, label, wave.label, "", "", wave=wave))
    return tuple(goals)


def run_of(
    context: Context,
    site: object,
    packages: object,
    reboot: object,
    policy: object,
    override: object,
    force: str,
    online: bool = False,
) -> Run:
    """The run that the arguments name; raises before anything is changed."""
    scope = sites(context, site)
    words = wanted(packages)
    certified, past = expected(context, scope, words, force)
    goals = waves(scope, words, certified, reboot_of(reboot), online)
    why = arguments.reason(override, "override")
    changes = arguments.overrides(policy)
    return Run("os", goals, changes, why, force=force if past else "", past=past)


def same(context: Context, run: Run) -> Run:
    """An unfinished run for the same packages in the same scope, as it was asked for.

    What was certified is part of what is asked; a run that is under way goes on with what it has.
    """
    with context.journal() as journal:
        for row in journal.unfinished():
            other: Run = row["run"]
            if other.kind == "os" and _asks(other) == _asks(run):
                return other
    return run


def _asks(run: Run) -> Any:
    return [
        (g.site, g.farm, dict(g.wave.members), g.wave.packages, g.wave.reboot)
        for g in run.goals
        if g.wave
    ]
