"""What ``salt-run rebalance`` does: data in, data out; book, pillar and clock are handed in."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rebalance.book import Book, Place
from webfarm.rebalance.freezes import Freeze, expiry
from webfarm.rollout import arguments
from webfarm.topology import Topology

DEAD_SECONDS = 15.0
"""An engine that has not ticked for so long is not running; the longest tick is added."""
RECONCILE_SECONDS = 15.0
START = "add `engines: [webfarm_rebalance: {}]` to the master's configuration and restart it"


def status(
    book: Book, topology: Topology, site: str | None, farm: str | None, now: float
) -> dict[str, Any]:
    """Each farm as the engine saw it with its last tick; not a result while none is running."""
    places = scope(topology, site, farm)
    views = book.views()
    problem = _engine_problem(book, topology, now)
    return {
        "result": not problem,
        **({"message": problem} if problem else {}),
        "engine": _engine(book, now),
        "freezes": [_freeze(one, now) for one in book.freezes(now) if _within(one, places)],
        "farms": [
            {"site": s, "farm": f, "now": now, **views.get((s, f), _unseen(topology, s, f))}
            for s, f in places
        ],
    }


def explain(book: Book, topology: Topology, server: str, now: float) -> dict[str, Any]:
    """A server as the engine sees it, and its last changes, each with what it was made from."""
    node = topology.node(names.check(server, "server"))
    if node.role != "server" or node.site is None or node.farm is None:
        raise WebfarmError(f"{server} is no web server of a farm but a {node.role}")
    place = (node.site, node.farm)
    view = book.views().get(place, {})
    problem = _engine_problem(book, topology, now)
    return {
        "result": not problem,
        **({"message": problem} if problem else {}),
        "site": node.site,
        "farm": node.farm,
        "server": server,
        "now": view.get("servers", {}).get(server) or "nothing is known of it yet",
        "farm_left_alone": view.get("left_alone", ""),
        "freezes": [
            _freeze(one, now)
            for one in book.freezes(now)
            if one.covers(*place) and one.server in (None, server)
        ],
        "changes": [
            {**change, "ago": round(now - change["at"], 1)}
            for change in book.history(*place, server)
        ],
    }


def freeze(
    book: Book,
    topology: Topology,
    site: str,
    farm: str | None,
    server: str | None,
    reason: object,
    expires: object,
    holder: str,
    now: float,
) -> dict[str, Any]:
    """Hold the weights, and the loop's drains, of a site, a farm or a server where they are."""
    _check(topology, site, farm, server)
    why = arguments.reason(reason, needed=True)
    one = Freeze(site, farm, server, why, holder, now, expiry(expires, now))
    book.freeze(one)
    problem = _engine_problem(book, topology, now)
    held = _thing(site, farm, server)
    message = f"{held} is frozen" if not problem else f"{held} will be frozen, but {problem}"
    return {"result": True, "message": message, "freeze": _freeze(one, now)}


def thaw(
    book: Book, topology: Topology, site: str, farm: str | None, server: str | None, now: float
) -> dict[str, Any]:
    """Take exactly that freeze back; what else covers the thing is named."""
    _check(topology, site, farm, server)
    found = book.thaw(site, farm, server)
    left = [_freeze(one, now) for one in book.freezes(now) if one.meets(site, farm, server)]
    held = _thing(site, farm, server)
    message = f"{held} is thawed" if found else f"{held} was not frozen itself"
    if left:
        message += "; there is still: " + ", ".join(f"{one['what']}" for one in left)
    return {"result": True, "message": message, "freezes": left}


