"""Carry a vector of the weights' loop: the servers' weights and drains, the farm's share.

The loop touches its own drains and nobody else's (promise W3). A drain is the loop's when this
module made it and nobody has changed the server's state since; :mod:`webfarm.haproxy.kept`
remembers that over restarts. What is done with ``haproxy_runtime.set_state`` is a hand's at once;
what is done at HAProxy's socket is known by the state that differs, unless HAProxy has restarted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from webfarm.errors import WebfarmError
from webfarm.haproxy import checks, kept, maps, members
from webfarm.haproxy.farms import apply as apply_map
from webfarm.haproxy.kept import INTENDED, LOOP, MADE, FarmKept, Kept
from webfarm.haproxy.parse import ServerState
from webfarm.haproxy.runtime import Balancer
from webfarm.haproxy.vector import Vector

PICKS = ("farm_pick", "farm_pick_newest")
HEALTHY = ("UP", "DRAIN", "NOLB")  # HAProxy's words for a server whose checks pass
MAX_SHARE = 1_000_000


@dataclass(frozen=True)
class Plan:
    """What a farm's servers shall have.

    states
        ``ready`` or ``drain``, of those that the loop may touch; ``weights`` are of the same.
    left_alone
        Servers that a hand holds, or that HAProxy does not have, and why.
    kept_ready
        Servers that are not drained although the vector says so, and why.
    """

    weights: dict[str, int] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)
    kept_ready: dict[str, str] = field(default_factory=dict)


def apply(balancer: Balancer, site: str, vector: Vector) -> dict[str, Any]:
    """Take the vector over, unless a newer one is here, and make HAProxy carry it.

    The same one again changes only what differs from it by then. A farm that is not open keeps what
    it has until the vector is asserted again. Returns what ``haproxy_runtime.apply_weights`` does.
    """
    with balancer.lock("apply the weights"):
        known = balancer.backends()
        if vector.farm not in known:
            raise WebfarmError(
                f"{balancer.settings.socket}: there is no farm {vector.farm}; HAProxy has: "
                f"{', '.join(known)}; nothing was changed. If the pillar has it, apply this "
                "balancer's highstate"
            )
        memory = kept.load(balancer.settings.state_file)
        own = memory.farm(vector.farm)
        if own.vector is not None and vector.rank < own.vector.rank:
            why = f"epoch {vector.epoch} is older than {own.vector.epoch}, which is here"
            if vector.epoch == own.vector.epoch:
                why = f"another vector of epoch {vector.epoch} is here; do two masters decide?"
            return refused(site, vector.farm, own.vector.epoch, why)
        own.vector = vector
        memory.save()
        return {"site": site, **_assert(balancer, memory, vector.farm)}


def refused(site: str, farm: str, epoch: int, why: str) -> dict[str, Any]:
    """What :func:`apply` returns when a vector is not taken; ``epoch``: of the one that is here."""
    return {"site": site, "farm": farm, "epoch": epoch, "refused": why, "changed": False}


def reassert(balancer: Balancer) -> dict[str, Any]:
    """Make HAProxy carry the vectors that are on disk; farm -> its epoch, where it had to."""
    changed = {}
    with balancer.lock("assert the weights again"):
        memory = kept.load(balancer.settings.state_file)
        known = balancer.backends()
        for farm, own in list(memory.farms.items()):
            if own.vector is not None and farm in known:
                done = _assert(balancer, memory, farm)
                if done["changed"]:
                    changed[farm] = {"old": "differs", "new": f"epoch {done['epoch']}"}
    return changed


def set_state(balancer: Balancer, farm: str, server: str, state: str) -> dict[str, Any]:
    """:meth:`Balancer.set_state` by a hand: the server's state is that hand's from now on.

    One that is made ready is drained by the loop only after a vector that did not drain it.
    """
    checks.server_state(farm, server, state)
    with balancer.lock("set a server's state"):
        done = balancer.put_state(farm, server, state)
        members.forget(balancer, farm, server)
        memory = kept.glance(balancer.settings.state_file)
        own = memory.farms.get(farm)
        if own is None:
            return done
        was_ours = own.ours.pop(server, None) is not None
        own.by_hand.discard(server)
        if state == "ready" and own.vector is not None and server in own.vector.drained:
            own.by_hand.add(server)
        memory.save()
        if was_ours and not done:
            return {"old": f"{state} by the {LOOP}' loop", "new": state}
        return done


def plan(own: FarmKept, servers: Mapping[str, ServerState], status: Mapping[str, str]) -> Plan:
    """What the farm's servers shall have by its vector; pure.

    servers, status
        The farm's servers as HAProxy has them, and the first word of HAProxy's status of each.

    The farm's last server is not drained: the last that is UP, or if none is, the last of all.
    """
    assert own.vector is not None
    found = Plan()
    drains = set()
    for server, weight in own.vector.weights.items():
        seen = servers.get(server)
        if seen is None:
            found.left_alone[server] = "HAProxy has no such server"
        elif seen.admin == "maint":
            found.left_alone[server] = "maint"
        elif seen.admin == "drain" and server not in own.ours:
            found.left_alone[server] = "drain by hand"
        else:
            found.weights[server] = weight
            if server in own.by_hand:
                found.kept_ready[server] = "made ready by hand"
            elif server in own.vector.drained:
                drains.add(server)
    in_service = {n for n, s in servers.items() if s.admin == "ready" or n in own.ours}
    healthy = {name for name in in_service if status.get(name) in HEALTHY}
    if not healthy - drains:
        last = healthy or (in_service if not in_service - drains else set())
        if last:
            spared = max(last, key=lambda name: (found.weights[name], name))
            drains.discard(spared)
            found.kept_ready[spared] = "the last server of its farm"
    for server in found.weights:
        found.states[server] = "drain" if server in drains else "ready"
    return found


def shares(
    asked: Mapping[str, int], bases: Mapping[str, int], wanted: Mapping[str, int]
) -> maps.Entries:
    """The entries of a pick map: each farm's weight as it was asked for, times wanted / base; pure.

    asked
        Farm -> weight as ``set_farms`` was told: the bases in general, something else by hand.
    bases, wanted
        Farm -> the sum of its servers' configured weights, and its vector's ``share``; a farm
        without a vector has its base.
    """
    factors = {farm: wanted.get(farm, bases[farm]) / bases[farm] for farm in asked}
    if len(set(factors.values())) <= 1:
        return maps.ranges(asked)
    parts = {farm: weight * factors[farm] for farm, weight in asked.items()}
    most = max(parts.values())
    return maps.ranges(
        {farm: max(1, round(part / most * MAX_SHARE)) for farm, part in parts.items()}
    )


def _assert(balancer: Balancer, memory: Kept, farm: str) -> dict[str, Any]:
    """Under the lock: HAProxy carries the farm's vector."""
    own = memory.farms[farm]
    assert own.vector is not None
    state = _state(balancer, farm)
    result: dict[str, Any] = {
        "farm": farm,
        "epoch": own.vector.epoch,
        "farm_state": state,
        "changed": False,
    }
    if state != "open":
        return {
            **result,
            "applied": _applied(balancer, own),
            "left_alone": {},
            "left": f"left alone: {state}",
        }
    servers = _servers(balancer, farm)
    pid = balancer.pid()
    _notice_hands(own, servers, pid == memory.pid)
    wanted = plan(own, servers, _status(balancer, farm))
    changed = _carry(balancer, memory, farm, wanted, servers, pid)
    picks, odd = _share_out(balancer, memory)
    return {
        **result,
        "applied": _applied(balancer, own),
        "left_alone": wanted.left_alone,
        "kept_ready": wanted.kept_ready,
        **({"shares_left_alone": odd} if odd else {}),
        "changed": changed or picks,
    }


