"""What starts a run, and the plan of one: data in, data out; the world is handed in."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from webfarm import names
from webfarm.certificates import gate
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments, estimate, windows
from webfarm.rollout import plan_id as plan_id_
from webfarm.rollout.approvals import approvals
from webfarm.rollout.conduct import conduct
from webfarm.rollout.context import Context
from webfarm.rollout.engine import command, describe
from webfarm.rollout.journal_runs import asks_the_same
from webfarm.rollout.model import BalancerView, Goal, InService, Memory, Run, Seen, listed
from webfarm.rollout.outline import Foreseen, outline
from webfarm.rollout.preflight import load_without, percent
from webfarm.rollout.report import utc
from webfarm.rollout.run import again, in_force
from webfarm.rollout.situation import Situation
from webfarm.topology import Site

Seens = Mapping[tuple[str, str], Seen]


def plan(
    context: Context,
    site: str | None = None,
    farm: str | None = None,
    release: str | None = None,
    order: object = None,
    policy: object = None,
    reset_sessions: bool = False,
) -> dict[str, Any]:
    """The steps of every farm in the scope, each farm as the one before it leaves the site."""
    run = wanted(context, site, farm, release, order, policy, None, reset_sessions)
    run, uncertified = gate.refusal(context, run)
    sites = in_force(context.topology, run)
    seen = observe(context, run)
    run = run if order is not None else arrange(context, run, seen)
    with context.journal() as journal:
        took = estimate.lately(journal)
        bad = journal.bad().get(run.goals[0].release)
    plans, spent, lowest = [], 0.0, 1.0
    balancers: dict[str, Mapping[str, BalancerView]] = {}
    for number, goal in enumerate(run.goals):
        at = seen[goal.site, goal.farm]
        now = Seen(balancers.get(goal.site, at.balancers), at.servers)
        canary = number == 0 and len(run.goals) > 1
        foreseen, end, after = outline(goal, _watched(sites[goal.site], canary), now)
        balancers[goal.site] = after.balancers
        plans.append(_planned(goal, sites[goal.site], now, foreseen, end))
        spent += estimate.seconds((one.step for one in foreseen), took)
        lowest = min([lowest, *(one.capacity for one in foreseen)])
    for number, approval in approvals(run, sites).items():
        plans[number]["approval"] = approval
    for planned in plans if uncertified else ():
        planned["refused"] = [*planned.get("refused", ()), uncertified]
    id_ = plan_id_.plan_id(run.goals, sites, seen)
    possible = bad is None and all("refused" not in planned for planned in plans)
    data = {
        "result": possible,
        "changes": "nothing: this is a plan",
        "plan_id": id_,
        "policy": {name: _policy(context, sites[name], name) for name in run.sites},
        "staging": _staging(run, seen),
        "lowest_capacity": percent(lowest),
        "estimate": estimate.text(spent),
        "farms": plans,
    }
    if possible and any(planned["steps"] for planned in plans):
        data["next"] = _command(context, run, site, farm, id_)
    if bad is not None:
        data["message"] = bad_words(run.goals[0].release, bad)
    elif uncertified:
        data["message"] = uncertified
    return data


def upgrade(
    context: Context,
    site: str | None = None,
    farm: str | None = None,
    release: str | None = None,
    order: object = None,
    policy: object = None,
    plan_id: str | None = None,
    override: object = None,
    reset_sessions: bool = False,
    force: object = None,
) -> dict[str, Any]:
    """Take a farm, a site (no ``farm``) or all sites (no ``site``) to a release."""
    if plan_id is not None:
        names.check(plan_id, "plan_id")
    run = wanted(context, site, farm, release, order, policy, override, reset_sessions)
    sites = in_force(context.topology, run)
    refuse_bad(context, run)
    run = gate.admit(context, run, force)
    if plan_id is not None or (order is None and len(run.goals) > 1):
        seen = observe(context, run, servers=plan_id is not None)
        run = run if order is not None else arrange(context, run, seen)
        if plan_id is not None:
            plan_id_.confirm(plan_id, plan_id_.plan_id(run.goals, sites, seen))
    return conduct(context, run)


def wanted(
    context: Context,
    site: str | None,
    farm: str | None,
    release: str | None,
    order: object,
    policy: object,
    override: object,
    reset_sessions: bool,
) -> Run:
    """The run that the arguments name; raises before anything is asked or changed."""
    places = arguments.ordered(order, context.scope(site, farm))
    goals = context.goals(places, release, reset_sessions)
    return Run(
        "upgrade",
        goals,
        arguments.overrides(policy),
        arguments.reason(override, "override"),
    )


def arrange(context: Context, run: Run, seen: Seens) -> Run:
    """The run in the order that suits what is seen, where the operator did not name one.

    Within a site first the farms that are on the release already: there is nothing to do but to
    bring back servers, which the others may need to do without a farm. Then those of the lowest
    generation, in the pillar's order: the sessions of a farm may only go to one of its own
    generation or a higher one, so a farm that is ahead of the others cannot be taken before them.
    A run that is to be taken up keeps its order.
    """
    with context.journal() as journal:
        for other in journal.unfinished():
            if asks_the_same(other["run"], run):
                at = {(goal.site, goal.farm): n for n, goal in enumerate(other["run"].goals)}
                goals = sorted(run.goals, key=lambda goal: at[goal.site, goal.farm])
                return replace(run, goals=tuple(goals))

    def place(goal: Goal) -> tuple[int, bool, int]:
        views = seen[goal.site, goal.farm].balancers.values()
        at = [view.farms[goal.farm] for view in views if goal.farm in view.farms]
        there = {farm.release for farm in at} == {goal.release}
        generation = max((farm.generation for farm in at), default=0)
        return run.sites.index(goal.site), not there, generation

    return replace(run, goals=tuple(sorted(run.goals, key=place)))


def refuse_bad(context: Context, run: Run) -> None:
    """Raise when a release of the run is marked bad: who did, when, why."""
    with context.journal() as journal:
        marked = journal.bad()
    for release in dict.fromkeys(goal.release for goal in run.goals):
        if release in marked:
            raise WebfarmError(bad_words(release, marked[release]))


# -- what is seen --------------------------------------------------------------------------------


def observe(context: Context, run: Run, servers: bool = True) -> Seens:
    """What is seen of each site and, of its servers, of each farm; one observation a site."""
    seen = {}
    for site in run.sites:
        farms = [goal.farm for goal in run.goals if goal.site == site]
        view = context.cluster.observe(site, farms[0] if len(farms) == 1 else None, servers)
        for farm in farms:
            members = context.topology.farm(site, farm).servers
            own = {name: view.servers[name] for name in members if name in view.servers}
            seen[site, farm] = Seen(view.balancers, own)
    return seen


def _watched(site: Site, canary: bool) -> Site:
    """The site with the soak of a canary, where the farm is one."""
    soak = {"soak_seconds": site.policy.soak(canary)}
    return site.model_copy(update={"policy": site.policy.model_copy(update=soak)})


# -- data ----------------------------------------------------------------------------------------


def _planned(
    goal: Goal, site: Site, seen: Seen, foreseen: Sequence[Foreseen], end: Any
) -> dict[str, Any]:
    data: dict[str, Any] = {"site": goal.site, "farm": goal.farm, "release": goal.release}
    data["now"] = describe(Situation(goal, site, seen, Memory()))
    if isinstance(end, InService) and not foreseen:
        data["steps"] = []
        data["end"] = "nothing to do"
    elif isinstance(end, InService):
        lowest = min(step.capacity for step in foreseen)
        data["steps"] = [_foreseen(number, step) for number, step in enumerate(foreseen, 1)]
        load = load_without(Situation(goal, site, seen, Memory()))
        data["load_without"] = percent(load) if math.isfinite(load) else "without end"
        data["lowest_capacity"] = percent(lowest)
        data["end"] = f"in service on {goal.release}"
        data["command"] = command(goal)
    else:
        data["refused"] = list(end.reasons)
    if isinstance(end, InService) and end.left_out:
        data["left_out"] = dict(end.left_out)
    return data


def _foreseen(number: int, foreseen: Foreseen) -> dict[str, Any]:
    step = foreseen.step
    return {
        "step": f"{number} {step.name}",
        "targets": listed(step.targets),
        "why": step.why,
        "at_most": "without end" if step.deadline is None else f"{step.deadline:g} s",
        "capacity": percent(foreseen.capacity),
    }


def _policy(context: Context, site: Site, name: str) -> dict[str, Any]:
    known = context.topology.site(name).policy.model_dump(mode="json", by_alias=True)
    force = site.policy.model_dump(mode="json", by_alias=True)
    return {
        "in_force": force,
        "overridden": {key: known[key] for key in force if force[key] != known[key]},
        "closed": windows.closed(site.policy, context.clock.time()),
    }


def _command(context: Context, run: Run, site: str | None, farm: str | None, plan_id: str) -> str:
    """What to type to do as planned."""
    words = [again(run)]
    places = [(goal.site, goal.farm) for goal in run.goals]
    if places != context.scope(site, farm):
        words.append("order=" + ",".join("/".join(place) for place in places))
    if run.policy:
        words.append("policy=" + shlex.quote(json.dumps(run.policy)))
    if run.goals[0].reset_sessions and "reset_sessions" not in words[0]:
        words.append("reset_sessions=True")
    return " ".join([*words, f"plan_id={plan_id}"])


def _staging(run: Run, seen: Seens) -> str:
    """How much of the scope has the release's trees already."""
    views = [
        (goal, view) for goal in run.goals for view in seen[goal.site, goal.farm].servers.values()
    ]
    silent = sum(not view.answered for _, view in views)
    lacking = sum(view.answered and not view.has(goal.php, goal.webapp) for goal, view in views)
    said = (
        f"{lacking} of {len(views)} servers get the trees first, while all are in service"
        if lacking
        else f"all of {len(views)} servers that answer have the trees"
    )
    return said + (f"; {silent} do not answer" if silent else "")


def bad_words(release: str, mark: Mapping[str, Any]) -> str:
    """Why a release that is marked bad is refused."""
    return (
        f"{release} was marked bad by {mark['who']} at {utc(mark['at'])}: {mark['why']}. Nothing "
        f"was changed; `salt-run upgrade.good {release} reason='…'` takes the mark back"
    )