def reconcile(
    book: Book,
    topology: Topology,
    site: str | None,
    farm: str | None,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> dict[str, Any]:
    """Have the engine send the vectors again, and wait for every balancer's answer."""
    places, began = scope(topology, site, farm), clock()
    problem = _engine_problem(book, topology, began)
    if problem:
        raise WebfarmError(f"nothing was sent: {problem}")
    book.wish(places, began)
    while True:
        missing = _missing(book.views(), places, began)
        if not missing or clock() - began > RECONCILE_SECONDS:
            break
        sleep(0.25)
    silent = {f"{s} {f}": who for (s, f), who in missing.items() if who}
    nothing = [f"{s} {f}" for (s, f), who in missing.items() if not who]
    if silent:
        words = "; ".join(f"{place}: {', '.join(who)}" for place, who in silent.items())
        message = (
            f"no answer in {RECONCILE_SECONDS:.0f} s: {words}; see `salt-run rebalance.status`, "
            "and whether those minions answer and the master's reactor has webfarm/weights/*"
        )
    else:
        message = "every balancer has the farms' vectors"
    if nothing:
        message += f"; nothing was decided yet on {', '.join(nothing)}"
    return {"result": not silent, "message": message, "silent": silent}


def scope(topology: Topology, site: str | None, farm: str | None) -> list[Place]:
    """The farms meant, in the pillar's order; the names are checked."""
    if site is None:
        if farm is not None:
            raise WebfarmError("a farm needs its site: salt-run rebalance.status SITE FARM")
        return [(s, f) for s, plan in topology.sites.items() for f in plan.farms]
    if farm is None:
        return [(site, name) for name in topology.site(site).farms]
    topology.farm(site, farm)
    return [(site, farm)]


def _check(topology: Topology, site: str, farm: str | None, server: str | None) -> None:
    scope(topology, site, farm)
    if server is None:
        return
    if farm is None:
        raise WebfarmError("a server needs its farm: SITE FARM SERVER; nothing was changed")
    known = topology.farm(site, farm).servers
    if server not in known:
        raise WebfarmError(
            f"{site} {farm} has no server {server}; the pillar has: {', '.join(known)}; nothing "
            "was changed"
        )


def _missing(
    views: Mapping[Place, Mapping[str, Any]], places: list[Place], began: float
) -> dict[Place, list[str]]:
    """Farms that are not through: the balancers that have not answered; none: no vector yet."""
    missing: dict[Place, list[str]] = {}
    for place in places:
        view = views.get(place)
        if view is None or view["epoch"] is None:
            missing[place] = []
            continue
        silent = [
            name
            for name, said in view["balancers"].items()
            if (said["heard"] or 0) < began or said["epoch"] != view["epoch"]
        ]
        if silent:
            missing[place] = silent
    return missing


def _engine(book: Book, now: float) -> dict[str, Any]:
    about = book.engine()
    if not about:
        return {}
    return {
        "last_tick_seconds_ago": round(now - about["at"], 1),
        "reports": about["accepted"],
        "refused": about["refused"],
        "latest_tick_seconds": round(about["late"], 2),
        **about["counts"],
    }


def _engine_problem(book: Book, topology: Topology, now: float) -> str:
    at = book.engine().get("at")
    if at is None:
        return f"the engine webfarm_rebalance never ran on this master; {START}"
    longest = max(site.weights.tick for site in topology.sites.values())
    if now - at > DEAD_SECONDS + longest:
        return (
            f"the engine webfarm_rebalance has not decided for {now - at:.0f} s: is it running? "
            f"See the master's log; {START}. The balancers keep the weights that they have"
        )
    return ""


def _unseen(topology: Topology, site: str, farm: str) -> dict[str, Any]:
    servers = topology.farm(site, farm).servers
    return {
        "epoch": None,
        "blind": None,
        "left_alone": "",
        "servers": {name: {"base": one.weight} for name, one in servers.items()},
        "balancers": {},
    }


def _within(freeze: Freeze, places: list[Place]) -> bool:
    return any(freeze.covers(*place) for place in places)


def _freeze(freeze: Freeze, now: float) -> dict[str, Any]:
    return {
        "what": _thing(freeze.site, freeze.farm, freeze.server),
        **asdict(freeze),
        "left": None if freeze.expires is None else round(freeze.expires - now),
    }


def _thing(site: str, farm: str | None, server: str | None) -> str:
    return server or (f"{site} {farm}" if farm else site)
