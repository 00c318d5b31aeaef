"""The farms of a site balancer: state, generation, release (the fence) and pick, kept in five maps.

On disk first, then in every worker of HAProxy, then read back: a balancer that is killed between
two steps starts with what was intended, and :func:`reconcile` brings a running one there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.haproxy import checks, kept, maps, members, parse, sibling
from webfarm.haproxy.checks import AMNESTY, FIRST_GENERATION, NEWEST
from webfarm.haproxy.client import BalancerError
from webfarm.haproxy.runtime import FARM_MAPS, SITE_MAPS, Balancer


def farms(balancer: Balancer) -> dict[str, Any]:
    """Everything about the farms of this balancer; the shape is in ``haproxy_runtime.farms``."""
    return _farms(balancer)


def set_farms(
    balancer: Balancer,
    state: Mapping[str, str] | None = None,
    generation: Mapping[str, int] | None = None,
    newest: int | None = None,
    release: Mapping[str, str] | None = None,
    pick: Mapping[str, int] | None = None,
    pick_newest: Mapping[str, int] | None = None,
    force: bool = False,
    amnesty: int | None = None,
) -> dict[str, Any]:
    """Change farms; all is checked before the first change. Same arguments again change nothing.

    pick, pick_newest
        Farm -> weight, complete: a farm that is absent gets no new sessions (of that kind).
    force
        Open a farm although none of its servers is UP.
    amnesty
        Up to this generation a session may be answered by an older farm, which resets it, when no
        other is there.

    Raises :class:`WebfarmError` for a generation that would go down, and :class:`BalancerError`
    when HAProxy does not hold what it was told.
    """
    checks.farm_arguments(state, generation, newest, release, pick, pick_newest, amnesty)
    with balancer.lock("set farms"):
        known = balancer.backends()
        for group in (state, generation, release, pick, pick_newest):
            for farm in group or {}:
                if farm not in known:
                    raise WebfarmError(
                        f"{balancer.settings.socket}: there is no farm {farm}; HAProxy has: "
                        f"{', '.join(known)}; "
                        "nothing was changed"
                    )
        disk = {name: maps.read(balancer.map_path(name)) for name in FARM_MAPS}
        wanted = {name: dict(entries) for name, entries in disk.items()}
        wanted["farm_state"] |= state or {}
        wanted["farm_release"] |= release or {}
        wanted["farm_generation"] = checks.generations(
            wanted["farm_generation"],
            balancer.get_map("farm_generation"),
            generation or {},
            newest,
            amnesty,
        )
        if state and not force:
            _refuse_dead(balancer, state, dict(disk["farm_state"]))
        targets = {name: sorted(entries.items()) for name, entries in wanted.items()}
        memory = kept.glance(balancer.settings.state_file)
        for name, weights in (("farm_pick", pick), ("farm_pick_newest", pick_newest)):
            targets[name] = disk[name] if weights is None else maps.ranges(weights)
            if weights is not None:
                memory.asked[name] = dict(weights)
        memory.save()
        for name in _order(state or {}):
            apply(balancer, name, targets[name])
        closed = [farm for farm, value in (state or {}).items() if value == "closed"]
        _let_go(balancer, memory, closed)
        return _farms(balancer)


def reconcile(balancer: Balancer) -> dict[str, Any]:
    """Make HAProxy hold what the disk says, and the state file what HAProxy says.

    Returns what had to change.
    """
    changed: dict[str, Any] = {}
    with balancer.lock("reconcile"):
        for name in _present(balancer):
            disk = maps.read(balancer.map_path(name))
            live = maps.show(balancer.client, balancer.map_path(name))
            apply(balancer, name, disk)
            if live != disk:
                changed[name] = {"old": dict(live), "new": dict(disk)}
        if balancer.reassert_state():
            changed["state_file"] = {"old": "differs", "new": "written"}
    return changed


def ensure(
    balancer: Balancer,
    weights: Mapping[str, int],
    release: str,
    siblings: Sequence[str] = (),
    test: bool = False,
) -> dict[str, Any]:
    """Create the maps, or add new farms and drop those that are gone; run-time values stay.

    weights
        The site's farms with their share of new sessions.
    release
        What a new farm runs.
    siblings
        ``host:port`` of the site's other balancers: a balancer without maps takes over what the
        first that runs has.

    In a bare site every farm is open, of generation 1. Later a new farm begins closed and of
    generation 1: no session can come to it before a rollout gives it its release and its generation
    and opens it. Works while HAProxy does not run. Returns map -> {"old", "new"} of what changes;
    with ``test`` nothing is written.
    """
    for farm in weights:
        names.check(farm, "farm")
    names.check(release, "release")
    maps.ranges(weights)
    with balancer.lock("create the farm maps"):
        paths = {name: balancer.map_path(name) for name in FARM_MAPS}
        disk = {name: maps.read(path) if path.exists() else [] for name, path in paths.items()}
        if any(path.exists() for path in paths.values()):
            targets = _adapted(disk, weights, release)
        else:
            targets = _first(weights, release, sibling.ask(siblings))
        changes = {
            name: {"old": dict(disk[name]), "new": dict(targets[name])}
            for name in FARM_MAPS
            if sorted(disk[name]) != sorted(targets[name]) or not paths[name].exists()
        }
        if changes and not test:
            put(balancer, {name: targets[name] for name in changes})
    return changes


def mark(balancer: Balancer, table: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Add to each server of :meth:`Balancer.servers` whose its drain is: ``drained_by`` is
    ``weights`` for the weights' loop, ``rollout`` for a rollout's drain or maint, else None.
    """
    memory = kept.glance(balancer.settings.state_file)
    taken = members.glance(balancer.settings.state_file)
    for farm, servers in table.items():
        for name, server in servers.items():
            ours = server["admin_state"] == "drain" and memory.owns(farm, name)
            server["drained_by"] = kept.LOOP if ours else None
            if server["admin_state"] != "ready" and name in taken.get(farm, ()):
                server["drained_by"] = members.ROLLOUT


