"""The conductor, with farms whose rollouts end as a script says; the journal is the real one."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from webfarm.rollout import course
from webfarm.rollout import journal as journal_
from webfarm.rollout.journal import Journal, Unfinished
from webfarm.rollout.lease import Held, Process
from webfarm.rollout.model import (
    BalancerView,
    Before,
    FarmAtBalancer,
    Goal,
    Reply,
    Run,
    Seen,
    Wish,
)
from webfarm.rollout.run import Conductor
from webfarm.rollout.watcher import Outcome, RunOutcome
from webfarm.topology import Topology, parse

from tests.conftest import EXAMPLE

OLD, NEW = "2026.11.1", "2026.11.2"
FARMS = [("site1", "farm1"), ("site1", "farm2"), ("site2", "farm1"), ("site2", "farm2")]


class Clock:
    """Stands still, unless it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Quiet:
    """A cluster in which every farm is open on the old release, and staging always works."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.hold = None
        self.staged: list[Sequence[str]] = []
        self.refuses: dict[str, str] = {}

    def observe(self, site: str, farm: str | None, servers: bool = True) -> Seen:
        farms = {name: FarmAtBalancer("open", 1, OLD) for name in self.topology.sites[site].farms}
        views = {n: BalancerView(n, True, farms=farms) for n in self.topology.sites[site].balancers}
        return Seen(views, {})

    def call(
        self,
        site: str,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
        deadline: float,
    ) -> dict[str, Reply]:
        assert function == "webfarm_release.stage"
        self.staged.append(list(targets))
        return {
            name: Reply(False, error=self.refuses[name]) if name in self.refuses else Reply(True)
            for name in targets
        }


class Stage:
    """A conductor whose engine is a script: (site, farm, release) to the outcomes, one a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **policy: Any) -> None:
        pillar = copy.deepcopy(EXAMPLE)
        for site in pillar["sites"].values():
            site["policy"] = policy
        self.topology = parse(pillar)
        self.cluster = Quiet(self.topology)
        self.journal = Journal(journal_.connect(":memory:"))
        self.clock = Clock()
        self.script: dict[tuple[str, str, str], list[str]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.soaks: list[float] = []
        self.during: Callable[[Goal], None] = lambda goal: None
        self.dead = True
        monkeypatch.setattr(course, "Engine", self._engine)

    def _engine(self, site: Any, *args: Any) -> Any:
        stage = self

        class Engine:
            def run(self, goal: Goal, run: int, staged: bool = False) -> Outcome:
                key = (goal.site, goal.farm, goal.release)
                stage.asked.append(key)
                stage.soaks.append(site.policy.soak_seconds)
                journal, now = stage.journal, stage.clock.time()
                number, _, _ = journal.begin(goal, "op", now, run)
                stage.during(goal)
                state = (stage.script.get(key) or ["done"]).pop(0)
                if state != "nothing":
                    journal.remember(number, Before(OLD, 1))
                left_out = {f"{goal.site}-{goal.farm}-ws1": "broken"} if state == "weak" else {}
                state = "done" if state == "weak" else state
                outcome = Outcome(state, goal, f"{goal.farm} {state}", "", left_out=left_out)
                journal.end(number, state, outcome.plain(), now)
                return outcome

        return Engine()

    def goal(self, site: str, farm: str, release: str) -> Goal | None:
        pair = self.topology.releases.get(release)
        return Goal(site, farm, release, pair.php, pair.webapp) if pair else None

    def order(self, *farms: tuple[str, str], release: str = NEW, **options: Any) -> Run:
        goals = [self.goal(site, farm, release) for site, farm in farms or FARMS]
        return Run("upgrade", tuple(g for g in goals if g), **options)

    def conduct(self, order: Run, wish: Wish | None = None, **options: Any) -> RunOutcome:
        self.asked, self.soaks = [], []
        process = Process("h", 1, "s", "b")
        conductor = Conductor(
            self.topology, self.cluster, self.journal, self.clock, "op", self.goal,
            process=process, dead=lambda _: self.dead, **options,
        )  # fmt: skip
        return conductor.conduct(order, wish)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_farm_by_farm_site_by_site_after_all_were_staged(stage: Stage) -> None:
    outcome = stage.conduct(stage.order())
    assert outcome.state == "done"
    assert stage.asked == [(site, farm, NEW) for site, farm in FARMS]
    assert [len(batch) for batch in stage.cluster.staged] == [4, 4]
    assert stage.journal.run(outcome.run)["state"] == "done"
    assert stage.cluster.hold is None


def test_staging_is_done_in_batches_and_not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, stage_parallel=3, approve="farm")
    stage.conduct(stage.order())
    assert [len(batch) for batch in stage.cluster.staged] == [3, 1, 3, 1]
    stage.conduct(stage.order())
    assert len(stage.cluster.staged) == 4


