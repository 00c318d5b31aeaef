"""The law by which the weights of a farm follow the health of its servers: pure, no clock, no I/O.

Call :func:`absorb` for each report that was found genuine and in order, :func:`urgent` right after
it, and :func:`decide` once in a tick. ``now`` is any clock in seconds that goes on over a restart
(wall time); where it goes back, what lies ahead of it counts as now.

**The formula.** For each server, from the reports of a tick (all parameters are in :class:`Law`)::

    r  requests/s        e  share of 5xx, of the latest requests     q  listen queue / processes
    u  share of the php-fpm processes at work: max(busy / (seconds * children), active / children)
    p  pressure: the part of the time in which something waited for cpu, memory or io, the worst
    speed    = 1 / EWMA of u / r                                          requests/s
    capacity = speed * (1 - e) / ((1 + e + q) * (1 + psi_weight * p / (1 - p)))
    ratio    = (capacity / base) / median of the farm's
    target   = base * clamp(ratio ** gamma, floor, ceiling)

The weight goes towards the target by steps of at most ÷ step_down and × step_up a tick, not at all
within the deadband, and exactly to the base when the target is within ``home`` of it; from there it
leaves only for a target that is further off than both together.

*Why r / u*: it is processes / mean time of a request (Little's law), so it says how fast a server
is, not how much it was given, and the loop has no gain as long as times do not grow with the load.
Plain request rates (gRPC's A58 without its penalty) reward a server that fails fast: (1 - e). Why
the median: when all are slow, for example because of the database, all keep their weights: load
alone freezes or moves nothing. gamma 0.5: half of the stability limit of 1.0 that was computed for
times that grow in proportion to the load and a delay of one tick; the limit is 0.53 with two.

**Drains.** A server with a critical report is out until it reports otherwise. One whose share of
5xx is proven to be above ``error_rate`` and ``error_factor`` times the median's is out for n times
``eject_seconds``, then comes back over ``ramp_seconds``. Half of the farm stays in any case.

**Silence.** A silent server stays as it is, and so does a blind farm; later they go back to base.

Sources: gRPC proposal A58, Envoy (outlier detection, slow start, panic), AWS (automatic target
weights), Prequal (NSDI 2024: errors must count against a server), Finagle; the simulation in
``benchmarks/weights_sim.py``.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from statistics import median

from webfarm.weighing import estimate, explain
from webfarm.weighing.drains import Scene, drains, moved
from webfarm.weighing.explain import Health
from webfarm.weighing.law import Law
from webfarm.weighing.state import Decision, Estimate, Farm, Load, Server, pack, unpack

__all__ = [
    "Decision",
    "Estimate",
    "Farm",
    "Law",
    "Load",
    "Server",
    "absorb",
    "decide",
    "pack",
    "sudden",
    "unpack",
    "urgent",
]

NEAR = 0.03  # a share, or a weight on its way home, that is so near to the whole is the whole


def absorb(law: Law, state: Farm, server: str, load: Load, now: float) -> Farm:
    """``state`` with one more report of ``server``.

    The order of the reports between two decisions does not matter. The caller has checked that the
    server belongs to the farm, and that the report is genuine, in range and not an old one.
    """
    known = state.servers.get(server, Server())
    return replace(state, servers={**state.servers, server: estimate.add(law, known, load, now)})


def sudden(law: Law, state: Farm, server: str, load: Load) -> bool:
    """Whether a report of ``server`` is a reason to decide before the tick; ask before ``absorb``.

    Only a stall is, since it is measured over all of the report's time. Mean times and loads are
    made of chances: the tick's average is needed.
    """
    return law.on and estimate.sudden(law, state.servers.get(server, Server()), load)


def decide(
    law: Law,
    base: Mapping[str, int],
    state: Farm,
    now: float,
    frozen: Collection[str] = (),
    absent: Collection[str] = (),
) -> tuple[Decision, Farm]:
    """The farm's next weights, and the state for the next call; once in a tick.

    base
        The weights of the pillar, 1 to 256, for all of the farm's servers. Others are forgotten.
    frozen
        Servers whose weight, and whose drain, stay as they are.
    absent
        Servers that a hand or a rollout took out of service: the law compares nobody with them,
        does not drain them, and does not count on them.
    """
    if not law.on:
        return explain.off(base), Farm()
    settled = {name: estimate.settle(law, state.servers.get(name, Server()), now) for name in base}
    scene, since = _scene(law, settled, state, now, frozen, absent)
    out = drains(scene)
    scene = replace(
        scene,
        servers={
            name: moved(law, server, out.get(name, ""), now) for name, server in settled.items()
        },
    )
    part = _part(law, state.decided, now)
    health = _health(scene, base)
    aims = {name: _aim(scene, name, health.ratios[name]) for name in base}
    servers = {
        name: replace(server, factor=_step(scene, name, aims[name], part))
        for name, server in scene.servers.items()
    }
    share = _share(scene, base, health.ratios, state.share, part)
    decided = Farm(servers=servers, share=share, blind=since, decided=now)
    return explain.decision(replace(scene, servers=servers), base, decided, health, aims), decided


def urgent(
    law: Law,
    base: Mapping[str, int],
    state: Farm,
    server: str,
    now: float,
    frozen: Collection[str] = (),
    absent: Collection[str] = (),
) -> tuple[Decision, Farm] | None:
    """Drain ``server`` now, before the tick; None when there is no need, or no right, to.

    Ask after each absorbed report of ``server``; it is cheap. It answers for a critical report, and
    for errors that need no more evidence. All other weights stay what they are; where the farm has
    no room for one more, a server that is out for errors comes back for a critical one.
    """
    if not law.on or server not in base or server in frozen or server in absent:
        return None
    known = state.servers.get(server, Server())
    signs = known.critical | known.fresh.critical
    if known.drained or not (signs or estimate.surely_failing(law, known) > law.error_rate):
        return None
    servers = {name: state.servers.get(name, Server()) for name in base}
    scene, _ = _scene(law, servers, state, now, frozen, absent)
    out = drains(scene, among=(server,))
    if server not in out:
        return None
    servers = {name: moved(law, known, out.get(name, ""), now) for name, known in servers.items()}
    scene = replace(scene, servers=servers)
    drained = replace(state, servers=servers)
    aims = {name: known.factor for name, known in servers.items()}
    return explain.decision(scene, base, drained, _health(scene, base), aims), drained


def _scene(
    law: Law,
    servers: Mapping[str, Server],
    state: Farm,
    now: float,
    frozen: Collection[str],
    absent: Collection[str],
) -> tuple[Scene, float | None]:
    """The farm now, and since when it is blind."""
    absent = {name for name in servers if name in absent}
    scene = Scene(law, now, servers, frozenset(frozen), frozenset(absent))
    count = len(servers) - len(absent)
    silent = sum(scene.silent(name) for name in servers if name not in absent)
    if not count or silent <= law.blind_share * count:
        return scene, None
    since = now if state.blind is None else min(state.blind, now)
    return replace(scene, blind=True, lost=now - since > law.blind_seconds), since


def _health(scene: Scene, base: Mapping[str, int]) -> Health:
    """Compare the servers with the median of those that are in service and heard of.

    One whose speed is unknown counts as fast as the median, with its own errors and stalls.
    """
    law = scene.law
    speeds = {
        name: server.speed
        for name, server in scene.servers.items()
        if server.speed is not None
        and server.sped is not None
        and scene.now - server.sped <= law.expiry_seconds
    }
    judged = [name for name in base if scene.judged(name)]
    known = [speeds[name] / base[name] for name in judged if name in speeds]
    usual = median(known) if known else 1.0
    left = {name: estimate.penalty(law, server) for name, server in scene.servers.items()}
    values = {
        name: (speeds[name] / base[name] if name in speeds else usual) * left[name] for name in base
    }
    middle = median([values[name] for name in judged]) if judged else 0.0
    return Health(
        {name: speeds[name] * left[name] if name in speeds else None for name in base},
        {
            # where even the median does nothing, there is nothing to compare with
            name: value / middle if middle > 0 else float("inf") if value > 0 else 1.0
            for name, value in values.items()
        },
    )


def _part(law: Law, decided: float | None, now: float) -> float:
    """How much of a tick went by since the last decision; at most one."""
    if decided is None or decided > now:
        return 1.0
    return min(1.0, (now - decided) / law.tick)


def _aim(scene: Scene, name: str, ratio: float) -> float:
    """Where the server's weight is on the way to, as a part of its base."""
    law, server = scene.law, scene.servers[name]
    if name in scene.frozen or name in scene.absent or server.drained:
        return server.factor
    if scene.forgets(name):
        return 1.0
    if scene.blind or scene.silent(name):
        return server.factor
    return min(law.ceiling, max(law.floor, float(ratio**law.gamma)))


