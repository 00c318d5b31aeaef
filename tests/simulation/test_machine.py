"""Hypothesis plays operator and fate: commands, faults and waiting in any order do no harm."""

from typing import Any

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from webfarm.rollout import back, commands, control, servers

from tests.conftest import EXAMPLE

from .controller import Controller
from .drive import FIRST, SECOND, THIRD, Drive, Plan, pillar_of
from .operators import latest

FARMS = ("farm1", "farm2", "farm3")
NODES = ("site1-lb1", "site1-lb2", *(f"site1-{farm}-ws{n}" for farm in FARMS for n in (1, 2)))
GATES = {"min_requests": 0, "latency_margin_ms": 60_000, "error_excess": 1.0}


class Cluster(RuleBasedStateMachine):
    """Each rule is something that a person or an accident does; promises are judged throughout."""

    @initialize(on_failure=st.sampled_from(["abort", "pause", "rollback"]))
    def begin(self, on_failure: str) -> None:
        pillar = pillar_of(
            EXAMPLE, len(FARMS), canary_soak_seconds=0, gates=GATES, on_failure=on_failure
        )
        self.drive = Drive(Plan(0, pillar, ("site1",), frozenset()))
        self.world = self.drive.world
        self.inside = self.drive.master.in_charge()
        self.inside.__enter__()
        if on_failure == "rollback":
            self.world.judge.may_reset = True

    def _type(self, what: str, command: Any) -> None:
        if len(self.drive.operators.live) < 3:
            self.drive.operators.start(what, command)

    # -- operators ---------------------------------------------------------------------------------

    @rule(farm=st.sampled_from([None, *FARMS]), release=st.sampled_from([SECOND, THIRD]))
    def upgrade(self, farm: str | None, release: str) -> None:
        self._type(f"upgrade {farm}", lambda c: commands.upgrade(c, "site1", farm, release))

    @rule(what=st.sampled_from([control.pause, control.resume, control.abort]))
    def wish(self, what: Any) -> None:
        self._type(what.__name__, what)

    @rule()
    def roll_back(self) -> None:
        self.world.judge.may_reset = True
        self._type("rollback", lambda c: back.rollback(c, latest(c), reset_sessions=True))

    @rule(node=st.sampled_from(NODES[2:]))
    def bring_back(self, node: str) -> None:
        self._type(f"rejoin {node}", lambda c: servers.rejoin(c, node))

    @rule()
    def unlock(self) -> None:
        self._type("unlock", lambda c: control.unlock(c, "site1", "it hangs, I think"))

    # -- accidents ---------------------------------------------------------------------------------

    def _somebody(self, number: int) -> Controller | None:
        live = self.drive.operators.live
        return live[number % len(live)] if live else None

    @rule(number=st.integers(0, 2))
    def killed(self, number: int) -> None:
        if controller := self._somebody(number):
            self.world.log(f"-- [{controller.pid}] SIGKILL")
            self.world.end(controller.actor)

    @rule(number=st.integers(0, 2), seconds=st.sampled_from([10.0, 100.0]))
    def suspended(self, number: int, seconds: float) -> None:
        if controller := self._somebody(number):
            self.world.freeze(controller.actor, seconds)

    @rule(node=st.sampled_from(NODES), seconds=st.sampled_from([3.0, 40.0]))
    def dies(self, node: str, seconds: float) -> None:
        at = self.world.node(node)
        if all(other.alive for other in self.world.nodes):
            self.world.kill(at)
            self.world.at(seconds, lambda: self.world.revive(at))

    @rule(node=st.sampled_from(NODES), seconds=st.sampled_from([5.0, 40.0]))
    def cut_off(self, node: str, seconds: float) -> None:
        self.world.node(node).cut_until = self.world.now + seconds

    @rule(seconds=st.sampled_from([2.0, 20.0]))
    def disk_full(self, seconds: float) -> None:
        self.drive.master.disk_full = True
        self.world.at(seconds, lambda: setattr(self.drive.master, "disk_full", False))

    @rule(seconds=st.sampled_from([-3600.0, 120.0]))
    def clock_jumps(self, seconds: float) -> None:
        self.drive.master.wall += seconds

    @rule(seconds=st.sampled_from([1.0, 4.0, 15.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.sleep(seconds)

    # -- what holds -------------------------------------------------------------------------------

    @invariant()
    def judged(self) -> None:
        """S1 to S5 and S7 are judged at each event; this lets what was just done begin."""
        if hasattr(self, "drive"):
            self.world.sleep(0.5)

    def teardown(self) -> None:
        """S6 and S8: whatever happened, operators bring it to an end."""
        if not hasattr(self, "drive"):
            return
        try:
            self.drive.faults.end()
            self.drive.calm(FIRST)
        finally:
            note("\n".join(self.world.trace[-60:]))
            self.inside.__exit__(None, None, None)
            self.drive.discard()


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
