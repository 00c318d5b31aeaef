"""Take a run's farms, or one farm, back to the release that they had; sessions are reset."""

from collections.abc import Sequence

from webfarm.errors import WebfarmError
from webfarm.rollout import arguments, sessions
from webfarm.rollout.commands import refuse_bad
from webfarm.rollout.conduct import conduct
from webfarm.rollout.context import Context
from webfarm.rollout.control import leave, resume
from webfarm.rollout.model import Run, Wish, listed
from webfarm.rollout.status import Data, plain, the_run


def rollback(
    context: Context,
    id: object = None,
    site: str | None = None,
    farm: str | None = None,
    release: str | None = None,
    reset_sessions: bool = False,
    reason: object = None,
) -> Data:
    """Take the farms of a run, or one farm, back to the release that each had before."""
    reset = arguments.switch(reset_sessions, "reset_sessions")
    wish = Wish("rollback", context.holder, arguments.reason(reason))
    if site is not None or farm is not None:
        return _farm_back(context, id, site, farm, release, reset)
    if release is not None:
        raise WebfarmError(
            "release= is for one farm: salt-run upgrade.rollback site=SITE farm=FARM release=R; "
            "the farms of a run go back to the release that each had; nothing was changed"
        )
    with context.journal() as journal:
        run = the_run(journal, id, ended=True)
        number = run["id"]
        if run["kind"] != "upgrade":
            raise WebfarmError(
                f"run {number} is a {run['kind']}, only an upgrade can be taken back; "
                "nothing was changed"
            )
        had = [(site, farm, before.release) for site, farm, before in journal.finished(number)]
        begun = [other for other in journal.unfinished() if other["run"].undoes == number]
    if had:
        _agreed(context, had, reset, str(number))
    if run["state"] in ("running", "paused"):
        return leave(context, run, wish)
    if begun:
        return resume(context, begun[0]["id"])
    if not had:
        return {**plain(run), "result": True, "message": f"run {number} changed no farm"}
    _still_there(context, run["run"], had)
    goals = [context.goals([(site, farm)], release, True)[0] for site, farm, release in had[::-1]]
    back = Run("rollback", tuple(goals), run["run"].policy, undoes=number)
    refuse_bad(context, back)
    return conduct(context, back)


def _farm_back(
    context: Context,
    id: object,
    site: str | None,
    farm: str | None,
    release: str | None,
    reset: bool,
) -> Data:
    if id is not None or site is None or farm is None:
        raise WebfarmError(
            "name either a run or one farm: salt-run upgrade.rollback ID, or site=SITE "
            "farm=FARM; nothing was changed"
        )
    context.topology.farm(site, farm)
    named = "" if release is None else f" release={release}"
    goals = context.goals([(site, farm)], release or _release_before(context, site, farm), True)
    run = Run("rollback", goals)
    refuse_bad(context, run)
    _agreed(context, [(site, farm, goals[0].release)], reset, f"site={site} farm={farm}{named}")
    return conduct(context, run)


def _release_before(context: Context, site: str, farm: str) -> str:
    """The release that the farm had before its last rollout that changed it."""
    with context.journal() as journal:
        for rollout in journal.rollouts(10_000):
            at = (rollout["site"], rollout["farm"], rollout["server"])
            before = rollout["before"]
            if at == (site, farm, None) and before and before["release"] != rollout["release"]:
                return str(before["release"])
    raise WebfarmError(
        f"the journal does not say which release {farm} of {site} had before; name it: salt-run "
        f"upgrade.rollback site={site} farm={farm} release=R; nothing was changed"
    )


def _still_there(context: Context, run: Run, had: Sequence[tuple[str, str, str]]) -> None:
    """Raise when a farm was taken elsewhere since: that run must be taken back first."""
    elsewhere = []
    for site in dict.fromkeys(site for site, _, _ in had):
        farms = {farm: release for s, farm, release in had if s == site}
        seen = context.cluster.observe(site, next(iter(farms)), servers=False)
        for view in seen.balancers.values():
            for farm, before in farms.items():
                now = view.farms[farm].release if farm in view.farms else before
                target = next(g.release for g in run.goals if (g.site, g.farm) == (site, farm))
                if now not in (before, target):
                    elsewhere.append(f"{farm} of {site} is on {now}")
    if elsewhere:
        raise WebfarmError(
            f"since that run other releases came: {listed(list(dict.fromkeys(elsewhere)))}; take "
            "those runs back first, see `salt-run upgrade.history`; nothing was changed"
        )


def _agreed(context: Context, had: Sequence[tuple[str, str, str]], reset: bool, words: str) -> None:
    """Raise unless the operator accepts that sessions are reset; say how many."""
    if reset:
        return
    counted = sessions.newer(context.cluster, context.topology, had)
    raise WebfarmError(
        f"going back to {listed(sorted({release for _, _, release in had}))} resets the sessions "
        f"that a newer release has answered: {counted}. PHP gives them a new id, what was in them "
        f"is lost. Nothing was changed; salt-run upgrade.rollback {words} reset_sessions=True "
        "does it"
    )
