"""The gate of releases: the pair and the trees that each hardware profile has run."""

from collections.abc import Mapping, Sequence

from webfarm.certificates import finding
from webfarm.certificates.book import Book
from webfarm.certificates.model import RELEASE, Subject, Tested, Uncertified
from webfarm.topology import Topology

Digests = Mapping[str, str]


def needed(topology: Topology) -> bool:
    """Production takes only releases that are certified."""
    return bool(topology.preproduction.servers) and "releases" in topology.preproduction.certify


def require(
    store: Book,
    topology: Topology,
    release: str,
    profiles: Sequence[str],
    digests: Digests | None,
    now: float,
) -> Digests:
    """The digests of the two trees, the same on all profiles.

    digests
        Those of the release store, ``{"php": …, "webapp": …}``, with which the certificate must
        agree; None where the store is not on this master.

    Raises :class:`Uncertified`: the profile, why, what to type.
    """
    pair = topology.release(release)

    def differs(tested: Tested) -> str:
        was = tested.release
        if (was["php"], was["webapp"]) != (pair.php, pair.webapp):
            return (
                f"another pair was certified (php {was['php']}, webapp {was['webapp']}), the "
                f"pillar has php {pair.php}, webapp {pair.webapp}"
            )
        for kind, known in (digests or {}).items():
            if was["digests"].get(kind) != known:
                return (
                    f"the tree of {kind} {was[kind]} has changed since: certified is "
                    f"{str(was['digests'].get(kind))[:16]}…, the store has {known[:16]}…"
                )
        return ""

    subject = Subject(RELEASE, (release,))
    found = finding.require(store, topology, subject, profiles, now, differs)
    all_ = [dict(one.tested.release["digests"]) for one in found.values()]
    if any(one != all_[0] for one in all_):
        raise Uncertified(
            f"{subject} was certified from different trees on {', '.join(found)}. Nothing was "
            f"changed; type `{subject.command}`, which runs the same trees on all profiles"
        )
    return all_[0] if all_ else {}
