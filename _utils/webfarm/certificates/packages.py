"""The gate of package sets: what each hardware profile may install, by version and digest."""

from collections.abc import Sequence

from webfarm.certificates import finding
from webfarm.certificates.book import Book
from webfarm.certificates.model import PACKAGES, Subject
from webfarm.packages.wanted import wanted
from webfarm.topology import Topology

Certified = dict[str, dict[str, dict[str, str]]]


def needed(topology: Topology) -> bool:
    """Production takes only package sets that are certified."""
    return bool(topology.preproduction.servers) and "packages" in topology.preproduction.certify


def require(
    store: Book,
    topology: Topology,
    packages: Sequence[str],
    profiles: Sequence[str],
    now: float,
) -> Certified:
    """For each profile ``{name: {"to": version, "digest": "sha256:…"}}``: what was certified.

    packages
        The very words that were certified, in any order: a set is certified as a whole.
    profiles
        The hardware profiles of the servers in scope.

    A server's own changes must all be among these, which ``webfarm_packages.install`` checks
    (``expected=``); dependencies may be there already. Raises
    :class:`webfarm.certificates.model.Uncertified`: the profile, why, what to type.
    """
    subject = Subject(PACKAGES, wanted(packages))
    found = finding.require(store, topology, subject, profiles, now)
    return {
        profile: {name: dict(entry) for name, entry in one.tested.packages.items()}
        for profile, one in found.items()
    }
