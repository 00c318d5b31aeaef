"""The sites of a primary balancer: state and pick, kept in two maps."""

from collections.abc import Mapping
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.haproxy import maps
from webfarm.haproxy.farms import apply, put
from webfarm.haproxy.runtime import SITE_MAPS, Balancer

STATES = ("open", "drain", "closed")


def sites(balancer: Balancer) -> dict[str, Any]:
    """Site -> state, in_flight, queued, up and its balancers; the pick; whether the disk agrees."""
    live = {name: maps.show(balancer.client, balancer.map_path(name)) for name in SITE_MAPS}
    disk = {name: maps.read(balancer.map_path(name)) for name in SITE_MAPS}
    state = dict(live["site_state"])
    flights = balancer.flights()
    table = {}
    for site, members in balancer.servers().items():
        table[site] = {
            "state": state.get(site, "closed"),
            "in_flight": flights[site]["in_flight"],
            "queued": flights[site]["queued"],
            "up": sum(member["status"] == "UP" for member in members.values()),
            "balancers": members,
        }
    return {
        "sites": table,
        "pick": maps.shares(live["site_pick"]),
        "disk_agrees": all(live[name] == disk[name] for name in SITE_MAPS),
        "old_workers": len(balancer.old_workers()),
    }


def set_sites(
    balancer: Balancer,
    state: Mapping[str, str] | None = None,
    pick: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Change sites; all is checked before the first change. Returns :func:`sites`.

    pick
        Site -> weight, complete: a site that is absent gets no new sessions.
    """
    for group in (state, pick):
        if group is not None and not isinstance(group, Mapping):
            raise WebfarmError(
                f"expected a mapping of site to value, got {ascii(group)[:60]}; nothing was changed"
            )
        for site in group or {}:
            names.check(site, "site")
    for site, value in (state or {}).items():
        if value not in STATES:
            raise WebfarmError(
                f"state of {site}: {ascii(value)[:40]} is not one of {', '.join(STATES)}; nothing "
                "was changed"
            )
    shares = None if pick is None else maps.ranges(pick)
    with balancer.lock("set sites"):
        known = balancer.backends()
        for site in [*(state or {}), *(pick or {})]:
            if site not in known:
                raise WebfarmError(
                    f"{balancer.settings.socket}: there is no site {site}; HAProxy has: "
                    f"{', '.join(known)}; "
                    "nothing was changed"
                )
        disk = {name: maps.read(balancer.map_path(name)) for name in SITE_MAPS}
        targets = {
            "site_state": sorted({**dict(disk["site_state"]), **(state or {})}.items()),
            "site_pick": disk["site_pick"] if shares is None else shares,
        }
        closing = any(value != "open" for value in (state or {}).values())
        for name in ("site_pick", "site_state") if closing else ("site_state", "site_pick"):
            apply(balancer, name, targets[name])
        return sites(balancer)


def ensure(balancer: Balancer, weights: Mapping[str, int], test: bool = False) -> dict[str, Any]:
    """Create the maps, or add sites that are new (closed) and drop sites that are gone; run-time
    values stay.

    Returns map -> {"old", "new"} of what changes; with ``test`` nothing is written.
    """
    for site in weights:
        names.check(site, "site")
    first = maps.ranges(weights)
    with balancer.lock("create the site maps"):
        paths = {name: balancer.map_path(name) for name in SITE_MAPS}
        bare = not any(path.exists() for path in paths.values())
        disk = {name: maps.read(path) if path.exists() else [] for name, path in paths.items()}
        states = dict(disk["site_state"])
        shares = maps.shares(disk["site_pick"])
        kept = {site: slots for site, slots in shares.items() if site in weights}
        new_state = "open" if bare else "closed"
        targets = {
            "site_state": sorted((site, states.get(site, new_state)) for site in weights),
            "site_pick": first
            if bare
            else disk["site_pick"]
            if len(kept) == len(shares)
            else maps.ranges(kept),
        }
        changes = {
            name: {"old": dict(disk[name]), "new": dict(targets[name])}
            for name in SITE_MAPS
            if sorted(disk[name]) != sorted(targets[name]) or not paths[name].exists()
        }
        if changes and not test:
            put(balancer, {name: targets[name] for name in changes})
    return changes
