"""Bring one server to its farm's release and back into service, on request or when it returns."""

from collections.abc import Sequence
from dataclasses import replace

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout.context import Context
from webfarm.rollout.lease import Held
from webfarm.rollout.model import FarmAtBalancer, Run, listed
from webfarm.rollout.status import Data, conducted
from webfarm.rollout.watcher import Watcher

PATIENCE = 300.0  # seconds in which a server that returned waits for its turn
LOOK_SECONDS = 3.0
SYNC_SECONDS = 60.0
RETURNED = "returned"  # a record: a server did, and its site was in the hand of a run


class NotOpen(WebfarmError):
    """The farm is not in service on one release: its servers belong to the run that changes it."""


class Silent(WebfarmError):
    """A balancer does not answer."""


def server(context: Context, site: str, farm: str, server: str) -> Data:
    """Bring one server to its farm's release and back into service."""
    servers = context.topology.farm(site, farm).servers
    if names.check(server, "server") not in servers:
        raise WebfarmError(f"{farm} of {site} has no server {server}; it has: {', '.join(servers)}")
    release = _release(site, farm, _at(context, site, farm))
    (goal,) = context.goals([(site, farm)], release)
    return context.conduct(Run("server", (replace(goal, server=server),)))


def rejoin(context: Context, minion: str) -> Data:
    """The same for a minion that has just started, if there is anything to do for it.

    A rack's servers return together and one run holds the site at a time, so each waits for its
    turn, and for balancers that start with them. A run of a server that was cut short is taken up:
    it changes nothing that serves. Where a run has the farm in hand, it is remembered, and who
    conducts the run brings the server back at its end.
    """
    names.check(minion, "minion")
    node = next((node for node in context.topology.nodes() if node.id == minion), None)
    if node is None or node.role != "server" or node.site is None or node.farm is None:
        return _nothing(f"{minion} is no web server of the pillar")
    end = context.clock.monotonic() + PATIENCE
    while True:
        try:
            at = _at(context, node.site, node.farm)
            _release(node.site, node.farm, at)
            if all(minion in one.servers and one.servers[minion].healthy for one in at.values()):
                return _nothing(f"{minion} is in service")
            _take_up(context, node.site)
            # it may have slept through an update of Webfarm; a failure shows in the first step
            context.cluster.call(node.site, "saltutil.sync_all", [minion], {}, SYNC_SECONDS)
            return server(context, node.site, node.farm, minion)
        except (NotOpen, Held, Silent) as error:
            waits = isinstance(error, Silent) or (
                isinstance(error, Held) and _servers_only(context, node.site)
            )
            if not waits or context.interrupted() or context.clock.monotonic() > end:
                _remember(context, node.site, minion)
                return _nothing(f"{minion} is left as it is: {error}")
        context.clock.sleep(LOOK_SECONDS)


def returned(context: Context, sites: Sequence[str], since: float) -> Data:
    """What came of the servers that returned while a run had their sites in hand."""
    with context.journal() as journal:
        minions = [
            record["data"]["minion"]
            for record in reversed(journal.records(1000))
            if record["what"] == RETURNED
            and record["at"] >= since
            and record["data"]["site"] in sites
        ]
    quiet = replace(context, watcher=Watcher())
    done = {minion: rejoin(quiet, minion) for minion in dict.fromkeys(minions)}
    return {minion: data["message"] for minion, data in done.items() if "run" in data}


def _remember(context: Context, site: str, minion: str) -> None:
    with context.journal() as journal:
        if any(set(run["run"].sites) & {site} for run in journal.unfinished()):
            data = {"minion": minion, "site": site}
            journal.record(RETURNED, context.holder, "", data, context.clock.time())


def _take_up(context: Context, site: str) -> None:
    with context.journal() as journal:
        left = [
            run
            for run in journal.unfinished(site)
            if run["kind"] == "server" and not conducted(context, journal, run)
        ]
    for run in left:
        context.conduct(run["run"])


def _servers_only(context: Context, site: str) -> bool:
    """What holds the site are runs of single servers, which end soon."""
    with context.journal() as journal:
        running = [run for run in journal.unfinished(site) if run["state"] == "running"]
    return all(run["kind"] == "server" for run in running)


def _at(context: Context, site: str, farm: str) -> dict[str, FarmAtBalancer]:
    """The farm as each balancer has it."""
    seen = context.cluster.observe(site, farm, servers=False)
    silent = [
        f"{view.id}: {view.why or 'does not know ' + farm}"
        for view in seen.balancers.values()
        if not view.answered or farm not in view.farms
    ]
    if silent:
        raise Silent(
            f"not every balancer of {site} says how {farm} is ({listed(silent)}); nothing was "
            "changed"
        )
    return {name: view.farms[farm] for name, view in seen.balancers.items()}


def _release(site: str, farm: str, at: dict[str, FarmAtBalancer]) -> str:
    """The release that the balancers expect of the servers of a farm that is open."""
    found = {(one.state, one.release) for one in at.values()}
    state, release = next(iter(found))
    if len(found) == 1 and state == "open":
        return release
    shown = listed([f"{name}: {one.state} on {one.release}" for name, one in at.items()])
    raise NotOpen(
        f"{farm} of {site} is not open on one release ({shown}): its servers are the business of "
        "the run that changes it, see `salt-run upgrade.status`; nothing was changed"
    )


def _nothing(message: str) -> Data:
    return {"result": True, "state": "nothing", "message": message}
