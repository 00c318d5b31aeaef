"""Back into service: verify, ``ready`` on every balancer, read back, then ``open`` on each."""

from webfarm.rollout import steps
from webfarm.rollout.model import Next, Step, Stuck, listed
from webfarm.rollout.preflight import too_many
from webfarm.rollout.situation import Situation

VERIFY_SECONDS = 60.0


def prove(now: Situation) -> Step | None:
    """Ask each server for pages, then see each on the release and UP."""
    memory = now.memory
    if "warm" not in memory.done and not memory.retreat:
        return Step(
            "warm",
            tuple(now.members),
            "the webapp answers and opcache is filled before the first session comes",
            VERIFY_SECONDS,
            "webfarm_release.warm",
        )
    return None if "verify" in memory.done else verify(now, now.members)


def verify(now: Situation, servers: list[str]) -> Step:
    """Wait until the servers are seen on the release by themselves and by every balancer."""
    return Step(
        "verify",
        tuple(servers),
        f"each says {now.goal.release} and is UP on every balancer",
        VERIFY_SECONDS,
    )


def half_open(now: Situation) -> Next:
    """Ready or open on some balancer: only forward is safe, a session may have seen the release."""
    if not now.may_do_without(now.left_out):
        return Stuck((too_many(now),))
    behind = stragglers(now)
    if behind:  # the fence holds them DOWN, so a switch disturbs nobody
        return steps.stage(now, behind) or steps.switch(now, behind, "switch")
    step = steps.flush(now) if "closed" in now.states else None
    if step:
        return step
    return ready(now) if "verify" in now.memory.done else verify(now, now.members)


def ready(now: Situation) -> Next:
    """First phase on every balancer that lacks it; only when all have it read back, the second."""
    goal = now.goal
    if now.regression:
        return Stuck((now.regression,))
    generation = now.generation
    newest = max(now.newest, generation)
    share = {"pick_newest": _newest_shares(now, generation, newest)}
    behind = [name for name in now.balancers if not _is_ready(now, name, generation, newest)]
    demoted = [name for name in behind if now.at[name].state == "open"]
    if demoted:
        return Stuck(
            (
                f"{goal.farm} is open on {listed(demoted)} with a generation that is not "
                f"{generation}; close it there with `salt {demoted[0]} haproxy_runtime.set_farms`",
            )
        )
    if not behind:
        return open_(now)
    return Step(
        "ready",
        tuple(behind),
        f"generation {generation}; serves only sessions that already saw it",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_farms",
        {
            "state": {goal.farm: "ready"},
            "release": {goal.farm: goal.release},
            "generation": {goal.farm: generation},
            "newest": newest,
            **share,
            **now.amnesty(generation),
        },
    )


def _is_ready(now: Situation, name: str, generation: int, newest: int) -> bool:
    at, view = now.at[name], now.balancers[name]
    return (
        at.state in ("ready", "open")
        and at.generation == generation
        and view.newest == newest
        and view.disk_agrees
        and not now.lacks_amnesty(name, generation)
        and (generation < newest or view.pick_newest.get(now.goal.farm, 0) > 0)
    )


def _newest_shares(now: Situation, generation: int, newest: int) -> dict[str, int]:
    farms = [
        farm
        for farm in now.others(("open", "ready"))
        if all(view.farms[farm].generation == newest for view in now.balancers.values())
    ]
    if generation == newest:
        farms.append(now.goal.farm)
    return now.shares(farms)


def open_(now: Situation) -> Step:
    """Second phase: sessions of every kind."""
    goal = now.goal
    targets = lacking(now)
    generation = max(at.generation for at in now.at.values())
    return Step(
        "open",
        tuple(targets),
        "every balancer is ready",
        3 * now.site.policy.answer_seconds,
        "haproxy_runtime.set_farms",
        {
            "state": {goal.farm: "open"},
            "pick": now.shares([*now.others(), goal.farm]),
            "pick_newest": _newest_shares(now, generation, now.newest),
        },
    )


def lacking(now: Situation) -> list[str]:
    """The balancers on which the farm is not wholly open."""
    return [name for name in now.balancers if not _opened(now, name)]


def _opened(now: Situation, name: str) -> bool:
    """The balancer has the farm open, picks it, and gives it sessions of its generation."""
    at, view = now.at[name], now.balancers[name]
    farm = now.goal.farm
    young = at.generation < view.newest or view.pick_newest.get(farm, 0) > 0
    # on the way back the disk may hold what was intended before; else it is a hand's, not ours
    settled = view.disk_agrees or not now.memory.retreat
    return at.state == "open" and view.pick.get(farm, 0) > 0 and young and settled


def stragglers(now: Situation) -> list[str]:
    """Members that do not run the release and that no balancer finds UP."""
    return [
        name
        for name in now.members
        if not now.server(name).runs(now.goal.release) and not now.up(name, everywhere=False)
    ]
