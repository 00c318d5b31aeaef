"""How many sessions a way back would reset, asked of the sites' session databases."""

from collections.abc import Mapping, Sequence
from typing import Any

from webfarm.releases import order_key
from webfarm.rollout.cluster import Cluster
from webfarm.rollout.model import Reply
from webfarm.topology import Topology

COUNT_SECONDS = 40.0  # its own deadline is 30


def newer(cluster: Cluster, topology: Topology, back: Sequence[tuple[str, str, str]]) -> str:
    """Per site how many sessions were answered by a newer release than they go back to, in words.

    back
        Site, farm and release of each farm that goes back.
    """
    lines = []
    for name in dict.fromkeys(site for site, _, _ in back):
        site = topology.site(name)
        oldest = min((release for s, _, release in back if s == name), key=order_key)
        minion = site.database.minion
        replies = cluster.call(name, "webfarm_sessions.count", [minion], {}, COUNT_SECONDS)
        lines.append(_said(name, minion, oldest, replies.get(minion) or Reply(None)))
    return "; ".join(lines)


def _said(site: str, minion: str, oldest: str, reply: Reply) -> str:
    counts = reply.value
    if not reply.ok or not isinstance(counts, Mapping) or not all(map(_counts, counts.items())):
        why = reply.error or f"answered {counts!a:.60}"
        return f"how many in {site} is not known ({minion}: {why})"
    number = sum(n for release, n in counts.items() if order_key(release) > order_key(oldest))
    return f"{number} of {sum(counts.values())} in {site}"


def _counts(item: tuple[Any, Any]) -> bool:
    release, number = item
    whole = isinstance(number, int) and not isinstance(number, bool) and number >= 0
    return isinstance(release, str) and whole
