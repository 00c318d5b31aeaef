"""Answer questions about one farm in one observation: capacity, agreement, shares, generation."""

from collections.abc import Iterable, Mapping
from functools import cached_property

from webfarm.policy import budget
from webfarm.releases import order_key
from webfarm.rollout.model import (
    BalancerView,
    FarmAtBalancer,
    Goal,
    Memory,
    Seen,
    ServerView,
    listed,
)
from webfarm.topology import Farm, Site

WITHHELD = "is held out of service by an operator"


class Situation:
    """What is wanted of a farm beside what is seen of its site; computes, changes nothing."""

    def __init__(self, goal: Goal, site: Site, seen: Seen, memory: Memory) -> None:
        self.goal = goal
        self.site = site
        self.seen = seen
        self.memory = memory
        self.farm: Farm = site.farms[goal.farm]

    # -- what cannot be known ---------------------------------------------------------------

    @cached_property
    def blind(self) -> list[str]:
        """Why the farm's state is not known on every balancer; empty when it is."""
        lines = []
        for name in self.site.balancers:
            view = self.seen.balancers.get(name)
            if view is None or not view.answered:
                why = view.why if view else "was not asked"
                lines.append(f"balancer {name} does not say how its farms are: {why}")
                continue
            missing = [farm for farm in self.site.farms if farm not in view.farms]
            if missing:
                lines.append(
                    f"balancer {name} does not know {listed(missing)}: apply its highstate"
                )
        return lines

    # -- the balancers ------------------------------------------------------------------------

    @cached_property
    def balancers(self) -> dict[str, BalancerView]:
        """Every balancer of the site; only while :attr:`blind` is empty."""
        return {name: self.seen.balancers[name] for name in self.site.balancers}

    @cached_property
    def at(self) -> dict[str, FarmAtBalancer]:
        """The farm as each balancer has it."""
        return {name: view.farms[self.goal.farm] for name, view in self.balancers.items()}

    @cached_property
    def states(self) -> set[str]:
        """The farm's states; one of them when the balancers agree."""
        return {farm.state for farm in self.at.values()}

    @cached_property
    def fences(self) -> set[str]:
        """The releases that the balancers expect of the farm's servers."""
        return {farm.release for farm in self.at.values()}

    @property
    def fenced(self) -> bool:
        """Every balancer expects the goal's release."""
        return self.fences == {self.goal.release}

    @property
    def whole(self) -> bool:
        """Every balancer has on disk what it has in memory: no change was cut short."""
        return all(view.disk_agrees for view in self.balancers.values())

    def fenced_at(self, name: str) -> bool:
        """The balancer expects the goal's release, and will after a restart.

        A change that was cut short is on its disk and not in its memory; the next change would
        bring it about, whatever that is for.
        """
        return self.at[name].release == self.goal.release and self.balancers[name].disk_agrees

    def picked(self, name: str) -> bool:
        """The balancer gives the farm new sessions."""
        view = self.balancers[name]
        farm = self.goal.farm
        return view.pick.get(farm, 0) > 0 or view.pick_newest.get(farm, 0) > 0

    @property
    def in_flight(self) -> int:
        """Requests in the farm or queued for it, over all balancers and their old workers."""
        return sum(farm.in_flight + farm.queued for farm in self.at.values())

    @property
    def idle(self) -> bool:
        """Closed on every balancer, with nothing in flight."""
        return not self.blind and self.states == {"closed"} and self.in_flight == 0

    def others(self, states: Iterable[str] = ("open",)) -> list[str]:
        """The site's other farms that are in one of ``states`` on every balancer."""
        wanted = set(states)
        return [
            farm
            for farm in self.site.farms
            if farm != self.goal.farm
            and all(view.farms[farm].state in wanted for view in self.balancers.values())
        ]

    # -- servers --------------------------------------------------------------------------------

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Servers that this rollout does without, and why: quarantined, or not answering."""
        out = {}
        for name in self.farm.servers:
            view = self.server(name)
            if name in self.memory.quarantined:
                out[name] = self.memory.quarantined[name]
            elif not view.answered:
                out[name] = f"does not answer: {view.why}"
        return out

    @property
    def out_of_service(self) -> dict[str, str]:
        """Servers that get no requests from some balancer, or should not, and why.

        Of a farm in service: on whatever release its balancers expect, be it the goal's or not.
        """
        out = dict(self.left_out)
        (release,) = self.fences
        for name in self.members:
            view = self.server(name)
            if not view.runs(release):
                out[name] = f"shows {view.release or 'no release'}" + (
                    "" if view.ready else f", not ready: {view.why}"
                )
            elif self.withheld(name):
                out[name] = WITHHELD
            elif not self.up(name):
                out[name] = f"is not UP on {listed(self.not_up_on(name))}"
        return out

    def not_up_on(self, name: str) -> list[str]:
        """The balancers that do not find the farm's server UP, and what they find."""
        return [
            f"{balancer} ({farm.servers[name].status} {farm.servers[name].check})"
            if name in farm.servers
            else f"{balancer} (unknown there)"
            for balancer, farm in self.at.items()
            if name not in farm.servers or not farm.servers[name].healthy
        ]

    @cached_property
    def members(self) -> list[str]:
        """The servers that take part."""
        return [name for name in self.farm.servers if name not in self.left_out]

    def server(self, name: str) -> ServerView:
        """What the server says of itself."""
        return self.seen.servers.get(name) or ServerView(name, False, "was not asked")

    def up(self, name: str, everywhere: bool = True) -> bool:
        """The balancers' health checks find the farm's server UP: all of them, or any.

        One that the weights' loop has drained counts as what its checks find.
        """
        test = all if everywhere else any
        return test(
            name in farm.servers and farm.servers[name].healthy for farm in self.at.values()
        )

    def withheld(self, name: str) -> bool:
        """An operator holds the server out of service on some balancer."""
        return any(
            name in farm.servers and farm.servers[name].withheld for farm in self.at.values()
        )

    def may_do_without(self, servers: Mapping[str, str]) -> bool:
        """The policy's ``max_failed`` covers ``servers``."""
        return len(servers) <= self.budget

    @property
    def budget(self) -> int:
        """How many of the farm's servers may be left out (``max_failed``)."""
        return budget(self.site.policy.max_failed, len(self.farm.servers))

    def to_flush(self) -> list[str]:
        """The pool's members that must be proven empty.

        A member on a server that is left out may be out of reach. It cannot serve the past: what
        the farm could not write there is marked ``X-Webfarm-Uncached``, and the next request of
        that session reads the database.
        """
        owner = {server.address: name for name, server in self.farm.servers.items()}
        return [
            member
            for member in self.farm.memcached
            if owner.get(member.rpartition(":")[0]) not in self.left_out
        ]

    # -- capacity and shares ----------------------------------------------------------------------

    def capacity(self, without: str | None = None) -> float:
        """The share of the site's weight in service, as the balancer sees it that sees least.

        Weights of the servers that are UP in open farms, over the weights of all the site's
        servers. The weights are the pillar's: those at run time say how much of the load a server
        shall have, beside the others of its farm, and not how much it can carry.
        """
        return self._serving(without) / self.site_weight

    @property
    def site_weight(self) -> int:
        """The weights of all the site's servers."""
        return sum(farm.weight for farm in self.site.farms.values())

    def _serving(self, without: str | None) -> int:
        return min(
            sum(
                self._weight_up(view, name)
                for name in self.site.farms
                if name != without and view.farms[name].state == "open"
            )
            for view in self.balancers.values()
        )

    def _weight_up(self, view: BalancerView, farm: str) -> int:
        seen = view.farms[farm].servers
        return sum(
            server.weight
            for name, server in self.site.farms[farm].servers.items()
            if name in seen and seen[name].up
        )

    def shares(self, farms: Iterable[str]) -> dict[str, int]:
        """Each farm's weight in a pick map: the sum of its servers' weights, UP or not.

        What is UP changes by itself, the map only when a rollout writes it: a share that followed a
        moment's health would stay when the health is back. Where the weights' loop runs, it weighs
        the farms that are in a map by what they can do, and does so again after it was written.
        """
        return {farm: self.site.farms[farm].weight for farm in farms}

    # -- generations ------------------------------------------------------------------------------

    @cached_property
    def newest(self) -> int:
        """The highest generation that any balancer knows."""
        return max(
            max(view.newest, *(farm.generation for farm in view.farms.values()))
            for view in self.balancers.values()
        )

    @property
    def known(self) -> int:
        """The highest generation that every balancer knows: an amnesty passes it nowhere."""
        return min(view.newest for view in self.balancers.values())

    @cached_property
    def generation(self) -> int:
        """The generation with which the farm opens on the goal's release.

        The invariant: **a generation stands for one release**. Whenever a farm is not closed on
        some balancer, its fence there is the release of its generation there; and of two
        generations the higher one never has the older release, unless the operator chose to reset
        sessions. So a session that bears generation g has seen nothing newer than g's release, and
        a farm of a generation >= g may answer it.

        It holds because the fence moves only while the farm is closed on every balancer, and the
        farm leaves ``closed`` only together with a generation that is

        - the newest one, if some farm that is not closed shows it to be this release's; or
        - the farm's own, if it served this very release with it and the number was not raised
          since; or
        - a new one, above all that any balancer has: nobody can have seen it.

        A closed farm proves nothing: its fence may have moved while its generation waits to be
        raised. So an interruption in between costs at most a number that is skipped.
        """
        shown = any(
            farm.generation == self.newest
            and farm.release == self.goal.release
            and farm.state != "closed"
            for view in self.balancers.values()
            for farm in view.farms.values()
        )
        if shown:
            return self.newest
        before = self.memory.before
        own = {farm.generation for farm in self.at.values()}
        if before and before.release == self.goal.release and own == {before.generation}:
            return before.generation
        return self.newest + 1

    @cached_property
    def resets(self) -> bool:
        """The goal is older than what sessions have seen, and the operator accepts their reset."""
        return self.goal.reset_sessions and bool(self._newer)

    def amnesty(self, generation: int) -> dict[str, int]:
        """The part of a change that lets older farms answer sessions up to ``generation``.

        Sessions of the farm that goes back have seen a release that no other farm may have: without
        it nobody could answer them once it is closed. Those of its new generation have the release
        that farms of an older one have too.
        """
        return {"amnesty": generation} if self.resets else {}

    def lacks_amnesty(self, balancer: str, generation: int) -> bool:
        """The balancer does not let older farms answer them yet, and should."""
        return self.resets and self.balancers[balancer].amnesty < generation

    @cached_property
    def regression(self) -> str:
        """Why a session could see an older release after this goal; empty when none can."""
        if self.goal.reset_sessions or self.generation <= self.newest:
            return ""
        if not self._newer:
            return ""
        shown = listed([f"{name} is on {release}" for name, release in sorted(self._newer)])
        return (
            f"{self.goal.release} is older than what sessions have seen ({shown}); going back "
            "resets those sessions and must be asked for with reset_sessions=True"
        )

    @cached_property
    def _newer(self) -> set[tuple[str, str]]:
        """Farms, and the releases newer than the goal's that they have, or had before."""
        target = order_key(self.goal.release)
        newer = {
            (name, farm.release)
            for view in self.balancers.values()
            for name, farm in view.farms.items()
            if order_key(farm.release) > target
        }
        before = self.memory.before
        if before and order_key(before.release) > target:
            newer.add((self.goal.farm, before.release))
        return newer
