"""The traffic of a certification, to the preproduction servers as the pillar names them."""

from collections.abc import Callable

from webfarm.certificates import traffic
from webfarm.certificates.settings import Certifying, Check
from webfarm.topology import Topology


class HttpTraffic:
    """A :class:`webfarm.certificates.bench.Traffic` of real requests, from where this runs."""

    def __init__(self, topology: Topology) -> None:
        self.servers = topology.preproduction.servers
        self.host = topology.primary.domain

    def smoke(self, server: str, check: Check) -> traffic.Answer:
        """One request."""
        at = self.servers[server]
        return traffic.smoke(at.address, at.port, self.host, check)

    def soak(self, server: str, settings: Certifying, beat: Callable[[], bool]) -> traffic.Soaked:
        """The requests that the settings ask for."""
        at = self.servers[server]
        return traffic.soak(
            at.address,
            at.port,
            self.host,
            settings.smoke,
            settings.soak_requests,
            settings.soak_seconds,
            beat,
        )
