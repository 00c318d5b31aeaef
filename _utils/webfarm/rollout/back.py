"""Take a run's farms, or one farm, back to the release that they had; sessions are reset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from webfarm.errors import WebfarmError
from webfarm.rollout import arguments, sessions
from webfarm.rollout.commands import refuse_bad
from webfarm.rollout.conduct import conduct
from webfarm.rollout.context import Context
from webfarm.rollout.control import leave, resume
from webfarm.rollout.model import Before, FarmAtBalancer, Run, Wish, listed
from webfarm.rollout.status import Data, conducted, plain, the_run
from webfarm.rollout.waves import commands as waves

Looks = Mapping[tuple[str, str], list[FarmAtBalancer] | None]


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
        if run["kind"] == "os":
            return waves.rollback(context, run, wish)
        if run["kind"] != "upgrade":
            raise WebfarmError(
                f"run {number} is a {run['kind']}, only an upgrade can be taken back; "
                "nothing was changed"
            )
        touched = [Touched(*found) for found in journal.finished(number)]
        begun = [other for other in journal.unfinished() if other["run"].undoes == number]
        live = conducted(context, journal, run)
    now = _looks(context, touched)
    away = [farm for farm in touched if farm.away(now)]
    if any(live or farm.opened(now) for farm in away):
        _agreed(context, [farm.goes_to for farm in away], reset, str(number))
    if run["state"] in ("running", "paused"):
        return leave(context, run, wish)
    if begun:
        return resume(context, begun[0]["id"])
    if not away:
        message = f"every farm that run {number} changed is on the release that it had"
        return {**plain(run), "result": True, "message": message}
    _still_there(run["run"], away, now)
    goals = [
        context.goals([(farm.site, farm.name)], farm.before.release, True)[0] for farm in away[::-1]
    ]
    back = Run("rollback", tuple(goals), run["run"].policy, undoes=number)
    refuse_bad(context, back)
    return conduct(context, back)


@dataclass(frozen=True)
class Touched:
    """A farm that a run took out of service, as it was before."""

    site: str
    name: str
    before: Before

    @property
    def goes_to(self) -> tuple[str, str, str]:
        """Site, farm and the release that it had."""
        return self.site, self.name, self.before.release

    def away(self, now: Looks) -> bool:
        """It is not on the release that it had, as far as is known."""
        at = now[self.site, self.name]
        return at is None or any(one.release != self.before.release for one in at)

    def opened(self, now: Looks) -> bool:
        """Sessions may have seen the other release: a farm opens with a new generation only."""
        at = now[self.site, self.name]
        return at is None or any(one.generation > self.before.generation for one in at)


def _looks(context: Context, touched: Sequence[Touched]) -> Looks:
    """Each farm as each balancer has it; None where one is silent. One look a site."""
    found: dict[tuple[str, str], list[FarmAtBalancer] | None] = {}
    for site in dict.fromkeys(farm.site for farm in touched):
        views = context.cluster.observe(site, None, servers=False).balancers.values()
        for name in (farm.name for farm in touched if farm.site == site):
            known = all(view.answered and name in view.farms for view in views)
            found[site, name] = [view.farms[name] for view in views] if known else None
    return found


def _still_there(run: Run, away: Sequence[Touched], now: Looks) -> None:
    """Raise when a farm was taken elsewhere since: that run must be taken back first."""
    targets = {(goal.site, goal.farm): goal.release for goal in run.goals}
    elsewhere = [
        f"{farm.name} of {farm.site} is on {one.release}"
        for farm in away
        for one in now[farm.site, farm.name] or ()
        if one.release not in (farm.before.release, targets.get((farm.site, farm.name)))
    ]
    if elsewhere:
        raise WebfarmError(
            f"since that run other releases came: {listed(list(dict.fromkeys(elsewhere)))}; take "
            "those runs back first, see `salt-run upgrade.history`; nothing was changed"
        )


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
