"""Check what an operator typed: numbers, reasons, orders, switches; pure.

Salt's command line reads YAML, so any argument may come as a number, a list or a mapping. Each
function returns the value or raises :class:`WebfarmError` that shows what was given and what is
expected.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError

LONGEST_REASON = 500
MOST_OVERRIDES = 50
MOST_PLACES = 10_000

Place = tuple[str, str]  # site, farm


def number(value: object, what: str) -> int:
    """A positive whole number; ``True`` and ``7.0`` are none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**53:
        raise WebfarmError(f"{what} is {_shown(value)}, expected a number; nothing was changed")
    return value


def switch(value: object, what: str) -> bool:
    """True or False, and nothing that only looks like it."""
    if not isinstance(value, bool):
        raise WebfarmError(
            f"{what} is {_shown(value)}, expected True or False; nothing was changed"
        )
    return value


def reason(value: object, what: str = "reason", needed: bool = False) -> str:
    """A sentence for the record, in one line."""
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        shown = "missing" if value is None else _shown(value)
        raise WebfarmError(
            f"{what} is {shown}, expected a sentence: {what}='…'; nothing was changed"
        )
    if len(value) > LONGEST_REASON:
        raise WebfarmError(
            f"{what} has {len(value)} characters, at most {LONGEST_REASON} are kept; nothing was "
            "changed"
        )
    plain = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    if needed and not plain:
        raise WebfarmError(f"{what} is empty, expected a sentence; nothing was changed")
    return plain


def overrides(value: object) -> Mapping[str, Any]:
    """What a run overrides in the policy: a mapping of its keys; their values are not checked."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or len(value) > MOST_OVERRIDES:
        raise WebfarmError(
            f"policy is {_shown(value)}, expected a mapping such as "
            "policy='{soak_seconds: 60, on_failure: pause}'; nothing was changed"
        )
    for key in value:
        names.check(key, "policy key")
    return dict(value)


def words(value: object) -> list[str]:
    """The names in an order, each safe: a list of them, or text with commas between them."""
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, Sequence) or len(found) > MOST_PLACES:
        raise WebfarmError(
            f"order is {_shown(value)}, expected names with commas between them; nothing was "
            "changed"
        )
    names_ = [word.strip() if isinstance(word, str) else word for word in found]
    for word in names_:
        for part in word.split("/", 1) if isinstance(word, str) else (word,):
            names.check(part, "order")
    return names_


def ordered(value: object, scope: Sequence[Place]) -> list[Place]:
    """The farms of the scope in the order that was asked for; None is the scope's own.

    value
        A list or comma-separated text: farms as ``site1/farm2``, farms without their site where
        the scope has one site, or sites where it has several.

    Raises :class:`WebfarmError` that names what is missing, unknown or there twice.
    """
    if value is None:
        return list(scope)
    given = words(value)
    sites = list(dict.fromkeys(site for site, _ in scope))
    if len(sites) > 1 and not any("/" in word for word in given):
        _permutation(given, sites)
        return [place for site in given for place in scope if place[0] == site]
    places = [_place(word, sites) for word in given]
    _permutation(["/".join(place) for place in places], ["/".join(place) for place in scope])
    return places


def _place(word: str, sites: Sequence[str]) -> Place:
    first, _, rest = word.partition("/")
    if rest:
        return first, rest
    if len(sites) > 1:
        raise WebfarmError(
            f"order has {word} beside names with a site; write it as SITE/FARM; nothing was changed"
        )
    return sites[0], first


def _permutation(given: Sequence[str], wanted: Sequence[str]) -> None:
    faults = {
        "unknown": [name for name in dict.fromkeys(given) if name not in wanted],
        "there twice": [name for name in dict.fromkeys(given) if given.count(name) > 1],
        "missing": [name for name in wanted if name not in given],
    }
    if any(faults.values()):
        found = "; ".join(f"{what}: {', '.join(them)}" for what, them in faults.items() if them)
        raise WebfarmError(
            f"order must name each of {', '.join(wanted)} once. {found}; nothing was changed"
        )


def _shown(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
