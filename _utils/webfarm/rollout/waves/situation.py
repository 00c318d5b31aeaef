"""Answer questions about one wave in one observation: who is out, whose work is done, what is left.

Nothing here depends on what a process remembers of its own deeds where the nodes can show it: a
server is out when the balancers say that a rollout took it, its packages are installed when it
lists them, it was rebooted when its boot id is another one.
"""

from collections.abc import Iterable
from functools import cached_property

from webfarm.rollout.model import Goal, Seen, ServerAtBalancer, ServerView, listed
from webfarm.rollout.situation import WITHHELD, Situation
from webfarm.rollout.waves.values import NO_SNAPSHOTS, Expected, MemberBefore, OsView, WaveMemory
from webfarm.topology import Farm, Server, Site

FORWARD, BACK, AS_IT_IS = "forward", "back", "as it is"


class WaveSituation(Situation):
    """What is wanted of a wave's members beside what is seen of their site."""

    memory: WaveMemory  # type: ignore[assignment]

    def __init__(self, goal: Goal, site: Site, seen: Seen, memory: WaveMemory) -> None:
        assert goal.wave is not None
        self.goal = goal
        self.wave = goal.wave
        self.site = site
        self.seen = seen
        self.memory = memory  # type: ignore[assignment]
        self.farms = self.wave.members

    # -- a member ---------------------------------------------------------------------------------

    def plan(self, name: str) -> Server:
        """The member in the pillar."""
        return self.site.farms[self.farms[name]].servers[name]

    def places(self, name: str) -> dict[str, ServerAtBalancer]:
        """The member as each balancer has it; one that a balancer does not know is not there."""
        farm = self.farms[name]
        return {
            balancer: view.farms[farm].servers[name]
            for balancer, view in self.balancers.items()
            if name in view.farms[farm].servers
        }

    def everywhere(self, name: str, test: Iterable[bool]) -> bool:
        """Every balancer knows the member, and finds this of it."""
        return len(self.places(name)) == len(self.site.balancers) and all(test)

    def taken(self, name: str) -> bool:
        """A rollout has it out of service on some balancer."""
        return any(at.taken for at in self.places(name).values())

    def is_in(self, name: str, *states: str) -> bool:
        """It is in one of these administrative states on every balancer, by a rollout."""
        places = self.places(name).values()
        return self.everywhere(name, (at.admin in states and at.taken for at in places))

    def serves(self, name: str) -> bool:
        """It gets requests from every balancer, or would but for the weights' loop."""
        places = self.places(name).values()
        return self.everywhere(name, (at.healthy and not at.withheld for at in places))

    def passes(self, name: str) -> bool:
        """Its health checks pass at every balancer, and every balancer makes them."""
        places = self.places(name).values()
        return self.everywhere(name, (at.passes and at.admin != "maint" for at in places))

    def missing_at(self, name: str) -> str:
        """The balancers that do not find it UP, and what they find."""
        places = self.places(name)
        found = [
            f"{balancer} ({places[balancer].status} {places[balancer].check})".replace(" )", ")")
            if balancer in places
            else f"{balancer} (unknown there)"
            for balancer in self.site.balancers
            if balancer not in places or not places[balancer].passes
        ]
        return listed(found)

    def held_by_another(self, name: str) -> bool:
        """An operator holds it out of service on some balancer."""
        return any(at.withheld and not at.taken for at in self.places(name).values())

    def view(self, name: str) -> ServerView:
        """What it says of itself."""
        return self.seen.servers.get(name) or ServerView(name, False, "was not asked")

    def os(self, name: str) -> OsView:
        """What it says of its system."""
        return self.view(name).os or OsView()

    def before(self, name: str) -> MemberBefore:
        """How it was when the wave came to it, or before the run that is taken back."""
        return self.wave.back.get(name) or self.memory.before.get(name) or MemberBefore()

    def release(self, name: str) -> str:
        """What the balancers expect of its farm; empty when they differ."""
        found = {view.farms[self.farms[name]].release for view in self.balancers.values()}
        return found.pop() if len(found) == 1 else ""

    # -- its work ---------------------------------------------------------------------------------

    def expected(self, name: str) -> Expected:
        """What was certified for its hardware profile."""
        return self.wave.expected.get(self.plan(name).hw_profile, {})

    def lacks(self, name: str) -> dict[str, dict[str, str]]:
        """The packages that it does not have as they were certified."""
        has = self.os(name).installed
        return {p: dict(e) for p, e in self.expected(name).items() if has.get(p) != e.get("to")}

    def installed(self, name: str) -> bool:
        """It has every package as it was certified."""
        return self.view(name).answered and not self.lacks(name)

    def unchanged(self, name: str) -> bool:
        """It has the packages that it had before."""
        before, has = self.before(name).installed, self.os(name).installed
        return all(has.get(package) == before.get(package) for package in {*before, *has})

    def snapshots(self, name: str) -> bool:
        """Somebody makes snapshots of it."""
        return self.os(name).provider != NO_SNAPSHOTS

    def has_snapshot(self, name: str) -> bool:
        """The snapshot of before this wave is there."""
        return bool(self.before(name).snapshot) and (
            self.before(name).snapshot in self.os(name).snapshots
        )

    def way(self, name: str) -> str:
        """Where the member goes: forward, back, or into service as it is."""
        if self.wave.back:
            begun = self.memory.before.get(name, MemberBefore()).attempted
            return AS_IT_IS if self.memory.gives_up and not begun else BACK
        if name in self.memory.failed:
            return BACK
        if self.memory.gives_up and not self.installed(name):
            return BACK if self.before(name).attempted else AS_IT_IS
        return FORWARD

    def reboots(self, name: str) -> bool:
        """Its packages need a reboot; one of which that is not known is rebooted."""
        if self.wave.reboot != "auto":
            return self.wave.reboot == "yes"
        return self.memory.reboot.get(name, True)

    def rebooted(self, name: str) -> bool:
        """Its boot id is another one than before: it did reboot."""
        boot_id = self.before(name).boot_id
        return bool(boot_id and self.view(name).boot_id) and self.view(name).boot_id != boot_id

    def restored(self, name: str) -> bool:
        """It runs from its snapshot, or never had anything to take back."""
        before = self.before(name)
        if not self.unchanged(name):
            return False
        if not before.attempted:
            return True
        came_from = bool(before.snapshot) and self.os(name).restored == before.snapshot
        return came_from and self.rebooted(name)

    def worked(self, name: str) -> bool:
        """Its work is done, as far as it can be seen: what is left is to verify and open it."""
        way = self.way(name)
        if not self.view(name).answered or way == AS_IT_IS:
            return self.view(name).answered
        if way == BACK:
            return self.restored(name)
        if not self.installed(name):
            return False
        return self.rebooted(name) if self.reboots(name) else name in self.memory.restarted

    def trouble(self, name: str) -> str:
        """Why a member whose work is done is not in order; empty when it is."""
        view, release = self.view(name), self.release(name)
        if not view.answered:
            return f"does not answer: {view.why}"
        if self.os(name).failed:
            return f"{listed(self.os(name).failed)} does not run"
        if not view.runs(release):
            shown = view.release or "no release"
            return f"expected {release or 'one release'}, it shows {shown}" + (
                "" if view.ready else f", not ready: {view.why}"
            )
        return ""

    # -- the wave ---------------------------------------------------------------------------------

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Members that are not taken, and why: out of service already, or held by somebody."""
        out = {}
        for name in self.farms:
            if self.taken(name) or name in self.memory.lost or name in self.memory.failed:
                continue
            if self.held_by_another(name):
                out[name] = WITHHELD
            elif not self.view(name).answered:
                out[name] = f"does not answer: {self.view(name).why}"
            elif not self.serves(name):
                out[name] = f"is out of service already: not UP on {self.missing_at(name)}"
        return out

    @cached_property
    def todo(self) -> list[str]:
        """Members that are out, or have to be taken out."""
        return [name for name in self.farms if name not in self.memory.lost and self._todo(name)]

    def _todo(self, name: str) -> bool:
        if self.taken(name):
            return True
        if name in self.skipped or name in self.memory.failed or self.memory.gives_up:
            return False
        return not (self.restored(name) if self.wave.back else self.installed(name))

    @property
    def left_out(self) -> dict[str, str]:
        """Members that are not in service or not as wanted, and why."""
        return {**self.skipped, **self.memory.failed, **self.memory.lost}

    @property
    def in_flight(self) -> int:
        """Requests on the members that are out, over all balancers and their old workers."""
        return sum(at.in_flight for name in self.todo for at in self.places(name).values())

    @property
    def idle(self) -> bool:
        """Every member is held everywhere with nothing in flight; an old worker could still send.

        A worker that a reload left behind lets nobody change its servers, so while there is one,
        requests on connections that it keeps may reach a member.
        """
        return (
            not self.blind
            and all(self.is_in(name, "maint") for name in self.todo if not self.worked(name))
            and self.in_flight == 0
            and not any(view.old_workers for view in self.balancers.values())
        )

    # -- capacity ---------------------------------------------------------------------------------

    def up(self, name: str, everywhere: bool = True) -> bool:
        """As :meth:`Situation.up`, of any server of the site."""
        farm = next(f for f, plan in self.site.farms.items() if name in plan.servers)
        found = [
            name in view.farms[farm].servers and view.farms[farm].servers[name].healthy
            for view in self.balancers.values()
        ]
        return all(found) if everywhere else any(found)

    def keeps(self, farm: str, without: Iterable[str] = ()) -> float:
        """The share of a farm's weight that is UP on every balancer, without these servers."""
        plan: Farm = self.site.farms[farm]
        gone = set(without)
        up = (s.weight for n, s in plan.servers.items() if n not in gone and self.up(n))
        return sum(up) / plan.weight

    def site_keeps(self, without: Iterable[str] = ()) -> float:
        """The share of the site's weight in open farms, without these servers."""
        gone = set(without)
        serving = sum(
            server.weight
            for farm, plan in self.site.farms.items()
            if all(view.farms[farm].state == "open" for view in self.balancers.values())
            for name, server in plan.servers.items()
            if name not in gone and self.up(name)
        )
        return serving / self.site_weight

    def load_without(self, servers: Iterable[str]) -> float:
        """Requests in flight and queued over the php-fpm processes that would be left."""
        gone = set(servers)
        busy = sum(
            at.in_flight + at.queued for v in self.balancers.values() for at in v.farms.values()
        )
        children = sum(
            server.max_children
            for plan in self.site.farms.values()
            for name, server in plan.servers.items()
            if name not in gone and self.up(name)
        )
        return busy / children if children else float("inf")