def _notice_hands(own: FarmKept, servers: Mapping[str, ServerState], same_process: bool) -> None:
    """Give up drains that somebody has changed.

    One that is gone in the process that had it was lifted by a hand; a HAProxy that has restarted
    may have lost it.
    """
    assert own.vector is not None
    for server, word in list(own.ours.items()):
        seen = servers.get(server)
        if seen is not None and seen.admin == "drain":
            continue
        del own.ours[server]
        if seen is not None and seen.admin == "ready" and word == MADE and same_process:
            own.by_hand.add(server)
    own.by_hand &= set(own.vector.drained)


def _carry(
    balancer: Balancer,
    memory: Kept,
    farm: str,
    wanted: Plan,
    servers: Mapping[str, ServerState],
    pid: int,
) -> bool:
    own = memory.farms[farm]
    moved = [name for name, state in wanted.states.items() if servers[name].admin != state]
    commands = [
        f"set server {farm}/{name} weight {weight}"
        for name, weight in wanted.weights.items()
        if servers[name].uweight != weight
    ]
    # who returns does so before another leaves
    for name in sorted(moved, key=lambda name: wanted.states[name] != "ready"):
        commands.append(f"set server {farm}/{name} state {wanted.states[name]}")
        own.ours[name] = INTENDED
    memory.save()  # a drain is known as the loop's before it is made
    balancer.tell(commands)
    balancer.reassert_state()
    after = _servers(balancer, farm)
    where = balancer.settings.socket
    for what, values, seen in (
        ("weight", wanted.weights, {name: one.uweight for name, one in after.items()}),
        ("state", wanted.states, {name: one.admin for name, one in after.items()}),
    ):
        checks.verify(
            what,
            {(farm, name): value for name, value in values.items()},
            {(farm, name): value for name, value in seen.items()},
            where,
        )
    own.ours = {name: word for name, word in own.ours.items() if name not in wanted.states} | {
        name: MADE for name, state in wanted.states.items() if state == "drain"
    }
    memory.pid = pid
    memory.save()
    return bool(commands)


