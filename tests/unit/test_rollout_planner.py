"""The planner over every prefix: interrupted anywhere it reaches the goal by its rules."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from webfarm.rollout.model import (
    BalancerView,
    Before,
    FarmAtBalancer,
    Goal,
    InService,
    Memory,
    Refused,
    Seen,
    ServerAtBalancer,
    ServerView,
    Step,
    Stuck,
)
from webfarm.rollout.outline import before, expected, learn, outline
from webfarm.rollout.planner import decide, remember
from webfarm.rollout.situation import Situation
from webfarm.topology import Site, parse

OLD, NEW = "2026.11.1", "2026.11.2"
GOAL = Goal("site1", "farm2", NEW, "8.2.36", "2")


@pytest.fixture
def site(pillar: dict[str, Any]) -> Site:
    return parse(pillar).sites["site1"]


def seen_of(site: Site, farm: str = "farm2", release: str = OLD, **at: Any) -> Seen:
    """A healthy site, all on ``release``; ``at`` changes the farm on every balancer."""
    balancers = {}
    for name in site.balancers:
        farms = {
            f: FarmAtBalancer(
                "open",
                1,
                release,
                servers={s: ServerAtBalancer("UP") for s in plan.servers},
            )
            for f, plan in site.farms.items()
        }
        farms[farm] = replace(farms[farm], **at)
        share = {f: 128 for f in site.farms}
        balancers[name] = BalancerView(name, True, "", farms, 1, share, dict(share))
    servers = {
        s: ServerView(
            s, True, "", release, True, frozenset({"8.2.32"}), frozenset({"1"}), boot_id="b"
        )
        for s in site.farms[farm].servers
    }
    return Seen(balancers, servers)


def at(seen: Seen, balancer: str, farm: str = "farm2", **changes: Any) -> Seen:
    """``seen`` with the farm changed on one balancer."""
    view = seen.balancers[balancer]
    farms = {**view.farms, farm: replace(view.farms[farm], **changes)}
    return replace(seen, balancers={**seen.balancers, balancer: replace(view, farms=farms)})


def walk(site: Site, seen: Seen, goal: Goal = GOAL) -> Iterator[tuple[Step, Seen, Memory]]:
    """Each step of the plan with the world and the memory that it was decided in."""
    memory = Memory()
    for _ in range(40):
        memory = remember(memory, goal, site, seen)
        step = decide(goal, site, seen, memory)
        if not isinstance(step, Step):
            assert isinstance(step, InService), step
            return
        if step.name == "preflight":
            memory = replace(memory, before=before(Situation(goal, site, seen, memory)))
        yield step, seen, memory
        seen = expected(step, goal, seen)
        memory = learn(step, memory)
    raise AssertionError("the plan does not end")


def test_the_order_of_a_farms_upgrade(site: Site) -> None:
    names = [step.name for step, _, _ in walk(site, seen_of(site))]
    assert names == [
        *("stage", "preflight", "drain", "close", "quiesce", "fence", "switch", "flush", "warm"),
        *("verify", "ready", "open", "soak"),
    ]


def test_soft_time_comes_between_drain_and_close(pillar: dict[str, Any]) -> None:
    pillar["sites"]["site1"]["policy"] = {"drain_seconds": 60}
    site = parse(pillar).sites["site1"]
    names = [step.name for step, _, _ in walk(site, seen_of(site))]
    assert names[names.index("drain") : names.index("close") + 1] == ["drain", "soft", "close"]


def test_s6_interrupted_before_any_step_a_new_process_reaches_the_goal(site: Site) -> None:
    for step, seen, memory in walk(site, seen_of(site)):
        for known in (Memory(), Memory(before=memory.before)):  # with and without the journal
            _, end, after = outline(GOAL, site, seen, known)
            assert isinstance(end, InService), (step.name, end)
            for view in after.balancers.values():
                assert view.farms["farm2"].state == "open"
                assert view.farms["farm2"].release == NEW
                assert view.pick["farm2"]


def test_s6_interrupted_between_two_balancers_of_one_step_it_reaches_the_goal(site: Site) -> None:
    for step, seen, _ in walk(site, seen_of(site)):
        for target in step.targets:
            if target not in site.balancers:
                continue
            partly = expected(replace(step, targets=(target,)), GOAL, seen)
            steps, end, _ = outline(GOAL, site, partly)
            assert isinstance(end, InService), (step.name, target, end)
            check_rules(site, partly, steps)


def check_rules(site: Site, seen: Seen, steps: Any) -> None:
    """What must hold in every plan, wherever it starts."""
    memory = Memory()
    for foreseen in steps:
        step = foreseen.step
        memory = remember(memory, GOAL, site, seen)
        now = Situation(GOAL, site, seen, memory)
        states = {view.farms["farm2"].state for view in seen.balancers.values()}
        if step.name in ("fence", "switch"):
            assert states == {"closed"}, step
        if step.name == "fence":
            assert now.in_flight == 0
        if step.name == "open" and states & {"closed", "ready"}:
            assert states <= {"ready", "open"}, "the second phase before the first was read back"
        if step.name == "open":
            generations = {view.farms["farm2"].generation for view in seen.balancers.values()}
            assert len(generations) == 1
        if step.name in ("ready", "open"):
            for name in site.farms["farm2"].servers:
                assert seen.servers[name].runs(NEW)
        seen = expected(step, GOAL, seen)
        memory = learn(step, memory)


def test_two_phases_ready_on_all_before_open_on_any(site: Site) -> None:
    steps = list(walk(site, seen_of(site)))
    ready = next(step for step, _, _ in steps if step.name == "ready")
    assert set(ready.targets) == set(site.balancers)
    assert ready.arguments["state"] == {"farm2": "ready"}
    assert ready.arguments["generation"] == {"farm2": 2}
    assert ready.arguments["newest"] == 2
    assert "pick" not in ready.arguments
    opened = next(step for step, _, _ in steps if step.name == "open")
    assert opened.arguments["pick"] == {"farm1": 200, "farm2": 200}
    assert opened.arguments["pick_newest"] == {"farm2": 200}


def test_drain_takes_the_farm_out_of_both_pick_maps(site: Site) -> None:
    drain = next(step for step, _, _ in walk(site, seen_of(site)) if step.name == "drain")
    assert drain.arguments == {
        "state": {"farm2": "drain"},
        "pick": {"farm1": 200},
        "pick_newest": {"farm1": 200},
    }


def test_quiesce_wants_to_see_nothing_in_flight_twice(site: Site) -> None:
    seen = without_pick(seen_of(site, state="closed"))
    memory = remember(Memory(), GOAL, site, seen)
    assert memory.idle == 1
    assert remember(memory, GOAL, site, seen).idle == 2
    busy = at(seen, "site1-lb2", queued=1)
    assert remember(memory, GOAL, site, busy).idle == 0


def without_pick(seen: Seen) -> Seen:
    return replace(
        seen,
        balancers={
            name: replace(view, pick={"farm1": 256}, pick_newest={"farm1": 256})
            for name, view in seen.balancers.items()
        },
    )


def test_nothing_to_do(site: Site) -> None:
    assert isinstance(decide(GOAL, site, seen_of(site, release=NEW), Memory()), InService)


def test_a_straggler_is_brought_to_the_open_farms_release(site: Site) -> None:
    seen = seen_of(site, release=NEW)
    late = ServerView("site1-farm2-ws2", True, "", OLD, True)
    seen = replace(seen, servers={**seen.servers, late.id: late})
    for lb in site.balancers:
        servers = {**seen.balancers[lb].farms["farm2"].servers, late.id: ServerAtBalancer("DOWN")}
        seen = at(seen, lb, servers=servers)
    steps, end, _ = outline(GOAL, site, seen)
    assert [(f.step.name, f.step.targets) for f in steps] == [
        ("stage", ("site1-farm2-ws2",)),
        ("rejoin", ("site1-farm2-ws2",)),
    ]
    assert isinstance(end, InService)


# -- refusals ------------------------------------------------------------------------------------


def refused(site: Site, seen: Seen, goal: Goal = GOAL) -> str:
    step = decide(goal, site, seen, Memory())
    assert isinstance(step, Refused), step
    return "\n".join(step.reasons)


def test_s4_too_little_capacity_is_refused_with_numbers(site: Site) -> None:
    seen = seen_of(site)
    servers = dict(seen.balancers["site1-lb2"].farms["farm1"].servers)
    servers["site1-farm1-ws1"] = ServerAtBalancer("DOWN")
    text = refused(site, at(seen, "site1-lb2", "farm1", servers=servers))
    assert "without farm2 the site keeps 25 % of its weight, min_capacity is 50 %" in text
    assert "farm1/site1-farm1-ws1" in text


def test_the_only_open_farm_is_never_closed(site: Site) -> None:
    seen = seen_of(site)
    for lb in site.balancers:
        seen = at(seen, lb, "farm1", state="closed")
    assert "farm2 is the only farm of site1 that is open" in refused(site, seen)


def test_sessions_that_no_other_farm_may_answer_keep_their_farm(site: Site) -> None:
    seen = seen_of(site, generation=2, release=NEW)
    for lb in site.balancers:
        seen = at(seen, lb, "farm1", release=OLD)
        seen = replace(seen, balancers={n: replace(v, newest=2) for n, v in seen.balancers.items()})
    third = Goal("site1", "farm2", "2026.11.10", "8.2.36", "10")
    assert "no other open farm may answer the sessions of farm2" in refused(site, seen, third)


def test_s1_an_older_release_needs_the_operators_word(site: Site) -> None:
    seen = seen_of(site, release=NEW)
    back = Goal("site1", "farm2", OLD, "8.2.32", "1")
    assert "2026.11.1 is older than what sessions have seen" in refused(site, seen, back)
    allowed = decide(replace(back, reset_sessions=True), site, seen, Memory())
    assert isinstance(allowed, Step)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("state", {"state": "closed"}),
        ("release", {"release": NEW}),
        ("generation", {"generation": 7}),
    ],
)
def test_balancers_that_disagree_are_refused(
    site: Site, what: str, changes: dict[str, Any]
) -> None:
    text = refused(site, at(seen_of(site), "site1-lb2", "farm1", **changes))
    assert f"the balancers disagree on farm1 {what}" in text


def test_pick_maps_that_differ_are_the_same_afterwards(site: Site) -> None:
    seen = seen_of(site)
    view = replace(seen.balancers["site1-lb1"], pick={"farm2": 256}, pick_newest={})
    seen = replace(seen, balancers={**seen.balancers, "site1-lb1": view})
    _, end, after = outline(GOAL, site, seen)
    assert isinstance(end, InService)
    shares = [(v.pick, v.pick_newest) for v in after.balancers.values()]
    assert shares[0] == shares[1] and set(shares[0][0]) == {"farm1", "farm2"}


def test_a_disk_that_differs_is_refused(site: Site) -> None:
    seen = seen_of(site)
    view = replace(seen.balancers["site1-lb1"], disk_agrees=False)
    seen = replace(seen, balancers={**seen.balancers, "site1-lb1": view})
    assert "haproxy_runtime.reconcile" in refused(site, seen)


def test_a_silent_balancer_is_a_stop_everywhere(site: Site) -> None:
    for _, seen, memory in walk(site, seen_of(site)):
        silent = BalancerView("site1-lb2", False, "no answer in 20 s")
        blind = replace(seen, balancers={**seen.balancers, "site1-lb2": silent})
        step = decide(GOAL, site, blind, memory)
        assert isinstance(step, Stuck)
        assert "no answer in 20 s" in step.reasons[0]


def test_more_servers_missing_than_the_policy_allows_is_refused(site: Site) -> None:
    seen = seen_of(site)
    gone = {name: ServerView(name, False, "no answer in 20 s") for name in seen.servers}
    text = refused(site, replace(seen, servers=gone))
    assert "2 of farm2's 2 servers cannot be upgraded, 1 may be left out (max_failed)" in text


def test_one_silent_server_is_left_out_and_named(site: Site) -> None:
    seen = seen_of(site)
    gone = ServerView("site1-farm2-ws2", False, "no answer in 20 s")
    steps, end, _ = outline(GOAL, site, replace(seen, servers={**seen.servers, gone.id: gone}))
    assert isinstance(end, InService)
    assert "no answer" in end.left_out["site1-farm2-ws2"]
    assert all("site1-farm2-ws2" not in f.step.targets for f in steps)


# -- generations -----------------------------------------------------------------------------------


def generation(site: Site, seen: Seen, memory: Memory | None = None, goal: Goal = GOAL) -> int:
    return Situation(goal, site, seen, memory or Memory()).generation


def test_the_first_farm_on_a_release_raises_the_generation(site: Site) -> None:
    assert generation(site, seen_of(site, state="closed")) == 2


def with_newest(seen: Seen, newest: int) -> Seen:
    return replace(
        seen, balancers={n: replace(v, newest=newest) for n, v in seen.balancers.items()}
    )


def test_the_next_farm_on_it_joins_that_generation(site: Site) -> None:
    seen = with_newest(seen_of(site, state="closed"), 2)
    for lb in site.balancers:
        seen = at(seen, lb, "farm1", release=NEW, generation=2)
    assert generation(site, seen) == 2


def test_s1_a_closed_farm_whose_fence_moved_lends_no_generation(site: Site) -> None:
    """Interrupted between fence and generation: farm1 is closed on NEW, still of generation 1."""
    seen = seen_of(site, state="closed")
    for lb in site.balancers:
        seen = at(seen, lb, "farm1", state="closed", release=NEW)
    assert generation(site, seen) == 2


def test_ready_on_one_balancer_only_keeps_its_generation(site: Site) -> None:
    seen = seen_of(site, state="closed", release=NEW)
    for lb in site.balancers:
        seen = at(seen, lb, "farm1", release=OLD)
    seen = at(seen, "site1-lb1", state="ready", generation=2)
    view = replace(seen.balancers["site1-lb1"], newest=2)
    seen = replace(seen, balancers={**seen.balancers, "site1-lb1": view})
    assert generation(site, seen) == 2


def test_raised_on_one_balancer_but_not_ready_skips_a_number(site: Site) -> None:
    seen = at(seen_of(site, state="closed"), "site1-lb1", generation=2)
    view = replace(seen.balancers["site1-lb1"], newest=2)
    seen = replace(seen, balancers={**seen.balancers, "site1-lb1": view})
    assert generation(site, seen) == 3


def test_going_back_before_it_opened_keeps_the_farms_own_generation(site: Site) -> None:
    """The other farm is on NEW already: a new number for OLD would let its sessions come here."""
    seen = with_newest(seen_of(site, state="closed"), 2)
    for lb in site.balancers:
        seen = at(seen, lb, "farm1", release=NEW, generation=2)
    back = Goal("site1", "farm2", OLD, "8.2.32", "1")
    memory = Memory(before=Before(OLD, 1), retreat="verify failed")
    assert generation(site, seen, memory, back) == 1
    assert Situation(back, site, seen, memory).regression == ""
    assert Situation(back, site, seen, Memory()).regression != ""


# -- the way back ------------------------------------------------------------------------------


def canary(site: Site) -> tuple[Seen, Goal]:
    """farm2 is the only farm on the new release, and shall go back."""
    seen = seen_of(site, generation=2, release=NEW)
    for lb in site.balancers:
        seen = at(seen, lb, "farm1", release=OLD)
    seen = replace(
        seen,
        balancers={
            name: replace(view, newest=2, pick_newest={"farm2": 256})
            for name, view in seen.balancers.items()
        },
    )
    return seen, Goal("site1", "farm2", OLD, "8.2.32", "1", reset_sessions=True)


def test_the_only_upgraded_farm_goes_back_with_an_amnesty_for_its_sessions(site: Site) -> None:
    seen, back = canary(site)
    assert "no other open farm" in refused(site, seen, replace(back, release="2026.11.10"))
    names = []
    for step, now, _ in walk(site, seen, back):
        names.append(step.name)
        if step.name == "close":
            assert {view.amnesty for view in now.balancers.values()} == {2}
        if step.name == "ready":
            assert (step.arguments["generation"], step.arguments["amnesty"]) == ({"farm2": 3}, 3)
    assert names[-2:] == ["open", "soak"] and "flush" in names


def test_s1_a_closed_farm_goes_back_with_the_amnesty_everywhere_before_it_is_ready(
    site: Site,
) -> None:
    seen, back = canary(site)
    closed = {
        name: replace(
            view, farms={**view.farms, "farm2": replace(view.farms["farm2"], state="closed")}
        )
        for name, view in seen.balancers.items()
    }
    for step, now, _ in walk(site, replace(seen, balancers=closed), back):
        if step.name == "ready":
            assert {view.amnesty for view in now.balancers.values()} == {2}


def test_an_amnesty_passes_no_balancers_newest_generation(site: Site) -> None:
    """One was cut short when it raised the newest generation; it would refuse more."""
    seen, back = canary(site)
    behind = replace(seen.balancers["site1-lb1"], newest=1)
    seen = replace(seen, balancers={**seen.balancers, "site1-lb1": behind})
    for state in ("drain", "closed"):
        views = {
            name: replace(
                view, farms={**view.farms, "farm2": replace(view.farms["farm2"], state=state)}
            )
            for name, view in seen.balancers.items()
        }
        retreat = Memory(retreat="it failed")
        step = decide(back, site, replace(seen, balancers=views), retreat)
        assert isinstance(step, Step) and step.arguments.get("amnesty", 0) <= 1, step


def test_s6_going_back_interrupted_anywhere_a_new_process_gets_there(site: Site) -> None:
    seen, back = canary(site)
    for step, now, memory in walk(site, seen, back):
        known = Memory(before=memory.before)
        for target in step.targets:
            half = now
            if step.function == "haproxy_runtime.set_farms":  # only one balancer was reached
                half = expected(replace(step, targets=(target,)), back, now)
            _, end, after = outline(back, site, half, known)
            assert isinstance(end, InService), (step.name, end)
            assert {view.farms["farm2"].release for view in after.balancers.values()} == {OLD}


def test_after_the_way_back_either_farm_may_be_upgraded_again(site: Site) -> None:
    seen, back = canary(site)
    _, _, after = outline(back, site, seen)
    again = replace(back, release="2026.11.10", php="8.2.36", webapp="10", reset_sessions=False)
    for farm in ("farm1", "farm2"):
        there = replace(after, servers=seen_of(site, farm).servers)
        _, end, _ = outline(replace(again, farm=farm), site, there)
        assert isinstance(end, InService), end
