"""The vector: what all balancers of a site shall carry for a farm."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from webfarm.errors import WebfarmError

TAG = "webfarm/weights"
"""The tag of events with vectors is this and ``/SITE/FARM``, or ``/SITE`` for several at once."""


@dataclass(frozen=True)
class Vector:
    """One epoch of a farm.

    epoch
        Milliseconds since 1970, or one more than the last: it only rises, also when the clock goes
        back.
    weights
        1 to 256 for each of the farm's servers.
    drained
        The servers that the loop takes out of service, with the reason.
    share
        The farm's part of new sessions, at least 1; its base is the sum of its servers' bases.
    """

    site: str
    farm: str
    epoch: int
    weights: Mapping[str, int]
    drained: Mapping[str, str]
    share: int

    def says(self, other: "Vector | None") -> bool:
        """Whether ``other`` asks for the same, whatever its epoch."""
        return other is not None and (self.weights, set(self.drained), self.share) == (
            other.weights,
            set(other.drained),
            other.share,
        )

    def body(self, at: float) -> dict[str, Any]:
        """What is signed; ``at`` is the master's clock now."""
        return {"v": 1, **asdict(self), "at": at}


def next_epoch(last: int, now: float) -> int:
    """The epoch of a new vector."""
    return max(last + 1, int(now * 1000))


def plain(vector: Vector | None) -> dict[str, Any] | None:
    """``vector`` as JSON can carry it, for :func:`restored`."""
    return None if vector is None else asdict(vector)


def restored(data: object) -> Vector | None:
    """The vector that :func:`plain` made; :class:`WebfarmError` when it is not one."""
    if data is None:
        return None
    try:
        assert isinstance(data, Mapping)
        weights = dict(data["weights"])
        if any(type(weight) is not int or not 1 <= weight <= 256 for weight in weights.values()):
            raise ValueError("a weight is no integer of 1 to 256")
        return Vector(
            str(data["site"]),
            str(data["farm"]),
            int(data["epoch"]),
            weights,
            {server: str(why) for server, why in data["drained"].items()},
            max(1, int(data["share"])),
        )
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise WebfarmError(
            f"what was kept of the farm's last vector cannot be read: {error}"
        ) from None
