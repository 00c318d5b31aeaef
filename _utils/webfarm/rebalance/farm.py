"""One farm's loop: its reports, its decisions, its vector, and what its balancers say of that."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from webfarm import topology, weights
from webfarm.rebalance.confirm import Confirmation
from webfarm.rebalance.report import Report
from webfarm.rebalance.vector import Vector, next_epoch, plain, restored
from webfarm.weights import Decision, Law

ASSERT_SECONDS = 30.0
"""A vector that did not change is sent again so often."""
PATIENCE_SECONDS = 300.0
"""A balancer that is silent for longer is no reason to send it with every tick."""
KNOWN_SECONDS = 90.0
"""For so long counts what a balancer said of who is left alone."""
REPEATS = 3
"""One that is behind is asked again after 1, 2, 4 … ticks: 2 to the power of this at most."""

Change = dict[str, Any]


class FarmLoop:
    """A farm between its servers' reports and its balancers.

    law, base, balancers
        Of the pillar; all is handed in again when that has changed.
    vector
        What the balancers shall carry; None until a first report has come.
    """

    def __init__(self, site: str, name: str, plan: topology.Site) -> None:
        self.site, self.name = site, name
        self.state = weights.Farm()
        self.decision: Decision | None = None
        self.vector: Vector | None = None
        self.sent: float | None = None
        self.answers: dict[str, Confirmation] = {}
        self.answered: dict[str, float] = {}  # balancer: the master's clock at its last answer
        self.owing: dict[str, float] = {}  # balancer: since when it owes one
        self.asked: dict[str, tuple[float, int]] = {}  # those: when last, how often
        self.hurry = False
        self.sudden = False  # a report that is a reason to decide before the tick
        self.ticked: float | None = None
        self.changed: float | None = None  # when the vector last did
        self.reports: dict[str, Report] = {}
        self.frozen: Mapping[str, str] = {}
        self.plan(plan)

    def plan(self, site: topology.Site) -> None:
        """Take up the pillar of now."""
        farm = site.farms[self.name]
        self.law: Law = site.weights
        self.base = {server: node.weight for server, node in farm.servers.items()}
        self.farm_weight = farm.weight
        self.balancers = tuple(site.balancers)
        self.reports = {s: r for s, r in self.reports.items() if s in self.base}
        for known in (self.answers, self.answered, self.owing, self.asked):
            for gone in [name for name in known if name not in self.balancers]:
                del known[gone]  # type: ignore[attr-defined]

    @property
    def path(self) -> str:
        """``SITE/FARM``, as in tags."""
        return f"{self.site}/{self.name}"

    # -- what comes in -------------------------------------------------------------------------

    def hear(self, report: Report, now: float) -> list[Change]:
        """Take a report that is believed; the changes, when there is something that cannot wait."""
        self.reports[report.id] = report
        load = report.load()
        self.sudden |= weights.sudden(self.law, self.state, report.id, load)
        self.state = weights.absorb(self.law, self.state, report.id, load, now)
        found = weights.urgent(
            self.law, self.base, self.state, report.id, now, self.held(now), self.absent(now)
        )
        if found is None:
            return []
        decision, self.state = found
        changes = self._decided(decision, now)
        self.hurry = bool(changes)
        return changes

    def tick(self, now: float) -> list[Change]:
        """Decide; the changes of servers, with what each was made from."""
        self.sudden, self.ticked = False, now
        if self.vector is None and (not self.reports or not self.law.on):
            return []  # nobody has spoken yet: the balancers keep what they have
        decision, self.state = weights.decide(
            self.law, self.base, self.state, now, self.held(now), self.absent(now)
        )
        return self._decided(decision, now)

    def early(self, now: float) -> float:
        """Seconds until it may decide before its tick: half a tick after the last time.

        And a tick after the vector last changed, so that it never does so more often.
        """
        half, whole = self.law.tick / 2, self.law.tick
        waits = [
            then + seconds - now
            for then, seconds in ((self.ticked, half), (self.changed, whole))
            if then is not None and then <= now
        ]
        return max([0.0, *waits])

    def answer(self, balancer: str, said: Confirmation, now: float) -> None:
        """Take what a balancer has said, unless it is older than what it said before."""
        last = self.answers.get(balancer)
        if balancer not in self.balancers or (last is not None and said.at <= last.at):
            return
        self.answers[balancer] = said
        self.answered[balancer] = now
        if self.vector is None or said.epoch < self.vector.epoch:
            return
        if said.epoch > self.vector.epoch:  # of another time, or another master: ours is the newest
            self.vector = replace(self.vector, epoch=next_epoch(said.epoch, now))
            self.sent = None
        else:
            self.owing.pop(balancer, None)
            self.asked.pop(balancer, None)

    # -- what goes out -------------------------------------------------------------------------

    def due(self, now: float) -> tuple[str, ...]:
        """The balancers that the vector shall be sent to now.

        A balancer that owes an answer and answers others is behind with its work. Another command
        with each tick would only put it further behind, so it gets the next one later and later.
        What is urgent goes out all the same.
        """
        if self.vector is None:
            return ()
        if self.sent is None:
            wanted = self.balancers
        elif not 0 <= now - self.sent < ASSERT_SECONDS:
            wanted = self.balancers if self.law.on else tuple(self.owing)
        else:
            wanted = tuple(name for name in self.owing if self.owes(name, now))
        if self.hurry:
            return wanted
        return tuple(name for name in wanted if not self._behind(name, now))

    def _behind(self, balancer: str, now: float) -> bool:
        at, times = self.asked.get(balancer, (now - PATIENCE_SECONDS, 1))
        ticks: int = 2 ** min(times - 1, REPEATS)
        return 0 <= now - at < (ticks - 0.5) * self.law.tick

    def send(self, to: Collection[str], now: float) -> Vector:
        """The vector, as sent now: these balancers owe an answer, the others do from before."""
        assert self.vector is not None
        new = self.sent is None
        if new or len(to) == len(self.balancers):
            self.sent = now
        for balancer in self.balancers if new else to:
            self.owing.setdefault(balancer, now)
        for balancer in to:
            self.asked[balancer] = (now, self.asked.get(balancer, (now, 0))[1] + 1)
        self.hurry = False
        return self.vector

    def owes(self, balancer: str, now: float, seconds: float = 0.0) -> bool:
        """Whether it is to have the vector since ``seconds`` ago, has not said so, and may yet."""
        since = self.owing.get(balancer)
        return since is not None and seconds <= now - since < PATIENCE_SECONDS

    def back(self, balancer: str) -> bool:
        """A balancer answers again: whether it shall get the vector at once."""
        self.asked.pop(balancer, None)
        return self.vector is not None and balancer in self.owing

    # -- who is not the loop's -----------------------------------------------------------------

    def whole(self, now: float) -> str:
        """Why the farm as a whole is not the loop's, as a balancer said lately; or empty."""
        for balancer, said in self.answers.items():
            if said.left and self._fresh(balancer, now):
                return f"{balancer}: {said.left}"
        return ""

    def held(self, now: float) -> dict[str, str]:
        """Servers whose weights stay as they are, with the reason."""
        whole = self.whole(now)
        return {**({s: whole for s in self.base} if whole else {}), **self.frozen}

    def absent(self, now: float) -> dict[str, str]:
        """Servers that a hand or a rollout took out on some balancer, with its words."""
        found: dict[str, str] = {}
        for balancer, said in self.answers.items():
            if self._fresh(balancer, now):
                for server, why in said.left_alone.items():
                    if server in self.base:
                        found.setdefault(server, f"{balancer}: {why:.200}")
        return found

    def _fresh(self, balancer: str, now: float) -> bool:
        return 0 <= now - self.answered.get(balancer, -KNOWN_SECONDS) < KNOWN_SECONDS

    # -- memory --------------------------------------------------------------------------------

    def memory(self) -> dict[str, Any]:
        """What the next process must know, for :meth:`resume`."""
        return {"state": weights.pack(self.state), "vector": plain(self.vector)}

    def resume(self, memory: Mapping[str, Any]) -> None:
        """Go on where another process was; :class:`WebfarmError` when that cannot be read."""
        vector = restored(memory.get("vector"))
        self.state = weights.unpack(memory.get("state"))
        self.vector = vector

    def _decided(self, decision: Decision, now: float) -> list[Change]:
        before, self.decision = self.vector, decision
        share = max(1, round(self.farm_weight * decision.share))
        last = before.epoch if before else 0
        seen = max([last, *(one.epoch for one in self.answers.values())])
        new = Vector(
            self.site,
            self.name,
            next_epoch(seen, now),
            dict(decision.weights),
            {server: _short(why) for server, why in decision.drained.items()},
            share,
        )
        if new.says(before):
            return []
        self.vector, self.sent, self.changed = new, None, now
        return [
            self._change(server, before, decision, new)
            for server in self.base
            if before is None
            or new.weights[server] != before.weights.get(server)
            or (server in new.drained) != (server in before.drained)
        ]

    def _change(
        self, server: str, before: Vector | None, decision: Decision, new: Vector
    ) -> Change:
        estimate = decision.estimates.get(server)
        return {
            "server": server,
            "epoch": new.epoch,
            "from": before.weights.get(server) if before else None,
            "to": new.weights[server],
            "drained": new.drained.get(server, ""),
            "why": decision.why.get(server, ""),
            "from_what": asdict(estimate) if estimate else {},
        }


def _short(reason: str) -> str:
    """As balancers take it: printable, at most 200 characters."""
    return "".join(c if c.isprintable() else "?" for c in reason)[:200]
