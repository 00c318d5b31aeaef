"""What an operator asks about runs: how everything is, how one goes on, how they went."""

from collections.abc import Mapping, Sequence
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments, windows
from webfarm.rollout.approvals import approvals
from webfarm.rollout.context import Context
from webfarm.rollout.engine import describe
from webfarm.rollout.follow import Follower
from webfarm.rollout.journal import Journal
from webfarm.rollout.lease import alive, holders
from webfarm.rollout.model import Goal, Memory, Seen
from webfarm.rollout.report import utc
from webfarm.rollout.run import describe as described
from webfarm.rollout.run import in_force
from webfarm.rollout.situation import Situation

Data = dict[str, Any]
LOOK_SECONDS = 1.0


def status(context: Context, site: str | None = None) -> Data:
    """The farms now, who holds what, what has not ended, what is left out or not allowed.

    One observation a site: its balancers know all of it.
    """
    if site is not None:
        context.topology.site(names.check(site, "site"))
    sites = list(context.topology.sites) if site is None else [site]
    seen = {name: context.cluster.observe(name, None, servers=False) for name in sites}
    now = context.clock.time()
    with context.journal() as journal:
        held = [_lease(context, row) for row in holders(journal.connection) if row["site"] in sites]
        unfinished = [
            _unfinished(context, journal, run)
            for run in journal.unfinished()
            if set(run["run"].sites) & set(sites)
        ]
        left_out = [
            entry
            for entry in journal.quarantined(site)
            if entry["site"] in sites and not _serves(context, seen[entry["site"]], entry)
        ]
        bad = journal.bad()
    data: Data = {
        "target": context.topology.target,
        "sites": {name: _farms(context, name, seen[name]) for name in sites},
        "held": held,
        "unfinished": unfinished,
        "quarantined": {
            f"{entry['site']} {entry['farm']} {entry['server']}": entry["why"] for entry in left_out
        },
        "bad": {release: f"{mark['why']} ({mark['who']})" for release, mark in bad.items()},
        "closed": {
            name: why
            for name in sites
            if (why := windows.closed(context.topology.site(name).policy, now))
        },
    }
    if left_out:
        data["next"] = [_server_command(entry) for entry in left_out]
    return data


def history(
    context: Context, limit: object = 20, id: object = None, rollout: object = None
) -> Data:
    """The latest runs; or one with its steps and their evidence; or one farm's rollout with its."""
    with context.journal() as journal:
        if rollout is not None:
            return _rollout(journal, arguments.number(rollout, "rollout"))
        if id is None:
            runs = journal.runs(arguments.number(limit, "limit"))
            return {"runs": [plain(run) for run in runs]}
        run = journal.run(arguments.number(id, "id"))
        rollouts = journal.rollouts(10_000, run["id"])[::-1]
        return {
            **plain(run),
            "policy": dict(run["run"].policy),
            "override": run["run"].override,
            "steps": journal.run_steps(run["id"]),
            "rollouts": [{**row, "steps": journal.steps(row["id"])} for row in rollouts],
            "records": [
                record
                for record in journal.records(10_000)[::-1]
                if record["data"].get("run") == run["id"]
            ],
        }


def watch(context: Context, id: object = None) -> Data:
    """Follow a run until it ends or pauses; its data, and so its exit code, are the run's."""
    with context.journal() as journal:
        number = the_run(journal, id, ended=True)["id"]
        run = journal.run(number)["run"]
        context.watcher.expects(approvals(run, in_force(context.topology, run, strict=False)))
        follower = Follower(journal, number, context.watcher)
        alone = 0  # looks in a row that found nobody at it
        while True:
            follower.look(context.clock.time())
            row = journal.run(number)
            if row["state"] != "running":
                follower.finish(row)
                return {"result": False, "run": number, **(row["outcome"] or {})}
            alone = 0 if conducted(context, journal, row) else alone + 1
            if alone > 1:
                return {
                    "result": False,
                    **plain(row),
                    "message": f"nobody conducts run {number} any more: its process is gone",
                    "next": f"salt-run upgrade.resume {number}",
                }
            if context.interrupted():
                return {"result": True, **plain(row), "message": f"run {number} goes on"}
            context.clock.sleep(LOOK_SECONDS)


def the_run(journal: Journal, id: object, ended: bool = False) -> Data:
    """The run with this number, or the only one that has not ended.

    ended
        One that has ended will do, when it is named.

    Raises :class:`WebfarmError` that lists the unfinished runs where none or several could be
    meant.
    """
    unfinished = journal.unfinished()
    if id is not None:
        run = journal.run(arguments.number(id, "id"))
        if ended or run["state"] in ("running", "paused"):
            return run
        shown = _listed(unfinished)
        raise WebfarmError(f"run {run['id']} has ended: {run['state']}. {shown}")
    if len(unfinished) == 1:
        return unfinished[0]
    raise WebfarmError(f"which run? {_listed(unfinished)}; see `salt-run upgrade.history`")


