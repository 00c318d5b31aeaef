"""What an operator does to a run; safe at any time and from another shell.

A run that a live process conducts is told what is wanted of it, through the journal; one that
nobody conducts is taken up here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments, lease
from webfarm.rollout.conduct import conduct
from webfarm.rollout.context import Context
from webfarm.rollout.journal import Journal
from webfarm.rollout.model import Wish
from webfarm.rollout.run import in_force
from webfarm.rollout.status import Data, approval, approvers, conducted, plain, the_run


def pause(context: Context, id: object = None, reason: object = None) -> Data:
    """Let a run end after its current step, to be resumed."""
    wish = Wish("pause", context.holder, arguments.reason(reason))
    now = context.clock.time()
    with context.journal() as journal:
        run = the_run(journal, id)
        if conducted(context, journal, run):
            return _told(journal, run, wish, now)
        if run["state"] == "running":  # its process is gone
            message = f"{wish}; nobody conducted it any more"
            data = {"result": False, "state": "paused", "run": run["id"], "message": message}
            journal.end_run(run["id"], "paused", data, now)
            journal.record("pause", wish.by, wish.why, {"run": run["id"]}, now)
        return {
            **plain(journal.run(run["id"])),
            "result": True,
            "next": f"salt-run upgrade.resume {run['id']}",
        }


def resume(context: Context, id: object = None, override: object = None) -> Data:
    """Go on with a run; that also passes the approval that it waits for."""
    why = arguments.reason(override, "override")
    with context.journal() as journal:
        run = the_run(journal, id)
        if conducted(context, journal, run):
            raise WebfarmError(
                f"run {run['id']} goes on already, conducted by {run['holder']} on {run['host']}; "
                f"`salt-run upgrade.watch {run['id']}` shows it"
            )
        for goal in run["run"].goals:
            context.known(goal)
        _still_allowed(context, run)
        if run["waits"] is not None:
            _may_approve(context, run)
            journal.approve(run["id"], context.holder, context.clock.time())
    wanted = replace(run["run"], override=why) if why else run["run"]
    return conduct(context, wanted)


def abort(context: Context, id: object = None, reason: object = None) -> Data:
    """End a run: a farm that has not begun to open goes back into service as it was."""
    wish = Wish("abort", context.holder, arguments.reason(reason))
    with context.journal() as journal:
        run = the_run(journal, id)
    return leave(context, run, wish)


def leave(context: Context, run: Mapping[str, Any], wish: Wish) -> Data:
    """Tell the process that conducts the run, or do it here when there is none."""
    with context.journal() as journal:
        if conducted(context, journal, run):
            return _told(journal, run, wish, context.clock.time())
    data = conduct(context, run["run"], wish)
    return {**data, "result": data["result"] or data["state"] in ("aborted", "rolled_back")}


def _told(journal: Journal, run: Mapping[str, Any], wish: Wish, now: float) -> Data:
    number = run["id"]
    if not journal.wish(number, wish, now):
        return {**plain(journal.run(number)), "result": True}  # it ended at this very moment
    return {
        **plain(journal.run(number)),
        "result": True,
        "message": f"run {number} will be {wish}: {run['holder']} on {run['host']} conducts it and "
        "has been told; a step that has begun ends first",
        "next": f"salt-run upgrade.watch {number}",
    }


def _still_allowed(context: Context, run: Mapping[str, Any]) -> None:
    try:
        in_force(context.topology, run["run"])
    except WebfarmError as error:
        raise WebfarmError(
            f"run {run['id']} cannot go on as it was asked for, the pillar has changed since: "
            f"{error}\nAsk for the same again with another policy= or none, or end it: `salt-run "
            f"upgrade.abort {run['id']}`"
        ) from error


def _may_approve(context: Context, run: Mapping[str, Any]) -> None:
    users = approvers(context, run)
    if users and context.holder not in users:
        raise WebfarmError(
            f"run {run['id']} waits for an approval {approval(context, run)}; you are "
            f"{context.holder}. Nothing was changed"
        )


# -- locks and marks -------------------------------------------------------------------------------


def unlock(context: Context, site: str, reason: object = None) -> Data:
    """Take a site's lease away from who holds it; recorded with the reason."""
    context.topology.site(site)
    why = arguments.reason(reason, needed=True)
    with context.journal() as journal:
        done = lease.unlock(journal.connection, site, context.holder, why, context.clock)
        left = [run["id"] for run in journal.unfinished(site)]
    todo = [f"salt-run upgrade.resume {number}" for number in left]
    message = f"{site} is free; what {done['was']['holder']} still sends is refused"
    return {"result": True, **done, "message": message, **({"next": todo} if todo else {})}


def bad(context: Context, release: str, reason: object = None) -> Data:
    """Refuse a release from now on; recorded with the reason."""
    context.topology.release(release)
    why = arguments.reason(reason, needed=True)
    with context.journal(make=True) as journal:
        journal.mark_bad(release, context.holder, why, context.clock.time())
    return {"result": True, "release": release, "message": f"{release} is refused from now on"}


def good(context: Context, release: str, reason: object = None) -> Data:
    """Take the mark back; recorded with the reason."""
    names.check(release, "release")
    why = arguments.reason(reason, needed=True)
    with context.journal() as journal:
        journal.unmark_bad(release, context.holder, why, context.clock.time())
    return {"result": True, "release": release, "message": f"{release} may be used again"}
