"""A farm in a few lines: servers of some slowness whose requests are shared out by weight."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from webfarm.weights import Decision, Farm, Law, Load, absorb, decide, urgent

SERVICE = 0.04  # seconds that a request takes on a server that is well
CHILDREN = 20


def load(
    rate: float = 100.0,
    seconds: float = 4.0,
    slow: float = 1.0,
    errors: float = 0.0,
    **more: object,
) -> Load:
    """What a server reports that answered ``rate`` requests/s, each ``slow`` times as long."""
    requests = round(rate * seconds)
    busy = requests * SERVICE * slow
    said = Load(
        seconds=seconds,
        requests=requests,
        errors=round(requests * errors),
        busy=busy,
        active=min(CHILDREN, busy / seconds),
        children=CHILDREN,
    )
    return replace(said, **more)  # type: ignore[arg-type]


@dataclass
class Loop:
    """The law around a farm. ``rate`` is the farm's, in requests/s.

    elasticity
        The time of a request grows with this power of the load that the server got.
    delay
        So many ticks a vector needs to come into force.
    """

    law: Law
    base: Mapping[str, int]
    slow: dict[str, float] = field(default_factory=dict)
    failing: dict[str, float] = field(default_factory=dict)
    pressed: dict[str, float] = field(default_factory=dict)
    rate: float = 100.0
    elasticity: float = 0.0
    delay: int = 0
    state: Farm = field(default_factory=Farm)
    now: float = 1_000_000.0
    decisions: list[Decision] = field(default_factory=list)

    def loads(self) -> dict[str, Load]:
        """What each server reports for the last tick."""
        past = self.decisions[: len(self.decisions) - self.delay]
        weights = past[-1].weights if past else self.base
        drained = past[-1].drained if past else {}
        total = sum(weight for name, weight in weights.items() if name not in drained)
        fair = self.rate / sum(self.base.values())
        said = {}
        for name, base in self.base.items():
            rate = 0.0 if name in drained else self.rate * weights[name] / total
            slow = self.slow.get(name, 1.0)
            if rate and self.elasticity:
                slow *= (rate / (fair * base)) ** self.elasticity
            said[name] = load(
                rate,
                self.law.tick,
                slow,
                self.failing.get(name, 0.0),
                children=max(1, round(CHILDREN * base / 100)),
                psi_cpu=self.pressed.get(name),
            )
        return said

    def tick(self, silent: Sequence[str] = (), absent: Sequence[str] = ()) -> Decision:
        """One tick: every server reports, the law decides."""
        self.now += self.law.tick
        for name, said in self.loads().items():
            if name in silent:
                continue
            self.state = absorb(self.law, self.state, name, said, self.now)
            if now := urgent(self.law, self.base, self.state, name, self.now, absent=absent):
                self.state = now[1]
        decision, self.state = decide(self.law, self.base, self.state, self.now, absent=absent)
        self.decisions.append(decision)
        return decision

    def ticks(self, count: int, silent: Sequence[str] = (), absent: Sequence[str] = ()) -> Decision:
        """``count`` ticks; the last decision."""
        for _ in range(count):
            decision = self.tick(silent, absent)
        return decision


def farm(count: int, weight: int = 100) -> dict[str, int]:
    """The base weights of ``count`` equal servers: ws1, ws2 …"""
    return {f"ws{number}": weight for number in range(1, count + 1)}