def _listed(unfinished: Sequence[Data]) -> str:
    if not unfinished:
        return "No run is unfinished"
    shown = [f"{run['id']} ({described(run['run'])}, {run['state']})" for run in unfinished]
    return f"Unfinished: {'; '.join(shown)}"


def plain(run: Mapping[str, Any]) -> Data:
    """A run of the journal as data for a person or a program."""
    kept = ("id", "kind", "state", "scope", "release", "holder", "host", "started", "ended")
    outcome = run["outcome"] or {}
    return {
        **{key: run[key] for key in kept},
        "what": described(run["run"]),
        "message": outcome.get("message", ""),
    }


def conducted(context: Context, journal: Journal, run: Mapping[str, Any]) -> bool:
    """A live process holds the run's sites."""
    return run["state"] == "running" and any(
        row["site"] in run["run"].sites and alive(row, context.clock, context.process, context.dead)
        for row in holders(journal.connection)
    )


# -- parts of the status ---------------------------------------------------------------------------


def _farms(context: Context, site: str, seen: Seen) -> Data:
    plan = context.topology.site(site)
    return {
        farm: describe(
            Situation(Goal(site, farm, context.topology.target, "", ""), plan, seen, Memory())
        )
        for farm in plan.farms
    }


def _lease(context: Context, row: Any) -> Data:
    lives = alive(row, context.clock, context.process, context.dead)
    return {
        **{key: row[key] for key in ("site", "holder", "host", "pid", "doing", "token")},
        "since": utc(row["since"]),
        "expires": utc(row["expires"]),
        "last_heartbeat": utc(row["expires"] - row["seconds"]),
        "alive": lives,
        **({} if lives else {"next": "anybody may take over: salt-run upgrade.resume"}),
    }


def _unfinished(context: Context, journal: Journal, run: Mapping[str, Any]) -> Data:
    number = run["id"]
    lives = conducted(context, journal, run)
    if lives:
        waits = f"now: {_step(journal, number)}"
        todo = ["watch", "pause", "abort", "rollback"]
    else:
        waits = plain(run)["message"] or "its process is gone: nobody goes on with it"
        todo = ["resume", "abort", "rollback"]
    data: Data = {**plain(run), "message": waits, "conducted": lives}
    if run["wish"]:
        data["wished"] = f"to be {run['wish']}"
    if run["waits"] is not None:
        data["approval"] = approval(context, run)
    data["next"] = [f"salt-run upgrade.{command} {number}" for command in todo]
    return data


def _step(journal: Journal, run: int) -> str:
    """The step that runs now, and why."""
    for rollout in journal.rollouts(1, run):
        for step in journal.steps(rollout["id"])[-1:]:
            if step["state"] == "intended":
                return f"{rollout['site']} {rollout['farm']}: {step['name']}: {step['why']}"
    for step in journal.run_steps(run)[-1:]:
        if step["state"] == "intended":
            return f"{step['name']}: {step['why']}"
    return "between two steps"


def approval(context: Context, run: Mapping[str, Any]) -> str:
    """Who may let the run pass the point at which it waits."""
    goal = run["run"].goals[run["waits"]]
    users = approvers(context, run)
    return f"before {goal.site} {goal.farm}, by {' or '.join(users) if users else 'anybody'}"


def approvers(context: Context, run: Mapping[str, Any]) -> tuple[str, ...]:
    """The users of whom one must say yes; none: anybody may.

    Those of the site whose policy asks for it: the one of the farm before the point.
    """
    return context.topology.site(run["run"].goals[run["waits"] - 1].site).policy.approvers


def _serves(context: Context, seen: Seen, entry: Mapping[str, Any]) -> bool:
    """Every balancer has the server in service by now, or the pillar does not have it any more."""
    farms = context.topology.site(entry["site"]).farms
    if entry["farm"] not in farms or entry["server"] not in farms[entry["farm"]].servers:
        return True
    views = [view.farms.get(entry["farm"]) for view in seen.balancers.values() if view.answered]
    at = [farm.servers.get(entry["server"]) if farm else None for farm in views]
    return len(at) == len(seen.balancers) and all(
        one and one.healthy and not one.withheld for one in at
    )


def _server_command(entry: Mapping[str, Any]) -> str:
    return f"salt-run upgrade.server {entry['site']} {entry['farm']} {entry['server']}"


def _rollout(journal: Journal, number: int) -> Data:
    found = [row for row in journal.rollouts(1_000_000) if row["id"] == number]
    if not found:
        raise WebfarmError(f"there is no rollout {number}; see `salt-run upgrade.history`")
    return {**found[0], "steps": journal.steps(number)}