def test_a_release_that_cannot_be_staged_stops_the_run_before_a_farm_leaves(stage: Stage) -> None:
    stage.cluster.refuses = {f"site2-farm1-ws{n}": "digest differs" for n in (1, 2)}
    outcome = stage.conduct(stage.order())
    assert outcome.state == "refused" and stage.asked == []
    assert "site2-farm1-ws1: digest differs" in outcome.message
    stage.cluster.refuses.popitem()  # the farm may do without one
    assert stage.conduct(stage.order()).state == "done"


def test_the_first_farm_that_changes_is_the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, soak_seconds=5, canary_soak_seconds=50)
    stage.script["site1", "farm1", NEW] = ["nothing"]
    stage.conduct(stage.order())
    assert stage.soaks == [50, 50, 5, 5]
    stage.conduct(stage.order(FARMS[0]))
    assert stage.soaks == [5]


def test_when_all_are_there_nothing_is_done(stage: Stage) -> None:
    for site, farm in FARMS:
        stage.script[site, farm, NEW] = ["nothing"]
    assert stage.conduct(stage.order()).state == "nothing"


@pytest.mark.parametrize("on_failure, state", [("abort", "failed"), ("pause", "paused")])
def test_a_farm_that_fails_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, on_failure: str, state: str
) -> None:
    stage = Stage(monkeypatch, on_failure=on_failure)
    stage.script["site1", "farm2", NEW] = ["failed"]
    outcome = stage.conduct(stage.order())
    assert (outcome.state, len(stage.asked)) == (state, 2)
    assert [g.farm for g in outcome.not_begun] == ["farm1", "farm2"]
    assert outcome.command


def test_a_farm_in_hand_comes_into_service_before_the_run_fails_for_another(stage: Stage) -> None:
    def dies(goal: Goal) -> None:
        if goal.farm == "farm2":
            raise KeyboardInterrupt

    stage.during = dies
    with pytest.raises(KeyboardInterrupt):
        stage.conduct(stage.order())
    stage.during = lambda goal: None
    stage.script["site1", "farm1", NEW] = ["failed"]
    stage.script["site1", "farm2", NEW] = ["aborted"]
    outcome = stage.conduct(stage.order())
    assert outcome.state == "failed"
    assert stage.asked == [("site1", "farm1", NEW), ("site1", "farm2", NEW)]


def test_a_failure_that_was_not_heeded_is_heeded_first(stage: Stage) -> None:
    """The process ended between the farm's end and the run's."""
    stage.script["site1", "farm1", NEW] = ["failed"]
    end_run = stage.journal.end_run

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    stage.journal.end_run = dies  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        stage.conduct(stage.order())
    stage.journal.end_run = end_run  # type: ignore[method-assign]
    outcome = stage.conduct(stage.order())
    assert (outcome.state, outcome.message, stage.asked) == ("failed", "farm1 failed", [])


def test_by_policy_a_failure_takes_the_run_back_in_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, on_failure="rollback")
    stage.script["site2", "farm1", NEW] = ["failed"]
    outcome = stage.conduct(stage.order())
    assert outcome.state == "rolled_back"
    assert stage.asked[3:] == [(site, farm, OLD) for site, farm in reversed(FARMS[:3])]


def test_a_rollback_that_was_killed_goes_on_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, on_failure="rollback")
    stage.script["site2", "farm1", NEW] = ["failed"]

    def dies(goal: Goal) -> None:
        if (goal.farm, goal.release) == ("farm2", OLD):
            raise KeyboardInterrupt

    stage.during = dies
    with pytest.raises(KeyboardInterrupt):
        stage.conduct(stage.order())
    stage.during = lambda goal: None
    outcome = stage.conduct(stage.order())
    assert outcome.state == "rolled_back"
    assert {release for _, _, release in stage.asked} == {OLD}
    assert stage.asked[-1] == ("site1", "farm1", OLD)


def test_a_refusal_ends_what_changed_nothing_and_pauses_what_did(stage: Stage) -> None:
    stage.script["site1", "farm1", NEW] = ["refused"]
    assert stage.conduct(stage.order()).state == "refused"
    stage.script["site1", "farm1", NEW] = ["done"]
    stage.script["site1", "farm2", NEW] = ["refused"]
    outcome = stage.conduct(stage.order())
    assert outcome.state == "paused"
    assert outcome.command == f"salt-run upgrade.resume {outcome.run}"


def test_the_run_has_a_budget_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, max_failed_run=1)
    for site, farm in FARMS:
        stage.script[site, farm, NEW] = ["weak"]
    outcome = stage.conduct(stage.order())
    assert (outcome.state, len(stage.asked)) == ("failed", 2)
    assert "max_failed_run allows 1" in outcome.message


@pytest.mark.parametrize("approve, stops", [("farm", [1, 2, 3]), ("canary", [1]), ("site", [2])])
def test_a_run_waits_for_approval_and_a_resume_alone_is_none(
    monkeypatch: pytest.MonkeyPatch, approve: str, stops: list[int]
) -> None:
    stage = Stage(monkeypatch, approve=approve, approvers=["alice"])
    order = stage.order()
    done = 0
    for stop in stops:
        for _ in range(2):  # the same command again does not approve
            outcome = stage.conduct(order)
            done += sum(1 for o in outcome.outcomes if o.state == "done")
            for site, farm in FARMS[:stop]:
                stage.script[site, farm, NEW] = ["nothing"] * 10
            assert outcome.state == "paused" and "alice" in outcome.message
            assert done == stop
        stage.journal.approve(outcome.run, "alice", stage.clock.time())
    assert stage.conduct(order).state == "done"


