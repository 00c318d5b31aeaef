"""The commands of certificates: certify, show, revoke; data in, data out."""

from collections.abc import Mapping, Sequence
from typing import Any

from webfarm import names
from webfarm.certificates import certify as certify_
from webfarm.certificates.bench import Means, Traffic
from webfarm.certificates.book import opened
from webfarm.certificates.gate import path
from webfarm.certificates.model import PACKAGES, RELEASE, Certificate, Subject, Tested
from webfarm.certificates.servers import HttpTraffic
from webfarm.certificates.trial_release import Pair
from webfarm.errors import WebfarmError
from webfarm.packages.wanted import wanted
from webfarm.rollout import arguments
from webfarm.rollout.context import Context
from webfarm.rollout.journal_runs import age
from webfarm.rollout.report import utc
from webfarm.topology import Topology

Data = dict[str, Any]


def certify(
    context: Context,
    release: str | None = None,
    packages: object = None,
    profiles: object = None,
    traffic: Traffic | None = None,
) -> Data:
    """Try a release or a package set on the preproduction server of each profile; record it."""
    topology = context.topology
    if (release is None) == (packages is None):
        raise WebfarmError(
            "certify what? salt-run upgrade.certify release=R, or packages='[…]'; one of them. "
            "Nothing was changed"
        )
    pair = None
    if release is not None:
        found = topology.release(release)
        digests = None
        if context.digests is not None:
            digests = {k: context.digests(k, getattr(found, k)) for k in ("php", "webapp")}
        pair = Pair(found.php, found.webapp, digests)
        subject = Subject(RELEASE, (release,))
    else:
        subject = Subject(PACKAGES, wanted(packages))
    servers = servers_of(topology, profiles)
    means = Means(
        context.cluster,
        traffic or HttpTraffic(topology),
        context.clock,
        context.watcher.told,
        context.interrupted,
    )
    with (
        context.journal(make=True) as journal,
        opened(path(context.journal_path), make=True) as book,
    ):
        holder = certify_.Holder(
            context.holder,
            journal.connection,
            context.process,
            context.dead,
            context.lease_seconds,
        )
        done = certify_.certify(means, book, holder, topology.preproduction, subject, servers, pair)
    return _outcome(context, done, servers, profiles is not None)


def servers_of(topology: Topology, profiles: object = None) -> dict[str, str]:
    """A preproduction server for each profile: of those that production uses, or of these.

    The first in the pillar's order is taken where a profile has several.
    """
    found: dict[str, str] = {}
    for name, server in topology.preproduction.servers.items():
        found.setdefault(server.hw_profile, name)
    if not found:
        raise WebfarmError(
            "the pillar has no preproduction server: name them at webfarm:preproduction:servers. "
            "Nothing was changed"
        )
    if profiles is None:
        wanted_ = list(dict.fromkeys(server.hw_profile for server in _production(topology)))
    else:
        wanted_ = _profiles(profiles)
    lacking = [profile for profile in wanted_ if profile not in found]
    if lacking:
        raise WebfarmError(
            f"no preproduction server has the hardware profile {', '.join(lacking)}; there are: "
            f"{', '.join(found)}. Nothing was changed"
        )
    return {profile: found[profile] for profile in wanted_}


def certificates(context: Context, id: object = None, limit: object = 20) -> Data:
    """The latest certificates, or one with all that was tested."""
    now = context.clock.time()
    number = None if id is None else arguments.number(id, "id")
    most = arguments.number(limit, "limit")
    with opened(path(context.journal_path)) as book:
        if number is not None:
            one = book.get(number)
            tested = {profile: _tested(t) for profile, t in one.tested.items()}
            return {"certificate": {**_plain(context, one, now), "tested": tested}}
        return {"certificates": [_plain(context, one, now) for one in book.latest(most)]}


def revoke(context: Context, id: object, reason: object = None) -> Data:
    """Let a certificate count no more; who did it and why is recorded."""
    number = arguments.number(id, "id")
    why = arguments.reason(reason, needed=True)
    now = context.clock.time()
    with opened(path(context.journal_path)) as book:
        done = book.revoke(number, context.holder, why, now)
    with context.journal(make=True) as journal:
        data = {"certificate": number, "subject": str(done.subject)}
        journal.record("revoke", context.holder, why, data, now)
    return {
        "result": True,
        "certificate": number,
        "message": f"{done.subject} is refused in production until it is certified again",
        "next": done.subject.command,
    }


# -- data ------------------------------------------------------------------------------------------


def _production(topology: Topology) -> list[Any]:
    return [node.node for node in topology.nodes() if node.role == "server"]


def _profiles(value: object) -> list[str]:
    given = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not 0 < len(given) <= 1000:
        raise WebfarmError(
            f"profiles is {value!a:.60}, expected hardware profiles: profiles=r640,r660; nothing "
            "was changed"
        )
    return list(dict.fromkeys(names.check(name, "profile") for name in given))


def _outcome(context: Context, done: Certificate, servers: Mapping[str, str], some: bool) -> Data:
    passed = done.state == "passed"
    data: Data = {
        "result": passed,
        **_plain(context, done, context.clock.time()),
        "tested": {profile: _summary(tested) for profile, tested in done.tested.items()},
    }
    if passed:
        data["message"] = f"certificate {done.id}: {done.subject} passed on {', '.join(servers)}"
    else:
        again = f"{done.subject.command}" + (f" profiles={','.join(servers)}" if some else "")
        data["message"] = f"nothing is certified. {done.message}"
        data["next"] = [f"salt-run upgrade.certificates {done.id}", again]
    return data


def _plain(context: Context, one: Certificate, now: float) -> Data:
    days = context.topology.preproduction.max_age_days
    data: Data = {
        "id": one.id,
        "subject": str(one.subject),
        "profiles": list(one.profiles),
        "state": one.standing(now, days),
        "by": f"{one.who} on {one.host}",
        "age": age(now - one.started),
        "started": utc(one.started),
        "message": one.message,
    }
    if one.ended is not None:
        data["seconds"] = round(one.ended - one.started, 1)
        if one.state == "passed":
            data["expires"] = utc(one.ended + days * 86400)
    if one.revoked_at is not None:
        data["message"] = f"revoked by {one.revoked_by}: {one.revoked_why}"
    return data


def _summary(tested: Tested) -> Data:
    soaks = [one for one in tested.evidence if one.get("what") == "soak"]
    keys = ("requests", "failed", "p50", "p99")
    return {
        "server": tested.server,
        "state": tested.state,
        **({"message": tested.message} if tested.message else {}),
        **({"packages": dict(tested.packages)} if tested.packages else {}),
        **({"release": dict(tested.release)} if tested.release else {}),
        **{f"soak {key}": soak[key] for soak in soaks for key in keys if key in soak},
    }


def _tested(tested: Tested) -> Data:
    return {
        **_summary(tested),
        "started": utc(tested.started),
        "seconds": None if tested.ended is None else round(tested.ended - tested.started, 1),
        "boots": list(tested.boots),
        "evidence": [dict(one) for one in tested.evidence],
    }
