"""What the engine needs of the world; the simulation and Salt both provide it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from webfarm.rollout.lease import Hold
from webfarm.rollout.model import Reply, Seen

HELD = (
    "haproxy_runtime.farms",
    "haproxy_runtime.set_farms",
    "webfarm_release.status",
    "webfarm_release.stage",
    "webfarm_release.switch",
    "farm_cache.flush",
    "haproxy_runtime.set_servers",
    "webfarm_os.status",
    "webfarm_os.reboot",
    "webfarm_os.restart",
    "webfarm_packages.install",
    "webfarm_snapshot.take",
    "webfarm_snapshot.restore",
)
SERVER_CHANGES = (
    "webfarm_release.switch",
    "farm_cache.flush",
    "webfarm_os.reboot",
    "webfarm_os.restart",
    "webfarm_packages.install",
    "webfarm_snapshot.take",
    "webfarm_snapshot.restore",
)
CHANGES = ("haproxy_runtime.set_farms", "haproxy_runtime.set_servers", *SERVER_CHANGES)


class Cluster(Protocol):
    """A site's balancers and a farm's servers: no call hangs, none raises for a node.

    hold
        The leases under which the cluster is observed and changed. The functions in ``HELD`` carry
        its proof as the argument ``hold``, so that a node refuses what an older holder still
        sends; those in ``CHANGES`` are also refused by a node that did not answer a look within
        ``hold.FRESH_SECONDS`` before. The hold is renewed while a call waits, and every call raises
        :class:`lease.Held` when it is lost.
    """

    hold: Hold | None

    def observe(self, site: str, farm: str | None, servers: bool = True) -> Seen:
        """Look at every balancer of the site and, if ``servers``, at every server of the farm.

        farm
            None: the servers of all farms of the site.

        A node that does not answer, or not in the expected shape, is a view with ``answered``
        false.
        """
        ...

    def observe_members(
        self, site: str, servers: Sequence[str], arguments: Mapping[str, Any]
    ) -> Seen:
        """Look at every balancer of the site and at these servers' systems.

        arguments
            Of ``webfarm_os.status``.
        """
        ...

    def call(
        self,
        site: str,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
        deadline: float,
    ) -> Mapping[str, Reply]:
        """Ask each target of the site once; what is missing after ``deadline`` seconds is a reply.

        ``deadline`` ends the wait; the job may still run at its target, or run later.
        """
        ...


class Clock(Protocol):
    """Time, handed in so that a simulation can have its own."""

    def time(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, the same for every process since the machine's start."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


def held(
    hold: Hold | None, site: str, function: str, arguments: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The arguments of a call, with the proof of the hold where its function takes one."""
    return {**arguments, "hold": hold.of(site)} if hold and function in HELD else arguments
