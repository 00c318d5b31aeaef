"""What the commands need of a Salt master: the pillar, the store, a client, who types."""

import getpass
import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import salt.client
import salt.key
import salt.pillar
import salt.utils.minions

from webfarm import names, store
from webfarm import topology as topology_
from webfarm.errors import WebfarmError
from webfarm.rollout.context import Context
from webfarm.rollout.lease import LEASE_SECONDS
from webfarm.rollout.salt_cluster import SaltCluster
from webfarm.rollout.watcher import Watcher
from webfarm.topology import Topology

Opts = Mapping[str, Any]


@contextmanager
def context(opts: Opts, watcher: Watcher, interrupted: Callable[[], bool]) -> Iterator[Context]:
    """The commands' context on this master."""
    seconds = lease_seconds(opts)
    known = topology(opts)
    client = salt.client.get_local_client(mopts=opts)
    try:
        yield Context(
            topology=known,
            cluster=SaltCluster(client, known),
            clock=time,
            journal_path=Path(opts["cachedir"]) / "webfarm" / "journal.sqlite",
            digests=_digests(opts),
            certified=_certified(known, Path(opts["cachedir"]) / "webfarm" / "journal.sqlite"),
            holder=os.environ.get("SUDO_USER") or getpass.getuser(),
            watcher=watcher,
            interrupted=interrupted,
            lease_seconds=seconds,
        )
    finally:
        client.destroy()


def lease_seconds(opts: Opts) -> float:
    """How long a site stays held when its run is not heard of: ``webfarm_lease_seconds``."""
    value = opts.get("webfarm_lease_seconds", LEASE_SECONDS)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 10 <= value <= 3600:
        raise WebfarmError(
            f"webfarm_lease_seconds in the master's configuration is {value!a:.40}, expected 10 to "
            "3600 seconds; nothing was changed"
        )
    return float(value)


def topology(opts: Opts) -> Topology:
    """The pillar ``webfarm``, compiled here: minions may be down, the master's word counts."""
    problems: list[str] = []
    for minion in _pillar_minions(opts):
        _, grains, _ = salt.utils.minions.get_minion_data(minion, opts)
        grains = grains or {"id": minion, "fqdn": minion}
        compiled = salt.pillar.Pillar(opts, grains, minion, "base").compile_pillar()
        if compiled.get("_errors"):
            problems += [f"pillar of {minion}: {error}" for error in compiled["_errors"]]
        elif "webfarm" in compiled:
            return topology_.parse(compiled["webfarm"])
        else:
            problems.append(f"pillar of {minion}: has no `webfarm`")
        if len(problems) > 5:
            break
    raise WebfarmError(
        "the master cannot compile the pillar `webfarm`; assign it in the pillar's top file, or "
        "name a minion that has it as webfarm_pillar_minion in the master's configuration:\n  "
        + "\n  ".join(problems)
    )


def _pillar_minions(opts: Opts) -> list[str]:
    named = opts.get("webfarm_pillar_minion")
    if named:
        return [names.check(named, "webfarm_pillar_minion")]
    own = str(opts["id"]).removesuffix("_master")
    with salt.key.get_key(opts) as keys:
        accepted = keys.list_keys().get("minions", [])
    return [own, *[minion for minion in sorted(accepted) if minion != own]]


def _certified(
    known: Topology, journal: Path
) -> Callable[[Sequence[str], Sequence[str]], Mapping[str, Any] | None]:
    """The certificates of packages, kept beside the journal."""

    def require(words: Sequence[str], profiles: Sequence[str]) -> Mapping[str, Any] | None:
        if not known.preproduction.servers:
            return None
        gate, book, packages = (
            importlib.import_module(f"webfarm.certificates.{name}")
            for name in ("gate", "book", "packages")
        )
        if not packages.needed(known):
            return None
        with book.opened(gate.path(journal)) as store:
            found: Mapping[str, Any] = packages.require(store, known, words, profiles, time.time())
            return found

    return require


def _digests(opts: Opts) -> Callable[[str, str], str] | None:
    """The release store's digests; None where the store is not on this master."""
    root = Path(opts.get("webfarm_store", store.ROOT))
    return store.Store(root).digest if root.is_dir() else None
