"""A vector of weights as the master sent it: whose it is, whether it is of now, what is in it.

The signature is checked before, by :mod:`webfarm.signed`; here is checked that even the master
cannot ask for what no balancer should do (promise W1).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.haproxy import checks

VERSION = 1
OLDEST_SECONDS = 60.0  # `at` may be as old by this balancer's clock
AHEAD_SECONDS = 30.0  # or lie as far in the future
MAX_BYTES = 262_144  # 512 servers with drains: some 40 KiB
MAX_SERVERS = 2_000
MAX_SHARE = 1_000_000
MAX_EPOCH = 10**15
MAX_REASON = 200


class Refused(WebfarmError):
    """A vector that is not applied: of another site, another time, or with something odd in it."""


@dataclass(frozen=True)
class Vector:
    """What all balancers of a site shall carry for one farm.

    epoch
        Rises with each decision; milliseconds since 1970 in general.
    weights
        1 to 256 for each server.
    drained
        The servers that shall get no new requests, with the reason; all of them are in ``weights``.
    share
        The farm's part of new sessions: the sum of its servers' base weights, times what they can
        do together.
    """

    farm: str
    epoch: int
    weights: Mapping[str, int]
    drained: Mapping[str, str]
    share: int

    @property
    def rank(self) -> tuple[Any, ...]:
        """Orders two vectors; those of two masters that decided in the same millisecond too."""
        drained = sorted(self.drained)
        return (self.epoch, sorted(self.weights.items()), drained, self.share)


def read(body: Mapping[str, Any], site: str, now: float) -> Vector:
    """The vector of a body whose signature was found good.

    site
        The balancer's own.
    now
        Its clock: seconds since 1970.

    Raises :class:`Refused`.
    """
    if body.get("v") != VERSION:
        raise _odd(
            f"version {body.get('v')!a:.20}, expected {VERSION}: sync this balancer's modules"
        )
    if body.get("site") != site:
        raise _odd(f"it is for the site {body.get('site')!a:.80}, this balancer is of {site}")
    at = body.get("at")
    if isinstance(at, bool) or not isinstance(at, int | float):
        raise _odd(f"at is {at!a:.40}, expected seconds")
    if not -AHEAD_SECONDS <= now - at <= OLDEST_SECONDS:
        raise _odd(
            f"it was made {now - at:+.0f} s ago by this balancer's clock, -{AHEAD_SECONDS:.0f} to "
            f"{OLDEST_SECONDS:.0f} s are taken; is the time right here and on the master?"
        )
    return parse(body)


def parse(body: Mapping[str, Any]) -> Vector:
    """The vector itself; raises :class:`Refused`."""
    epoch, share = body.get("epoch"), body.get("share")
    weights, drained = body.get("weights"), body.get("drained")
    if not isinstance(weights, Mapping) or not 0 < len(weights) <= MAX_SERVERS:
        raise _odd(f"weights are {weights!a:.60}, expected server -> 1..256")
    if not isinstance(drained, Mapping) or not drained.keys() <= weights.keys():
        raise _odd(f"drained is {drained!a:.60}, expected server -> reason, of servers in weights")
    try:
        farm = names.check(body.get("farm"), "farm")
        for server, weight in weights.items():
            checks.weight(names.check(server, "server"), weight)
    except WebfarmError as error:
        raise _odd(str(error)) from None
    for server, reason in drained.items():
        if not isinstance(reason, str) or len(reason) > MAX_REASON or not reason.isprintable():
            raise _odd(f"the reason of {server} is {reason!a:.60}, expected a short text")
    return Vector(
        farm,
        _number(epoch, "epoch", MAX_EPOCH),
        dict(weights),
        dict(drained),
        _number(share, "share", MAX_SHARE),
    )


def plain(vector: Vector) -> dict[str, Any]:
    """``vector`` as JSON can carry it, for :func:`parse`."""
    return {
        "farm": vector.farm,
        "epoch": vector.epoch,
        "weights": dict(vector.weights),
        "drained": dict(vector.drained),
        "share": vector.share,
    }


def _number(value: object, what: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise _odd(f"{what} is {value!a:.40}, expected a whole number of 1..{most}")
    return value


def _odd(why: str) -> Refused:
    return Refused(f"the vector of weights is refused: {why}. Nothing was changed")
