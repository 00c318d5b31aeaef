"""Certify: hold the preproduction servers, try the subject on each, sign once at the end.

Killed at any instant, nothing is certified: a certificate is ``running`` until its last write, and
whoever holds the servers next finds that it has failed.
"""

import socket
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import field as field_

from webfarm.certificates.bench import Bench, Means, lease_name
from webfarm.certificates.book import Book
from webfarm.certificates.model import RELEASE, Certificate, Subject, Tested
from webfarm.certificates.settings import Certifying
from webfarm.certificates.trial import Place, Trial
from webfarm.certificates.trial_packages import PackagesTrial
from webfarm.certificates.trial_release import Pair, ReleaseTrial
from webfarm.errors import WebfarmError
from webfarm.rollout.journal_runs import age
from webfarm.rollout.lease import LEASE_SECONDS, Held, Hold, Lease, Process, holders, is_dead


@dataclass(frozen=True)
class Holder:
    """Who certifies, and how the servers are held; see :class:`webfarm.rollout.lease.Lease`."""

    who: str
    journal: sqlite3.Connection
    process: Process | None = None
    dead: Callable[[Process], bool] = field_(default=is_dead)
    lease_seconds: float = LEASE_SECONDS


def certify(
    means: Means,
    book: Book,
    holder: Holder,
    settings: Certifying,
    subject: Subject,
    servers: Mapping[str, str],
    pair: Pair | None = None,
) -> Certificate:
    """Try the subject on the server of each profile, one after the other; all must pass.

    servers
        Profile to server.
    pair
        What the subject's release is.

    Raises :class:`lease.Held` when a server is in use, or was lost meanwhile.
    """
    clock = means.clock
    hold = Hold(
        Lease(
            holder.journal,
            lease_name(server),
            holder.who,
            clock,
            holder.process,
            holder.dead,
            holder.lease_seconds,
        )
        for server in servers.values()
    )
    _take(hold, holder, subject, servers, clock.time())
    try:
        means.minions.hold = hold
        book.guard = hold.confirm
        number = book.begin(subject, servers, holder.who, socket.gethostname(), clock.time())
        means.say(f"certificate {number}: {subject} on {', '.join(servers.values())}")
        done: list[Tested] = []
        for profile, server in servers.items():
            place = Place(profile, server)
            bench = Bench(means, server, hold)
            trial: Trial
            if subject.kind == RELEASE:
                assert pair is not None
                trial = ReleaseTrial(means, bench, settings, subject, place, pair)
            else:
                trial = PackagesTrial(means, bench, settings, subject, place, book, number)
            done.append(trial.run())
            hold.beat()
            book.tested(number, done[-1])
        failed = [one for one in done if one.state != "passed"]
        message = "; ".join(f"{one.profile}: {one.message}" for one in failed)
        book.end(number, "failed" if failed else "passed", message, clock.time())
        return book.get(number)
    finally:
        means.minions.hold = None
        book.guard = None
        with suppress(sqlite3.Error):
            hold.release()


def _take(
    hold: Hold, holder: Holder, subject: Subject, servers: Mapping[str, str], now: float
) -> None:
    try:
        hold.take(f"certify {subject}")
    except Held as error:
        leases = {lease_name(server): server for server in servers.values()}
        for row in holders(holder.journal):
            if row["site"] in leases:
                since = age(now - row["since"])
                raise Held(
                    f"preproduction server {leases[row['site']]} is in use by {row['holder']} on "
                    f"{row['host']} (pid {row['pid']}) since {since}: {row['doing']}. Nothing was "
                    "changed; wait for it. When it is not heard of for "
                    f"{row['seconds']:.0f} s, the server is free by itself"
                ) from error
        raise WebfarmError(f"a preproduction server is in use: {error}") from error
