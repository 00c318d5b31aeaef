"""``upgrade.os``: what starts a run of waves, its plan, and what takes one back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments, estimate, windows
from webfarm.rollout import plan_id as plan_id_
from webfarm.rollout.approvals import approvals
from webfarm.rollout.conduct import conduct
from webfarm.rollout.context import Context
from webfarm.rollout.control import leave, resume
from webfarm.rollout.model import Goal, InService, Refused, Run, Seen, Stuck, Wish, listed
from webfarm.rollout.preflight import percent
from webfarm.rollout.run import again, in_force
from webfarm.rollout.status import conducted, plain
from webfarm.rollout.waves import online, request
from webfarm.rollout.waves.back import goals_back
from webfarm.rollout.waves.outline import outline
from webfarm.rollout.waves.situation import WaveSituation
from webfarm.rollout.waves.values import WaveMemory
from webfarm.topology import Site

Data = dict[str, Any]
Seens = Mapping[tuple[str, str], Seen]


def upgrade_os(
    context: Context,
    site: object,
    packages: object,
    kind: object,
    reboot: object = "auto",
    policy: object = None,
    plan: object = False,
    plan_id: str | None = None,
    override: object = None,
    force: object = None,
) -> Data:
    """Packages of the operating system on every server of a site, or of all."""
    if plan_id is not None:
        names.check(plan_id, "plan_id")
    shows = arguments.switch(plan, "plan")
    why = arguments.reason(force, "force", force is not None)
    in_service = request.kind_of(kind) == "online"
    run = request.run_of(context, site, packages, reboot, policy, override, why, in_service)
    sites = in_force(context.topology, run)
    if in_service:
        words = run.goals[0].wave.packages if run.goals[0].wave else ()
        online.refuse_disruptive(request.pretended(context, sites, words))
    if shows or plan_id is not None:
        seen = observe(context, run)
        now = plan_id_.plan_id(run.goals, sites, seen)
        if shows:
            return _plan(context, run, sites, seen, now)
        plan_id_.confirm(str(plan_id), now)
    known = request.same(context, run)
    if known is not run:
        run = replace(known, policy=run.policy, override=run.override)
    data = conduct(context, run)
    if in_service and data["state"] in ("done", "nothing"):
        data["deleted"] = online.deleted(context, sites)
    return data


def observe(context: Context, run: Run) -> Seens:
    """What is seen of each wave's site and members."""
    seen = {}
    for goal in run.goals:
        assert goal.wave is not None
        members = list(goal.wave.members)
        wanted = sorted({name for one in goal.wave.expected.values() for name in one})
        seen[goal.site, goal.farm] = context.cluster.observe_members(
            goal.site, members, {"packages": wanted}
        )
    return seen


def _plan(context: Context, run: Run, sites: Mapping[str, Site], seen: Seens, id_: str) -> Data:
    with context.journal() as journal:
        took = estimate.lately(journal)
    plans, spent, lowest = [], 0.0, 1.0
    for goal in run.goals:
        planned, seconds, least = _wave(goal, sites[goal.site], seen[goal.site, goal.farm], took)
        plans.append(planned)
        spent += seconds
        lowest = min(lowest, least)
    for number, by in approvals(run, sites).items():
        plans[number]["approval"] = by
    possible = all("refused" not in one for one in plans)
    closed = {
        n: why for n in sites if (why := windows.closed(sites[n].policy, context.clock.time()))
    }
    data: Data = {
        "result": possible,
        "changes": "nothing: this is a plan",
        "kind": _kind(run.goals[0]),
        "packages": _packages(run.goals[0]),
        "plan_id": id_,
        "closed": closed,
        "lowest_capacity": percent(lowest),
        "estimate": estimate.text(spent),
        "waves": plans,
    }
    if possible and any(one["steps"] for one in plans):
        data["next"] = f"{again(run)} plan_id={id_}"
    return data


def _kind(goal: Goal) -> str:
    if goal.wave and goal.wave.online:
        return "online: nothing leaves service"
    return "disruptive: one server of each farm at a time leaves service"


def _packages(goal: Goal) -> Data:
    assert goal.wave is not None
    return {
        profile: {name: one["to"] for name, one in sorted(packages.items())}
        for profile, packages in goal.wave.expected.items()
    }


def _wave(goal: Goal, site: Site, seen: Seen, took: dict[str, float]) -> tuple[Data, float, float]:
    assert goal.wave is not None
    steps, end, _ = outline(goal, site, seen)
    data: Data = {"site": goal.site, "wave": goal.wave.number, "servers": {}, "steps": []}
    if isinstance(end, (Refused, Stuck)):
        data["refused"] = list(end.reasons)
        return data, 0.0, 1.0
    now = WaveSituation(goal, site, seen, WaveMemory())
    members = now.todo
    data["servers"] = list(goal.wave.members)
    data["nothing_to_do"] = [n for n in now.farms if n not in members and n not in now.skipped]
    data["steps"] = [f"{n} {one.step.name}" for n, one in enumerate(steps, 1)]
    if goal.wave.online:
        return data, estimate.seconds((one.step for one in steps), took), 1.0
    data["capacity"] = {
        f"{now.farms[name]} without {name}": percent(now.keeps(now.farms[name], [name]))
        for name in members
    }
    least = now.site_keeps(members)
    data["capacity"][f"{goal.site} without them"] = percent(least)
    caches = _caches(now, members)
    if caches:
        data["memcached"] = (
            f"{listed(caches)}: its share of the farm's cache is lost, the sessions in it come "
            "from the database"
        )
    if isinstance(end, InService) and now.skipped:
        data["left_out"] = dict(now.skipped)
    return data, estimate.seconds((one.step for one in steps), took), least


def _caches(now: WaveSituation, members: list[str]) -> list[str]:
    """The memcached members on these servers."""
    return [
        member
        for name in members
        for member in now.site.farms[now.farms[name]].memcached
        if member.rpartition(":")[0] == now.plan(name).address
    ]


# -- back ------------------------------------------------------------------------------------------


def _installed(run: Run) -> Data:
    found: Data = {}
    for goal in run.goals:
        for packages in goal.wave.expected.values() if goal.wave else ():
            found |= packages
    return found


def rollback(context: Context, row: Mapping[str, Any], wish: Wish) -> Data:
    """Each server that a run of waves touched, back to its snapshot of before."""
    number, run = row["id"], row["run"]
    if any(goal.wave and goal.wave.online for goal in run.goals):
        raise WebfarmError(
            f"run {number} was online: it took no snapshots, so the only way back are other "
            f"versions of {listed(sorted(_installed(run)))}; certify NAME=VERSION and install that "
            "with `salt-run upgrade.os`. Nothing was changed"
        )
    if row["state"] in ("running", "paused"):
        return leave(context, row, wish)
    with context.journal() as journal:
        begun = [other for other in journal.unfinished() if other["run"].undoes == number]
        goals = goals_back(run, journal.finished(number))
        live = conducted(context, journal, row)
    if begun:
        return resume(context, begun[0]["id"])
    if not goals or live:
        message = f"run {number} changed the packages of no server"
        return {**plain(row), "result": True, "message": message}
    for goal in goals:
        context.known(goal)
    return conduct(context, Run("rollback", goals, run.policy, undoes=number))