def _step(scene: Scene, name: str, aim: float, part: float) -> float:
    """The next factor: towards ``aim``, by at most one step."""
    law, server = scene.law, scene.servers[name]
    highest = server.factor * float(law.step_up**part)
    if scene.forgets(name):
        return min(_homewards(law, server.factor, part), highest)
    back = None if server.since is None or server.drained else scene.now - server.since
    if back is not None and back <= law.ramp_seconds:
        highest = server.factor + (1 - law.floor) * part * law.tick / law.ramp_seconds
    aim = _settled(law, server.factor, aim, law.home)
    return min(max(aim, server.factor / float(law.step_down**part)), highest)


def _homewards(law: Law, at: float, part: float) -> float:
    """``at``, nearer to 1 by the share of ``decay``."""
    nearer = at + (1 - float((1 - law.decay) ** part)) * (1 - at)
    return 1.0 if abs(nearer - 1) <= NEAR else nearer


def _settled(law: Law, at: float, aim: float, home: float) -> float:
    """``aim``, without what is too little to move for."""
    if aim == at:  # it is frozen, silent or out: not even home
        return at
    if abs(aim - 1) <= home + (law.deadband if at == 1.0 else 0.0):
        return 1.0
    return at if abs(aim / at - 1) < law.deadband else aim


def _share(
    scene: Scene,
    base: Mapping[str, int],
    ratios: Mapping[str, float],
    share: float,
    part: float,
) -> float:
    """What the servers can do together, as a part of their bases.

    A server counts for its base at most: how fast a farm's better half is says nothing of how the
    farm compares with others. One that would not leave its base counts for all of it.
    """
    law = scene.law
    if all(name in scene.absent or name in scene.frozen for name in base):
        return share
    if scene.blind:
        return _homewards(law, share, part) if scene.lost else share
    able = 0.0
    for name, weight in base.items():
        if name in scene.absent or scene.servers[name].drained:
            continue
        ratio, factor = ratios[name], float(ratios[name] ** law.gamma)
        if scene.silent(name):
            factor = scene.servers[name].factor
            ratio = float(factor ** (1 / law.gamma))
        able += weight * (1.0 if factor >= 1 - law.home - law.deadband else ratio)
    aim = _settled(law, share, max(law.floor, able / sum(base.values())), NEAR)
    return min(1.0, max(aim, float(share / law.step_down**part)), float(share * law.step_up**part))