def test_a_wish_to_pause_is_obeyed_between_farms_and_resumed(stage: Stage) -> None:
    def pause(goal: Goal) -> None:
        [run] = stage.journal.unfinished()
        stage.journal.wish(run["id"], Wish("pause", "bob", "lunch"), stage.clock.time())

    stage.during = pause
    outcome = stage.conduct(stage.order())
    assert (outcome.state, stage.asked) == ("paused", [("site1", "farm1", NEW)])
    assert "paused by bob (lunch)" in outcome.message
    stage.during = lambda goal: None
    again = stage.conduct(stage.order())
    assert (again.state, again.run) == ("done", outcome.run)


def test_ctrl_c_is_a_pause(stage: Stage) -> None:
    outcome = stage.conduct(stage.order(), interrupted=lambda: True)
    assert outcome.state == "paused" and "Ctrl-C" in outcome.message and not stage.asked


def test_an_abort_brings_only_the_farm_under_way_into_service(stage: Stage) -> None:
    stage.script["site1", "farm2", NEW] = ["paused", "aborted"]
    paused = stage.conduct(stage.order())
    assert paused.state == "paused"
    outcome = stage.conduct(stage.order(), Wish("abort", "bob"))
    assert (outcome.state, stage.asked) == ("aborted", [("site1", "farm2", NEW)])
    assert stage.journal.unfinished() == []


def test_a_rollback_first_aborts_the_farm_under_way(stage: Stage) -> None:
    stage.script["site1", "farm2", NEW] = ["paused", "aborted"]
    stage.conduct(stage.order())
    outcome = stage.conduct(stage.order(), Wish("rollback", "bob"))
    assert outcome.state == "rolled_back"
    assert stage.asked == [
        ("site1", "farm2", NEW),
        ("site1", "farm2", OLD),
        ("site1", "farm1", OLD),
    ]


def test_an_abort_that_cannot_bring_the_farm_back_leaves_the_run_paused(stage: Stage) -> None:
    stage.script["site1", "farm1", NEW] = ["paused", "paused", "aborted"]
    stage.conduct(stage.order())
    outcome = stage.conduct(stage.order(), Wish("abort", "bob"))
    assert outcome.state == "paused" and "aborted by bob, but" in outcome.message
    outcome = stage.conduct(stage.order())  # the wish is still owed
    assert outcome.state == "aborted"


def test_another_target_is_refused_and_the_run_is_named(stage: Stage) -> None:
    stage.script["site1", "farm1", NEW] = ["paused"]
    first = stage.conduct(stage.order())
    with pytest.raises(Unfinished, match=f"run {first.run} .*upgrade.abort {first.run}"):
        stage.conduct(stage.order(("site1", "farm2")))
    assert stage.asked == []


def test_one_hand_while_another_process_holds_a_site_nothing_is_asked(stage: Stage) -> None:
    stage.dead = False

    def second(goal: Goal) -> None:
        with pytest.raises(Held, match="site1 is held by op"):
            stage_two = Conductor(
                stage.topology, stage.cluster, stage.journal, stage.clock, "eve", stage.goal,
                process=Process("h", 2, "s", "b"), dead=lambda _: False,
            )  # fmt: skip
            stage_two.conduct(stage.order())

    stage.during = second
    assert stage.conduct(stage.order(FARMS[0])).state == "done"
    assert len(stage.asked) == 1


def test_a_bad_release_is_refused_with_who_and_why(stage: Stage) -> None:
    stage.journal.mark_bad(NEW, "carol", "loses carts", stage.clock.time())
    outcome = stage.conduct(stage.order())
    assert outcome.state == "refused" and stage.asked == []
    assert "carol" in outcome.message and "loses carts" in outcome.message


def frozen(monkeypatch: pytest.MonkeyPatch) -> Stage:
    freeze = {
        "from": "2026-01-01T00:00",
        "to": "2027-01-01T00:00",
        "timezone": "UTC",
        "reason": "the year of rest",
    }
    return Stage(monkeypatch, freezes=[freeze])


def test_in_a_freeze_nothing_begins_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = frozen(monkeypatch)
    outcome = stage.conduct(stage.order())
    assert outcome.state == "refused" and "the year of rest" in outcome.message
    assert not stage.asked and not stage.cluster.staged
    outcome = stage.conduct(stage.order(override="the shop is down"))
    assert outcome.state == "done"
    assert "the shop is down" in [record["why"] for record in stage.journal.records()]


def test_the_way_back_is_open_in_a_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = frozen(monkeypatch)
    goals = tuple(g for g in [stage.goal("site1", "farm1", OLD)] if g)
    assert stage.conduct(Run("rollback", goals, undoes=None)).state == "done"