def _let_go(balancer: Balancer, memory: kept.Kept, closed: Sequence[str]) -> None:
    """Lift the weights' loop's drains in farms that serve nothing.

    Who opens such a farm has its servers verified first, so what the loop knew of them is history;
    and a farm must not be opened with all its living servers drained.
    """
    for farm in closed:
        ours = memory.farms[farm].ours if farm in memory.farms else {}
        seen = {one.server: one.admin for one in balancer.states() if one.backend == farm}
        drained = [name for name in ours if seen.get(name) == "drain"]
        if drained:
            memory.farms[farm].ours = dict.fromkeys(drained, kept.INTENDED)
            memory.save()
            balancer.tell([f"set server {farm}/{name} state ready" for name in drained])
            balancer.save_state()
        if ours:
            memory.farms[farm].ours = {}
            memory.save()


def _first(
    weights: Mapping[str, int], release: str, told: sibling.Told | None
) -> dict[str, maps.Entries]:
    """The maps of a balancer that has none: a bare site's, or the sibling's."""
    bare = told is None
    newest = FIRST_GENERATION if told is None else told.newest
    amnesty = told.amnesty if told else 0
    state = {f: "open" if told is None else told.state.get(f, "closed") for f in weights}
    generation = {f: 1 if told is None else told.generation.get(f, 1) for f in weights}
    releases = {f: release if told is None else told.release.get(f, release) for f in weights}
    opened = {farm: weight for farm, weight in weights.items() if state[farm] == "open"}
    leading = {f: w for f, w in weights.items() if bare or generation[f] == newest}
    return {
        "farm_state": sorted(state.items()),
        "farm_generation": sorted(
            {
                **{farm: str(number) for farm, number in generation.items()},
                NEWEST: str(newest),
                **({AMNESTY: str(amnesty)} if amnesty else {}),
            }.items()
        ),
        "farm_release": sorted(releases.items()),
        "farm_pick": maps.ranges(opened),
        "farm_pick_newest": maps.ranges({f: w for f, w in leading.items() if state[f] != "closed"}),
    }


def _adapted(
    disk: Mapping[str, maps.Entries], weights: Mapping[str, int], release: str
) -> dict[str, maps.Entries]:
    """The present maps with new farms, and without those that are gone."""
    defaults = {
        "farm_state": "closed",
        "farm_generation": str(FIRST_GENERATION),
        "farm_release": release,
    }
    targets: dict[str, maps.Entries] = {}
    for name, default in defaults.items():
        old = dict(disk[name])
        new = {farm: old.get(farm, default) for farm in weights}
        if name == "farm_generation":
            new[NEWEST] = old.get(NEWEST, str(FIRST_GENERATION))
            if AMNESTY in old:
                new[AMNESTY] = old[AMNESTY]
        targets[name] = sorted(new.items())
    for name in ("farm_pick", "farm_pick_newest"):
        shares = maps.shares(disk[name])
        kept = {farm: slots for farm, slots in shares.items() if farm in weights}
        targets[name] = disk[name] if len(kept) == len(shares) else maps.ranges(kept)
    return targets