def _share_out(balancer: Balancer, memory: Kept) -> tuple[bool, str]:
    """Weigh the farms that are in the pick maps; says whether it had to, and what it left alone.

    Who is in a map is not the loop's business: a map that is another one on disk than in memory was
    cut short in a change of that, and is left to who made it.
    """
    bases: dict[str, int] = {}
    for one in balancer.states():
        bases[one.backend] = bases.get(one.backend, 0) + max(1, one.iweight)
    wanted = {farm: own.vector.share for farm, own in memory.farms.items() if own.vector}
    changed, odd = False, ""
    for name in PICKS:
        path = balancer.map_path(name)
        disk, live = maps.read(path), maps.show(balancer.client, path)
        farms = maps.shares(disk)
        if farms.keys() != maps.shares(live).keys() or not farms.keys() <= bases.keys():
            odd = f"{name} has other farms on disk than in memory; run haproxy_runtime.reconcile"
            continue
        asked = memory.asked.get(name, {})
        if not all(asked.get(farm, 0) > 0 for farm in farms):
            asked = bases
        target = shares({farm: asked[farm] for farm in farms}, bases, wanted)
        if target != live or target != disk:
            apply_map(balancer, name, target)
            changed = True
    return changed, odd


def _state(balancer: Balancer, farm: str) -> str:
    """The farm's state, on disk and in memory; ``half-way`` when they differ."""
    path = balancer.map_path("farm_state")
    found = {
        dict(entries).get(farm, "closed")
        for entries in (maps.read(path), maps.show(balancer.client, path))
    }
    return found.pop() if len(found) == 1 else "half-way"


def _servers(balancer: Balancer, farm: str) -> dict[str, ServerState]:
    return {one.server: one for one in balancer.states() if one.backend == farm}


def _status(balancer: Balancer, farm: str) -> dict[str, str]:
    rows = balancer.stat(balancer.client)
    return {r["svname"]: r["status"].split()[0] for r in rows if r["pxname"] == farm}


def _applied(balancer: Balancer, own: FarmKept) -> dict[str, dict[str, Any]]:
    """Read back from HAProxy."""
    assert own.vector is not None
    farm = own.vector.farm
    servers, status = _servers(balancer, farm), _status(balancer, farm)
    return {
        name: {
            "weight": servers[name].uweight,
            "state": servers[name].admin,
            "status": status.get(name, ""),
        }
        for name in own.vector.weights
        if name in servers
    }
