"""What the engine needs of the world; the simulation and Salt both provide it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from webfarm.rollout.model import Reply, Seen


class Cluster(Protocol):
    """A site's balancers and a farm's servers: no call hangs, none raises for a node."""

    def observe(self, site: str, farm: str, servers: bool = True) -> Seen:
        """Look at every balancer of the site, and at every server of the farm if ``servers``.

        A node that does not answer, or not in the expected shape, is a view with ``answered``
        false.
        """
        ...

    def call(
        self, function: str, targets: Sequence[str], arguments: Mapping[str, Any], deadline: float
    ) -> Mapping[str, Reply]:
        """Ask each target once; what is missing after ``deadline`` seconds is a reply too."""
        ...


class Clock(Protocol):
    """Time, handed in so that a simulation can have its own."""

    def time(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...
