"""Which servers of a farm are taken out: critical ones, and those that fail more than the others.

Half of the farm stays in any case, and at most ``eject_share`` of it is out for errors.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from statistics import median_low

from webfarm.policy import budget
from webfarm.weighing.estimate import errors, surely_failing
from webfarm.weighing.law import Law
from webfarm.weighing.state import Server

ERRORS = "errors"


@dataclass(frozen=True)
class Scene:
    """A farm at one moment; the names of ``servers`` are those of the pillar.

    blind, lost
        Most servers are silent; and were so for ``blind_seconds``.
    """

    law: Law
    now: float
    servers: Mapping[str, Server]
    frozen: Collection[str]
    absent: Collection[str]
    blind: bool = False
    lost: bool = False

    def silent(self, name: str) -> bool:
        """Whether the server's last report is too old."""
        at = self.servers[name].at
        return at is None or self.now - at > self.law.stale_seconds

    def forgets(self, name: str) -> bool:
        """Whether what is known of a server in service is too old to be better than its base."""
        if name in self.absent or name in self.frozen or self.servers[name].drained:
            return False
        at = self.servers[name].at
        expired = at is not None and self.now - at > self.law.expiry_seconds
        return self.lost or (expired and not self.blind)

    def judged(self, name: str) -> bool:
        """Whether the server can be compared with others: in service, and heard of."""
        return not (name in self.absent or self.servers[name].drained or self.silent(name))


def drains(scene: Scene, among: Collection[str] | None = None) -> dict[str, str]:
    """The servers that shall be out, with their reasons.

    among
        Only these may be taken out anew, and none comes back but to make room.
    """
    usual = usual_errors(scene)
    held: list[str] = []
    critical: list[str] = []
    failing: list[str] = []
    for name in sorted(scene.servers):
        server = scene.servers[name]
        if name in scene.absent:
            continue
        if name in scene.frozen:
            held += [name] if server.drained else []
        elif among is not None and name not in among:
            if server.drained:
                (failing if server.drained == ERRORS else critical).append(name)
        elif server.critical | server.fresh.critical:
            critical.append(name)
        elif (_stays if server.drained == ERRORS else _goes)(scene, name, usual):
            failing.append(name)
    room = (len(scene.servers) - len(scene.absent)) // 2 - len(held)
    # those that are out already stay out first, so that two do not take turns
    critical.sort(key=lambda name: (not scene.servers[name].drained, name))
    failing.sort(
        key=lambda name: (
            not scene.servers[name].drained,
            -errors(scene.law, scene.servers[name]),
            name,
        )
    )
    out = critical[: max(0, room)]
    limit = eject_limit(scene) - sum(scene.servers[name].drained == ERRORS for name in held)
    failing = failing[: max(0, min(limit, room - len(out)))]
    return {
        **{name: scene.servers[name].drained for name in held},
        **{name: _critical(scene.servers[name]) for name in out},
        **dict.fromkeys(failing, ERRORS),
    }


def eject_limit(scene: Scene) -> int:
    """How many servers may be out for errors."""
    return budget(float(scene.law.eject_share), len(scene.servers) - len(scene.absent))


def usual_errors(scene: Scene) -> float:
    """The share of 5xx of the farm's median server; of two the better one."""
    shares = [
        errors(scene.law, server) for name, server in scene.servers.items() if scene.judged(name)
    ]
    return median_low(shares) if shares else 0.0


def moved(law: Law, server: Server, reason: str, now: float) -> Server:
    """``server`` taken out, or back into service, or as it is."""
    if reason == ERRORS and server.drained != ERRORS:
        return replace(
            server,
            drained=ERRORS,
            since=now,
            ejections=server.ejections + 1,
            failed=surely_failing(law, server),
            factor=min(server.factor, law.floor),
        )
    if reason:
        since = server.since if server.drained else now
        return replace(server, drained=reason, since=since, factor=min(server.factor, law.floor))
    if server.drained:  # judged anew from here on
        return replace(server, drained="", since=now, requests=0.0, errors=0.0)
    if server.ejections and now - (server.since or 0.0) > law.eject_longest:
        return replace(server, ejections=0)
    return server


def lasts(law: Law, server: Server) -> float:
    """For how many seconds a server that was ejected now for the n-th time is out."""
    return min(law.eject_longest, law.eject_seconds * server.ejections)


def _goes(scene: Scene, name: str, usual: float) -> bool:
    """Whether a server in service fails so much more than the others that it has to go."""
    server = scene.servers[name]
    if server.drained or scene.blind or scene.silent(name):
        return False
    proof = surely_failing(scene.law, server)
    return proof > scene.law.error_rate and proof > scene.law.error_factor * usual


def _stays(scene: Scene, name: str, usual: float) -> bool:
    """Whether a server that is out for errors stays out: until its time is over and it speaks.

    It comes back before when the others fail as well: then it was not the server's fault.
    """
    server, law = scene.servers[name], scene.law
    if scene.blind and not scene.lost:
        return True
    if not scene.blind and server.failed <= law.error_factor * usual:
        return False
    over = scene.now - (server.since or 0.0) >= lasts(law, server)
    return not over or (scene.silent(name) and not scene.lost)


def _critical(server: Server) -> str:
    signs = server.critical | server.fresh.critical
    return f"critical: {', '.join(sorted(signs))}" if signs else server.drained