def put(balancer: Balancer, targets: Mapping[str, maps.Entries]) -> None:
    """Write maps to disk, and to HAProxy when it runs."""
    running = balancer.running()
    for name, entries in targets.items():
        path = balancer.map_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if running and f"({path})" in balancer.client.one("show map"):
            apply(balancer, name, entries)
        else:
            maps.write(path, entries)


def apply(balancer: Balancer, name: str, entries: maps.Entries) -> None:
    """One map: disk, current worker, old workers; read back from each."""
    path = balancer.map_path(name)
    if not path.exists() or maps.read(path) != entries:
        maps.write(path, entries)
    maps.replace(balancer.client, path, entries)
    balancer.each_old_worker(lambda worker: maps.replace(worker, path, entries))


def _farms(balancer: Balancer) -> dict[str, Any]:
    live = {name: maps.show(balancer.client, balancer.map_path(name)) for name in FARM_MAPS}
    disk = {name: maps.read(balancer.map_path(name)) for name in FARM_MAPS}
    state, generation, release = (
        dict(live[f"farm_{name}"]) for name in ("state", "generation", "release")
    )
    flights = balancer.flights()
    table = {}
    found = balancer.servers()
    mark(balancer, found)
    for farm, servers in found.items():
        flight = flights[farm]
        for name, server in servers.items():
            server["in_flight"] = flight["servers"].get(name, server)["in_flight"]
        table[farm] = {
            "state": state.get(farm, "closed"),
            "generation": checks.as_number(generation.get(farm, "0"), farm),
            "release": release.get(farm),
            "in_flight": flight["in_flight"],
            "queued": flight["queued"],
            "counters": flight["counters"],
            "up": sum(server["status"] == "UP" for server in servers.values()),
            "servers": servers,
        }
    about = parse.info(balancer.client.one("show info"))
    return {
        "farms": table,
        "newest": checks.as_number(generation.get(NEWEST, "0"), NEWEST),
        "amnesty": checks.as_number(generation.get(AMNESTY, "0"), AMNESTY),
        "pick": maps.shares(live["farm_pick"]),
        "pick_newest": maps.shares(live["farm_pick_newest"]),
        "disk_agrees": all(_agree(name, live[name], disk[name]) for name in FARM_MAPS),
        "pid": int(about["Pid"]),
        "old_workers": len(balancer.old_workers()),
    }


def _agree(name: str, live: maps.Entries, disk: maps.Entries) -> bool:
    """A map is on disk as in memory.

    Of a pick map who is in it: the shares are the weights' loop's, which changes them at any
    moment, on disk first; a look in between must not take that for a change that was cut short.
    """
    if "pick" not in name or live == disk:
        return live == disk
    try:
        return maps.shares(live).keys() == maps.shares(disk).keys()
    except BalancerError:
        return False


def _refuse_dead(balancer: Balancer, state: Mapping[str, str], before: Mapping[str, str]) -> None:
    table = balancer.servers()
    for farm, value in state.items():
        if value == "open" and before.get(farm) != "open":
            seen = {name: server["status"] for name, server in table[farm].items()}
            if "UP" not in seen.values():
                raise WebfarmError(
                    f"farm {farm} cannot be opened: none of its servers is UP ({_listed(seen)}); "
                    "see their health "
                    "checks with haproxy_runtime.servers, or force=True. Nothing was changed"
                )


def _order(state: Mapping[str, str]) -> list[str]:
    """Closing: out of the pick before the state; opening: the pick last, when all else is true."""
    closing = any(value != "open" for value in state.values())
    last = ["farm_pick", "farm_state"] if closing else ["farm_state", "farm_pick"]
    return ["farm_release", "farm_generation", "farm_pick_newest", *last]


def _present(balancer: Balancer) -> list[str]:
    """The maps that this balancer's configuration uses."""
    listed = balancer.client.one("show map")
    return [n for n in FARM_MAPS + SITE_MAPS if f"({balancer.map_path(n)})" in listed]


def _listed(seen: Mapping[str, str]) -> str:
    items = [f"{name} {status}" for name, status in seen.items()]
    return ", ".join(items[:8]) + (" …" if len(items) > 8 else "")
