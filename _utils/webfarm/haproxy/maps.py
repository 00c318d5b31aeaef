"""HAProxy's maps: their copies on disk, their atomic replacement at run time, shares as ranges."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from webfarm.errors import WebfarmError
from webfarm.files import write_atomic
from webfarm.haproxy import parse
from webfarm.haproxy.client import BalancerError, Client

SLOTS = 256
Entries = list[tuple[str, str]]
_VERSION = re.compile(r"New version created: (\d+)")


def ranges(weights: Mapping[str, int]) -> Entries:
    """Share SLOTS slots out by weight: entries ``(first:last, name)`` in the order of the names.

    Largest remainder method; every name of a positive weight gets at least one slot, a weight of 0
    gets none. The result depends on the weights only, so all balancers of a layer get the same
    ranges.
    """
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= 1_000_000:
            raise WebfarmError(
                f"share of {name}: {ascii(weight)[:40]} is not a whole number of 0..1000000; "
                "nothing was changed"
            )
    chosen = {name: weights[name] for name in sorted(weights) if weights[name] > 0}
    if len(chosen) > SLOTS:
        raise WebfarmError(
            f"{len(chosen)} names cannot share {SLOTS} slots; take some out of the pick"
        )
    if not chosen:
        return []
    total = sum(chosen.values())
    slots = {name: max(1, weight * SLOTS // total) for name, weight in chosen.items()}
    remainder = {name: weight * SLOTS % total for name, weight in chosen.items()}
    by_remainder = sorted(chosen, key=lambda name: (-remainder[name], name))
    for name in by_remainder[: max(0, SLOTS - sum(slots.values()))]:
        slots[name] += 1
    while sum(slots.values()) > SLOTS:  # names of less than one slot were rounded up
        slots[max(slots, key=lambda name: (slots[name], name))] -= 1
    entries: Entries = []
    first = 0
    for name, count in slots.items():
        entries.append((f"{first}:{first + count - 1}", name))
        first += count
    return entries


def shares(entries: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Slots by name, of a pick map's entries."""
    found: dict[str, int] = {}
    for key, name in entries:
        first, _, last = key.partition(":")
        try:
            count = int(last or first) - int(first) + 1
        except ValueError:
            raise BalancerError(
                f"a pick map holds {ascii(key)[:40]}, expected FIRST:LAST"
            ) from None
        found[name] = found.get(name, 0) + count
    return found


def read(path: Path) -> Entries:
    """The entries of the copy on disk."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise BalancerError(
            f"{path} is missing; apply the highstate to this balancer, it creates the maps"
        ) from None
    entries: Entries = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, _, value = line.partition(" ")
        entries.append((key, value.strip()))
    return entries


def write(path: Path, entries: Sequence[tuple[str, str]]) -> None:
    """Replace the copy on disk; survives a power cut as the old text or the new one."""
    write_atomic(path, "".join(f"{key} {value}\n" for key, value in entries))


def show(client: Client, path: Path) -> Entries:
    """The entries that a process of HAProxy uses now."""
    try:
        return parse.map_entries(client.one(f"show map {path}"))
    except BalancerError as error:
        raise BalancerError(f"{client}: map {path}: {error}") from None


def replace(client: Client, path: Path, entries: Sequence[tuple[str, str]]) -> bool:
    """Make a process use ``entries``, all at once, and read them back; says whether it had to
    change.

    A request sees the old map or the new one, never a part of it.
    """
    if show(client, path) == list(entries):
        return False
    reply = client.one(f"prepare map {path}")
    match = _VERSION.fullmatch(reply)
    if not match:
        raise BalancerError(f"{client}: `prepare map {path}`: HAProxy said {ascii(reply)[:120]}")
    version = match[1]
    commands = [f"add map @{version} {path} {key} {value}" for key, value in entries]
    replies = client.ask(commands)
    for command, said in zip(commands, replies, strict=True):
        if said:
            with contextlib.suppress(BalancerError):
                client.one(f"clear map @{version} {path}")
            raise BalancerError(f"{client}: `{command}`: HAProxy said {ascii(said)[:120]}")
    said = client.one(f"commit map @{version} {path}")
    seen = show(client, path)
    if said or seen != list(entries):
        raise BalancerError(
            f"{client}: map {path} was not taken over: expected {_brief(entries)}, it holds "
            f"{_brief(seen)}"
            f"{f', HAProxy said {ascii(said)[:120]}' if said else ''}; run "
            "haproxy_runtime.reconcile"
        )
    return True


def _brief(entries: Sequence[tuple[str, str]]) -> str:
    text = ", ".join(f"{key} {value}" for key, value in entries) or "nothing"
    return text if len(text) <= 200 else text[:197] + "..."
