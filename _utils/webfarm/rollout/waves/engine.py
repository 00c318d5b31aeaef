"""Take one wave of a site through a set of packages: what its turns remember, how it ends."""

import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from webfarm.rollout.model import Before, Goal, InService, Step, Wish, listed
from webfarm.rollout.turns import Turns
from webfarm.rollout.watcher import Outcome
from webfarm.rollout.waves.act import perform
from webfarm.rollout.waves.situation import BACK, WaveSituation
from webfarm.rollout.waves.values import MemberBefore, Wave, WaveMemory
from webfarm.rollout.waves.world import WaveWorld
from webfarm.rollout.world import Result

NOTED = ("drain", "install", "restore")  # before these a member's state is written down


class WaveEngine(Turns):
    """Takes one wave to its packages, or back; members that fail are taken back one by one.

    The run is ``paused`` when a member failed: the waves that follow are not begun until somebody
    has looked. A member that cannot be brought back stays out of service and is named.
    """

    def _world(self, goal: Goal, known: Before | None) -> WaveWorld:
        members = known.members if known else {}
        before = {name: MemberBefore(**one) for name, one in members.items()}
        done = frozenset(self._already_done())
        memory = WaveMemory(before=before, done=done)
        return WaveWorld(goal, self.site, self.cluster, self.clock, memory)

    def _already_done(self) -> set[str]:
        """A soak that was cut short begins again."""
        if not self.resumed:
            return set()
        ended = {(one["name"], one["state"]) for one in self.journal.steps(self.rollout)}
        opened = any(name == "open" for name, _ in ended)
        return {"open"} if opened and ("soak", "done") not in ended else set()

    def _perform(self, step: Step, waits: Callable[[str, float], None]) -> Result:
        return perform(step, self.world, waits, lambda: self._wish() is not None)

    def _untouched(self, step: Step) -> bool:
        now: WaveSituation = self.world.situation
        taken = not now.blind and any(map(now.taken, now.farms))
        return step.name != "preflight" and "open" not in now.memory.done and not taken

    def _note(self, step: Step) -> None:
        """Write down how the members are, before a step that changes it."""
        if step.name not in NOTED:
            return
        now: WaveSituation = self.world.situation
        memory: WaveMemory = self.world.memory
        before = dict(memory.before)
        for name in now.farms if step.name == "drain" else step.targets:
            if step.name == "drain" and (now.taken(name) or name not in now.todo):
                continue
            before[name] = self._before(now, name, step.name)
        if before != memory.before:
            self.journal.remember(
                self.rollout, Before("", 0, {n: asdict(one) for n, one in before.items()})
            )
            self.world.memory = replace(memory, before=before)

    def _before(self, now: WaveSituation, name: str, step: str) -> MemberBefore:
        boot_id = now.view(name).boot_id
        if step == "drain":
            snapshot = f"os-{self.number}-{int(self.clock.time())}"
            return MemberBefore(boot_id, snapshot, dict(now.os(name).installed))
        known = now.memory.before.get(name) or MemberBefore()
        return replace(known, boot_id=boot_id, attempted=True)

    def _after(self, step: Step) -> None:
        self.world.observe()

    # -- ends --------------------------------------------------------------------------------------

    def _arrived(self, arrived: InService) -> Outcome:
        memory: WaveMemory = self.world.memory
        left_out = dict(arrived.left_out)
        where = f"{self.asked.farm} of {self.asked.site}"
        if self.aborting:
            out = f"; out of service: {_shown(memory.lost)}" if memory.lost else ""
            message = f"{self.aborting}: no server of {where} is held out of service{out}"
            return self._outcome("aborted", message, left_out)
        if memory.gives_up:
            return self._outcome("failed", f"{memory.gives_up}; its servers serve again", left_out)
        if self._stops():
            return self._outcome("paused", self._failure(), left_out)
        goal = "taken back" if self._wave.back else "upgraded"
        if not self.done and not self.resumed:
            skipped = f" ({_shown(left_out)})" if left_out else ""
            return self._outcome("nothing", f"{where}: nothing to do{skipped}", left_out)
        skipped = f"; not taken: {_shown(left_out)}" if left_out else ""
        cut = sum(int(str(done.evidence.get("cut", 0))) for done in self.done)
        lost = f"; {cut} requests were cut (on_deadline: force)" if cut else ""
        return self._outcome("done", f"{where} is {goal}{lost}{skipped}", left_out)

    def _stops(self) -> bool:
        """A member failed: no further one is taken until somebody has looked."""
        return bool(self.world.memory.lost or self.world.memory.failed)

    def _failure(self) -> str:
        memory: WaveMemory = self.world.memory
        said = []
        if memory.failed and self._wave.online:
            said.append(f"{_shown(memory.failed)}. It is in service as before")
        elif memory.failed:
            said.append(
                f"{_shown(memory.failed)}. Taken back to what it was before, verified, and in "
                "service again"
            )
        if memory.lost:
            said.append(f"{_shown(memory.lost)}. It stays out of service")
        return ". ".join(said) + ". No further server is taken"

    def _abort(self, wish: Wish) -> Outcome | None:
        self.aborting = wish
        now: WaveSituation = self.world.situation
        if not any(map(now.taken, now.farms)):
            return self._outcome("aborted", f"{wish}: no server of {self.asked.farm} is out")
        self._give_up(str(wish))
        return None

    def _give_up(self, why: str) -> None:
        self.world.memory = replace(self.world.memory, gives_up=why)

    def _fail(self, reason: str, retreat: bool = True) -> Outcome | None:
        """Bring back what is out when that is safe; after the opening only say what was seen."""
        now: WaveSituation = self.world.situation
        changed = any(done.step != "preflight" for done in self.done)
        if now.blind:
            state = "paused" if changed or self.resumed else "refused"
            return self._outcome(
                state, f"{reason}. Nothing is changed while a balancer may not have followed"
            )
        out = [name for name in now.farms if now.taken(name)]
        if not out:
            state = "paused" if changed or self.resumed else "refused"
            return self._outcome(state, reason)
        pauses = self.site.policy.on_failure == "pause" and not self.aborting
        if self.world.memory.gives_up or pauses:
            return self._outcome("paused", f"{reason}. {listed(out)} stays out of service")
        self._give_up(reason)
        return None

    # -- words -------------------------------------------------------------------------------------

    @property
    def _wave(self) -> Wave:
        assert self.asked.wave is not None
        return self.asked.wave

    def _left_out(self) -> dict[str, str]:
        self.world.observe()
        now: WaveSituation = self.world.situation
        if now.blind:
            return {}
        out = {n: "is out of service, the wave has not ended" for n in now.farms if now.taken(n)}
        return {**out, **now.left_out}

    def _quarantine(self, outcome: Outcome) -> None:
        """In the members' farms: who stays out, beside those that were left out before."""
        for member, farm in self._wave.members.items():
            rows = self.journal.quarantined(self.asked.site)
            left = {
                row["server"]: row["why"]
                for row in rows
                if row["farm"] == farm and row["server"] != member
            }
            if member in outcome.left_out:
                left[member] = outcome.left_out[member]
            self.journal.quarantine(self.asked.site, farm, left, self.clock.time())

    def _describe(self) -> str:
        return describe(self.world.situation)

    def _command(self) -> str:
        return command(self.asked)


