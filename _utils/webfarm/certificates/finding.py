"""Find the certificate that counts for a subject and a hardware profile; pure but for the book.

The newest that ended well decides. A revoked one also speaks for those before it: who revokes the
newest does not mean that an older one of the same set shall count again. One that failed, or that
did not end, says nothing of those before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from webfarm.certificates.book import Book
from webfarm.certificates.model import Certificate, Subject, Tested, Uncertified
from webfarm.rollout.journal_runs import age
from webfarm.topology import Topology

Refusal = Callable[[Tested], str]


@dataclass(frozen=True)
class Found:
    """The tests of a profile that count, and the certificate that has them."""

    certificate: Certificate
    tested: Tested


def require(
    book: Book,
    topology: Topology,
    subject: Subject,
    profiles: Sequence[str],
    now: float,
    differs: Refusal = lambda tested: "",
) -> Mapping[str, Found]:
    """The tests that count for each profile.

    differs
        Why what was tested is not what shall be taken to production; empty when it is.

    Raises :class:`Uncertified` that names each profile for which nothing counts, why, and what to
    type.
    """
    days = topology.preproduction.max_age_days
    certificates = book.of(subject)
    found: dict[str, Found] = {}
    missing: dict[str, str] = {}
    for profile in dict.fromkeys(profiles):
        one, why = _newest(certificates, profile, now, days)
        if one is not None:
            why = differs(one.tested)
        if one is None or why:
            missing[profile] = why
        else:
            found[profile] = one
    if missing:
        raise Uncertified(_words(subject, missing))
    return found


def _newest(
    certificates: Sequence[Certificate], profile: str, now: float, days: float
) -> tuple[Found | None, str]:
    last = ""  # what the newest of those that say nothing was
    for one in certificates:
        if one.state == "damaged" or profile not in one.profiles:
            continue
        standing = one.standing(now, days)
        if standing == "valid":
            return Found(one, one.tested[profile]), ""
        if standing == "revoked":
            by = f"certificate {one.id} was revoked by {one.revoked_by}"
            return None, f"{by}: {one.revoked_why}"
        if standing == "expired":
            old = age(now - (one.ended or 0.0))
            return (
                None,
                f"certificate {one.id} has expired: it is {old} old, at most {days} d count",
            )
        last = last or f"certificate {one.id} {_unsaid(one, profile)}"
    return None, last or "there is no certificate"


def _unsaid(one: Certificate, profile: str) -> str:
    if one.state == "running":
        return "is being made, or its process was killed"
    tested = one.tested.get(profile)
    failed = tested is not None and tested.state == "failed"
    return f"failed: {tested.message if failed and tested else one.message}"


def _words(subject: Subject, missing: Mapping[str, str]) -> str:
    why = "; ".join(f"for {profile} {reason}" for profile, reason in missing.items())
    profiles = f" profiles={','.join(missing)}"
    return (
        f"{subject} is not certified: {why}. Nothing was changed; type "
        f"`{subject.command}{profiles}`, or go ahead without with force='REASON'"
    )
