"""Which reports are believed: the sender's key, its own id, the ranges, the order, the clock.

What is refused changes nothing but a counter, and is logged once for each kind of refusal in
:data:`LOG_SECONDS`, with the number of those that were not.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webfarm import names, signed
from webfarm.rebalance import report as report_
from webfarm.rebalance.report import Report
from webfarm.signed import REPORT, Forged

log = logging.getLogger(__name__)

CLOCK_SECONDS = 30.0
LOG_SECONDS = 3600.0


@dataclass(frozen=True)
class Mark:
    """The last report of a server that was believed."""

    boot: str
    at: float
    up: float


class Intake:
    """Checks reports and remembers the order of each server's.

    keys
        The folder of the accepted minions' public keys: Salt's ``pki_dir/minions``.
    """

    def __init__(self, keys: Path, servers: Iterable[str] = ()) -> None:
        self.keys = keys
        self.servers: frozenset[str] = frozenset()
        self.marks: dict[str, Mark] = {}
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.logged: dict[str, tuple[float, int]] = {}
        self.know(servers)

    def know(self, servers: Iterable[str]) -> None:
        """The pillar's servers: only they are heard; what is remembered of others is dropped."""
        self.servers = frozenset(servers)
        self.marks = {name: mark for name, mark in self.marks.items() if name in self.servers}

    def take(self, minion: str, data: object, now: float) -> Report | None:
        """The report in an event's data, or None when it is not believed.

        minion
            The id in the event's tag ``salt/beacon/ID/webfarm_health/``: who the sender says it is.
        data
            ``{"report": text, "signature": base64}``; whatever else is in it is not looked at.
        now
            The master's clock: seconds since 1970.
        """
        try:
            report = self._check(minion, data, now)
        except Forged as refusal:
            self.refuse(refusal.kind, minion, str(refusal), now)
            return None
        self.marks[minion] = Mark(report.boot, report.at, report.up)
        self.accepted += 1
        return report

    def refuse(self, kind: str, sender: str, why: str, now: float) -> None:
        """Count a refusal, and log the first of its kind."""
        self.refused[kind] += 1
        said, _ = self.logged.get(kind, (-LOG_SECONDS, 0))
        if abs(now - said) < LOG_SECONDS:
            return
        self.logged[kind] = (now, self.refused[kind])
        log.warning(
            "refused what came in the name of %.80a (%s): %.300s; nothing was changed; %d of this "
            "kind before; `salt-run rebalance.status` counts them",
            sender,
            kind,
            why,
            self.refused[kind] - 1,
        )

    def order(self) -> dict[str, list[Any]]:
        """The marks as JSON can carry them, for :meth:`resume`."""
        return {name: [mark.boot, mark.at, mark.up] for name, mark in self.marks.items()}

    def resume(self, order: Mapping[str, Any]) -> None:
        """Take up what :meth:`order` gave to an earlier process."""
        for name, mark in order.items():
            if name in self.servers:
                self.marks[name] = Mark(str(mark[0]), float(mark[1]), float(mark[2]))

    def _check(self, minion: str, data: object, now: float) -> Report:
        if minion not in self.servers or names.problem(minion):
            raise Forged("stranger", "the pillar has no server of that id")
        if not isinstance(data, Mapping):
            raise Forged("shape", f"expected a report, found {type(data).__name__}")
        envelope = {"body": data.get("report"), "signature": data.get("signature")}
        body = signed.open_(envelope, self.keys / minion, REPORT, report_.MAX_BYTES)
        found = report_.parse(body)
        if found.id != minion:
            raise Forged("identity", f"it speaks of {found.id}")
        if abs(found.at - now) > CLOCK_SECONDS:
            raise Forged(
                "clock",
                f"it was made {now - found.at:+.0f} s ago by the master's clock, at most "
                f"{CLOCK_SECONDS:.0f} s either way are taken; is the time right on both?",
            )
        last = self.marks.get(minion)
        if last is not None and not _follows(last, found):
            raise Forged("replay", "it is not newer than the last one of that server")
        return found


def _follows(last: Mark, report: Report) -> bool:
    if report.boot == last.boot:
        return report.up > last.up
    return report.at > last.at