def command(goal: Goal) -> str:
    """What to type to ask for the packages again."""
    assert goal.wave is not None
    packages = shlex.quote("[" + ", ".join(goal.wave.packages) + "]")
    if goal.wave.back:
        return "salt-run upgrade.history"
    kind = "online" if goal.wave.online else "disruptive"
    reboot = "" if goal.wave.reboot == "auto" else f" reboot={goal.wave.reboot}"
    return f"salt-run upgrade.os {goal.site} packages={packages} kind={kind}{reboot}"


def describe(now: WaveSituation) -> str:
    """The wave's members as the balancers have them, in one line."""
    if now.blind:
        return f"{now.goal.farm}: not known ({'; '.join(now.blind)})"
    out = [name for name in now.farms if now.taken(name)]
    serving = sum(now.serves(name) for name in now.farms)
    held = f"; out of service: {listed(out)}" if out else ""
    return (
        f"{serving} of {len(now.farms)} servers of {now.goal.farm} in {now.goal.site} serve{held}; "
        f"{int(now.site_keeps() * 100)} % of the site's capacity in service"
    )


def _shown(servers: dict[str, str] | Any) -> str:
    return listed([f"{name} ({why})" for name, why in servers.items()])


__all__ = ["BACK", "WaveEngine", "command", "describe"]
