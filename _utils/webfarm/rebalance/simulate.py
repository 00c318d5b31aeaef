"""What the law would do with reports that somebody has written down; pure."""

from collections.abc import Mapping
from typing import Any

from webfarm import weights
from webfarm.errors import WebfarmError
from webfarm.rebalance import report as report_
from webfarm.rebalance.book import Place
from webfarm.rebalance.report import Report, example
from webfarm.shape import shown
from webfarm.signed import Forged
from webfarm.topology import Topology

MOST_TICKS = 10_000
MOST_REPORTS = 100_000


def simulate(
    topology: Topology, reports: object, ticks: object = None, repeat: object = False
) -> dict[str, Any]:
    """The decisions on each farm that the reports speak of, from base weights on.

    reports
        A list of mappings: ``id``, and what differs from a calm server's report. ``at`` orders
        them, in seconds from any moment; without it all come at the beginning.
    ticks
        How many decisions; default: until the last report, and with ``repeat`` 10.
    repeat
        Whether every server says its last report again and again.
    """
    said = _parsed(topology, reports)
    if type(repeat) is not bool:
        raise WebfarmError(f"repeat is {shown(repeat)}, expected True or False")
    if ticks is not None and (type(ticks) is not int or not 1 <= ticks <= MOST_TICKS):
        raise WebfarmError(f"ticks is {shown(ticks)}, expected a number of 1 to {MOST_TICKS}")
    by_farm: dict[Place, list[Report]] = {}
    for report in said:
        node = topology.node(report.id)
        by_farm.setdefault((str(node.site), str(node.farm)), []).append(report)
    return {
        "result": True,
        "farms": {
            f"{site} {farm}": _farm(topology, (site, farm), found, ticks, repeat)
            for (site, farm), found in by_farm.items()
        },
    }


def _farm(
    topology: Topology, place: Place, reports: list[Report], ticks: int | None, repeat: bool
) -> list[dict[str, Any]]:
    """The decisions that differ from the one before, and the last."""
    site, farm = place
    law = topology.site(site).weights
    base = {name: one.weight for name, one in topology.farm(site, farm).servers.items()}
    waiting = sorted(reports, key=lambda one: one.at)
    begin = waiting[0].at
    if ticks is None:
        ticks = 10 if repeat else int((waiting[-1].at - begin) // law.tick) + 1
    state, latest, found = weights.Farm(), {}, []
    last: tuple[Any, ...] = ()
    for number in range(1, min(ticks, MOST_TICKS) + 1):
        now = begin + number * law.tick
        fresh: dict[str, Report] = {}
        while waiting and waiting[0].at < now:
            one = waiting.pop(0)
            fresh[one.id] = latest[one.id] = one
            state = weights.absorb(law, state, one.id, one.load(), one.at)
        for one in latest.values() if repeat else ():
            if one.id not in fresh:
                state = weights.absorb(law, state, one.id, one.load(), now - law.tick / 2)
        decision, state = weights.decide(law, base, state, now)
        content = (decision.weights, decision.drained, decision.share)
        if content != last or number == ticks:
            last = content
            found.append(
                {
                    "seconds": round(now - begin, 1),
                    "weights": decision.weights,
                    "drained": decision.drained,
                    "share": round(decision.share, 3),
                    "why": decision.why,
                }
            )
    return found


def _parsed(topology: Topology, reports: object) -> list[Report]:
    if not isinstance(reports, list) or not 0 < len(reports) <= MOST_REPORTS:
        raise WebfarmError(
            "reports: expected a list of mappings, such as "
            "reports='[{id: site1-farm1-ws1, requests: 100, busy: 60.0}]', or the path of a JSON "
            f"file with one; at most {MOST_REPORTS}"
        )
    found = []
    for number, given in enumerate(reports):
        if not isinstance(given, Mapping) or not isinstance(given.get("id"), str):
            raise WebfarmError(f"reports.{number}: expected a mapping with the `id` of a server")
        if topology.node(given["id"]).role != "server":
            raise WebfarmError(f"reports.{number}.id: {given['id']} is no web server of a farm")
        try:
            found.append(report_.parse(example(**{"at": 0.0, **given})))
        except Forged as error:
            raise WebfarmError(f"reports.{number}: {error}") from None
    return found
