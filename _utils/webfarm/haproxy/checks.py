"""Refuse what must not be done, before anything is sent, and say what was seen after it was."""

from collections.abc import Mapping
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.haproxy import maps
from webfarm.haproxy.client import BalancerError

WEIGHT_MAX = 256
STATES = ("ready", "drain", "maint")
FARM_STATES = ("open", "drain", "closed", "ready")
NEWEST = "newest"
AMNESTY = "webfarm_amnesty"  # no farm may have such a name
FIRST_GENERATION = 1
GENERATION_MAX = 999_999_999  # the site balancer takes a cookie of more digits for no cookie


def weight(what: str, weight: object) -> int:
    """``weight`` when it is a whole number of 1..256 (promise W1)."""
    if isinstance(weight, bool) or not isinstance(weight, int):
        raise WebfarmError(
            f"weight of {what}: {ascii(weight)[:40]} is not a whole number; nothing was changed"
        )
    if weight == 0:
        raise WebfarmError(
            f"weight of {what}: 0 would drain it in a way that `ready` does not lift; "
            "set its state to `drain` instead. Nothing was changed"
        )
    if not 1 <= weight <= WEIGHT_MAX:
        raise WebfarmError(
            f"weight of {what}: {weight} is not in 1..{WEIGHT_MAX}; nothing was changed"
        )
    return weight


def server_state(backend: object, server: object, state: object) -> None:
    """Refuse a state that no server can have."""
    names.check(backend, "backend")
    names.check(server, "server")
    if state not in STATES:
        raise WebfarmError(
            f"state of {backend}/{server}: {ascii(state)[:40]} is not one of "
            f"{', '.join(STATES)}; nothing was changed"
        )


def not_a_mapping(expected: str, found: object) -> WebfarmError:
    """The error for an argument of another shape."""
    return WebfarmError(
        f"expected a mapping {expected}, got {ascii(found)[:60]}; nothing was changed"
    )


def verify(
    what: str,
    wanted: Mapping[tuple[str, str], object],
    seen: Mapping[tuple[str, str], object],
    where: str,
) -> None:
    """Raise :class:`BalancerError` when HAProxy does not hold what it was told."""
    for (backend, server), value in wanted.items():
        if seen.get((backend, server)) != value:
            raise BalancerError(
                f"{where}: {what} of {backend}/{server}: expected {value}, HAProxy has "
                f"{seen.get((backend, server))} after the change; does something else change it "
                "too?"
            )


def changes(
    wanted: Mapping[tuple[str, str], Any], before: Mapping[tuple[str, str], Any]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Backend -> server -> {"old", "new"}, of what differs."""
    changed: dict[str, dict[str, dict[str, Any]]] = {}
    for (backend, server), new in wanted.items():
        if before[backend, server] != new:
            changed.setdefault(backend, {})[server] = {"old": before[backend, server], "new": new}
    return changed


def farm_arguments(
    state: Mapping[str, str] | None,
    generation: Mapping[str, int] | None,
    newest: int | None,
    release: Mapping[str, str] | None,
    pick: Mapping[str, int] | None,
    pick_newest: Mapping[str, int] | None,
    amnesty: int | None = None,
) -> None:
    """Refuse arguments of ``set_farms`` that could not be meant, whatever HAProxy holds."""
    for group in (state, generation, release, pick, pick_newest):
        if group is not None and not isinstance(group, Mapping):
            raise WebfarmError(
                f"expected a mapping of farm to value, got {ascii(group)[:60]}; nothing was changed"
            )
        for farm in group or {}:
            names.check(farm, "farm")
    for farm, value in (state or {}).items():
        if value not in FARM_STATES:
            raise WebfarmError(
                f"state of {farm}: {ascii(value)[:40]} is not one of {', '.join(FARM_STATES)}; "
                "nothing was changed"
            )
    for value in (release or {}).values():
        names.check(value, "release")
    numbers = dict(generation or {})
    if newest is not None:
        numbers[NEWEST] = newest
    if amnesty is not None:
        numbers[AMNESTY] = amnesty
    for farm, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise WebfarmError(
                f"generation of {farm}: {ascii(number)[:40]} is not a whole number; nothing was "
                "changed"
            )
        if not FIRST_GENERATION <= number <= GENERATION_MAX:
            raise WebfarmError(
                f"generation of {farm}: {number} is not in {FIRST_GENERATION}..{GENERATION_MAX}; "
                "nothing was changed"
            )
    for weights in (pick, pick_newest):
        maps.ranges(weights or {})


def generations(
    disk: Mapping[str, str],
    live: Mapping[str, str],
    generation: Mapping[str, int],
    newest: int | None,
    amnesty: int | None = None,
) -> dict[str, str]:
    """The generation map with the changes; refuses one that goes down or passes the newest."""
    wanted = {
        **generation,
        **({} if newest is None else {NEWEST: newest}),
        **({} if amnesty is None else {AMNESTY: amnesty}),
    }
    for farm, number in wanted.items():
        present = max(as_number(m.get(farm, "0"), farm) for m in (disk, live))
        if number < present:
            raise WebfarmError(
                f"generation of {farm}: {number} is less than the present {present}; generations "
                "never go down, "
                "a rollback is a new generation. Nothing was changed"
            )
    result = {**disk, **{farm: str(number) for farm, number in wanted.items()}}
    top = max(as_number(number, farm) for farm, number in result.items())
    if as_number(result.get(NEWEST, "0"), NEWEST) < top:
        raise WebfarmError(
            f"newest: {result.get(NEWEST)} is less than generation {top} of a farm; sessions of "
            "that farm would count "
            f"as forged. Set newest={top} in the same call. Nothing was changed"
        )
    return result


def as_number(value: str, what: str) -> int:
    """A generation of a map, which somebody may have edited."""
    try:
        return int(value)
    except ValueError:
        raise BalancerError(
            f"generation of {what} is {ascii(value)[:40]} in the map, expected a number; "
            "correct the map's file, then run haproxy_runtime.reconcile"
        ) from None
