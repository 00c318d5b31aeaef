"""Mistakes between entries of the pillar, found in the raw data.

Raw, so that they are reported in the same breath as mistakes of shape.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from webfarm.shape import shown


def _mapping(value: Any, *path: str) -> Mapping[Any, Any]:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def mistakes(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each mistake between entries: clashes, unknown or ambiguous releases."""
    yield from _unique_nodes(data)
    yield from _own_pools(data)
    release_of: dict[tuple[str, str], str] = {}
    known = _mapping(data, "releases")
    for name, release in known.items():
        if isinstance(release, Mapping):
            pair = (str(release.get("php")), str(release.get("webapp")))
            if pair in release_of:
                yield (
                    f"webfarm.releases.{name}: is the same pair as {release_of[pair]} "
                    f"(php {pair[0]}, webapp {pair[1]}); "
                    "a server could not tell which of them it runs"
                )
            release_of.setdefault(pair, str(name))
    for key in ("target", "initial"):
        value = data.get(key)
        if isinstance(value, str) and value and value not in known:
            allowed = ", ".join(map(str, known)) or "none"
            yield f"webfarm.{key}: {shown(value)}: is not in webfarm.releases ({allowed})"


def _unique_nodes(data: Mapping[str, Any]) -> Iterator[str]:
    ids: dict[str, str] = {}
    addresses: dict[str, str] = {}
    for path, minion, address in _raw_nodes(data):
        if minion in ids:
            yield f"{path}: the minion id {shown(minion)} is used at {ids[minion]} too"
        ids.setdefault(minion, path)
        if isinstance(address, str):
            if address in addresses:
                yield f"{path}: the address {shown(address)} is used at {addresses[address]} too"
            addresses.setdefault(address, path)


def _own_pools(data: Mapping[str, Any]) -> Iterator[str]:
    """A pool shared by two farms would serve one farm's stale sessions to the other (S3)."""
    users: dict[str, str] = {}
    for name, site in _mapping(data, "sites").items():
        for farm_name, farm in _mapping(site, "farms").items():
            path = f"webfarm.sites.{name}.farms.{farm_name}.memcached"
            members = farm.get("memcached") if isinstance(farm, Mapping) else None
            for member in members if isinstance(members, list) else []:
                if str(member) in users:
                    yield (
                        f"{path}: {shown(member)}: is used at {users[str(member)]} too; "
                        "each farm needs its own"
                    )
                users.setdefault(str(member), path)


def _raw_nodes(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    def group(parent: Any, path: str) -> Iterator[tuple[str, str, Any]]:
        for minion, node in _mapping(parent).items():
            yield f"{path}.{minion}", str(minion), _mapping(node).get("address")

    store = _mapping(data, "store")
    if "minion" in store:
        yield "webfarm.store", str(store["minion"]), store.get("address")
    yield from group(_mapping(data, "primary", "balancers"), "webfarm.primary.balancers")
    for name, site in _mapping(data, "sites").items():
        base = f"webfarm.sites.{name}"
        database = _mapping(site, "database")
        if "minion" in database:
            yield f"{base}.database", str(database["minion"]), database.get("address")
        yield from group(_mapping(site, "balancers"), f"{base}.balancers")
        for farm_name, farm in _mapping(site, "farms").items():
            yield from group(_mapping(farm, "servers"), f"{base}.farms.{farm_name}.servers")
    yield from group(_mapping(data, "preproduction", "servers"), "webfarm.preproduction.servers")
