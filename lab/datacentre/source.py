"""What the master serves: the repository's working tree, the pillar, the release store."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .places import REPO, SUBVOLUME, root
from .terminal import LabError, run
from .topology import Topology

SOURCE = "srv/webfarm/src"
PILLAR = "srv/webfarm/pillar"
INCOMING = "srv/webfarm/incoming"
WEBAPPS = ("1", "2")

ALWAYS: dict[str, Any] = {
    "snapshots": {"provider": "btrfs", **SUBVOLUME},
    # the lab's tests go from release to release: only packages need a certificate
    "preproduction": {"certify": ["packages"], "soak_seconds": 10, "soak_requests": 200},
}

EXCLUDED = (
    *(".git", ".venv", "__pycache__", "*.egg-info", ".pytest_cache", ".mypy_cache"),
    *(".ruff_cache", ".hypothesis", "build", "dist"),
)


def copy_tree(source: Path, target: Path, *options: str) -> list[str]:
    """Make ``target`` the same as ``source``, without what no release would hold.

    Returns the paths that changed.
    """
    target.mkdir(parents=True, exist_ok=True)
    excludes = [f"--exclude={pattern}" for pattern in EXCLUDED]
    command = ["rsync", "-a", "--delete", "--chown=root:root", "--itemize-changes", *excludes]
    changes = run([*command, *options, f"{source}/", f"{target}/"]).stdout
    return [line.split(maxsplit=1)[1] for line in changes.splitlines()]


def copy_repository(master: str) -> bool:
    """The working tree as it is now, committed or not; whether Salt modules changed."""
    changed = copy_tree(REPO, root(master) / SOURCE)
    return any(path.startswith("_") and not path.endswith("/") for path in changed)


def _natural(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def real_releases(pillar: Mapping[str, Any], php: Sequence[str]) -> dict[str, dict[str, str]]:
    """The pillar's releases with the PHP versions that are really there, in the same order."""
    releases: dict[str, dict[str, str]] = copy.deepcopy(pillar["webfarm"]["releases"])
    named = sorted({str(release["php"]) for release in releases.values()}, key=_natural)
    for release in releases.values():
        place = named.index(str(release["php"]))
        release["php"] = php[min(place, len(php) - 1)]
    pairs = [(release["php"], str(release["webapp"])) for release in releases.values()]
    if len(set(pairs)) < len(pairs):
        raise LabError(
            f"the pillar's releases need {len(named)} PHP versions, apt offers {', '.join(php)}: "
            "give the releases different webapp versions"
        )
    return releases


def copy_pillar(master: str, topology: Topology, php: Sequence[str]) -> None:
    """The example pillar, its cluster being this lab's size, with the real PHP versions.

    And with what is so in every lab: see :data:`ALWAYS`.
    """
    target = root(master) / PILLAR
    copy_tree(REPO / "pillar", target, "--exclude=/secrets/")
    (target / "cluster.sls").write_text((REPO / "pillar" / f"{topology.size}.sls").read_text())
    ours = {"webfarm": {"releases": real_releases(topology.pillar, php), **ALWAYS}}
    (target / "releases.sls").write_text(yaml.safe_dump(ours, sort_keys=False))


def write_secrets(master: str, secrets: Mapping[str, Mapping[str, str]]) -> None:
    """Name of a pillar file in ``secrets/`` -> what it tells the minions that need it."""
    folder = root(master) / PILLAR / "secrets"
    for name, values in secrets.items():
        path = folder / f"{name.replace('.', '/')}.sls"
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump({"webfarm_secrets": dict(values)}))


def copy_trees(master: str, php: Mapping[str, Path], webapps: Mapping[str, Path]) -> None:
    """Bring what is to be released to the master, where the store takes it in."""
    for kind, trees in (("php", php), ("webapp", webapps)):
        for version, tree in trees.items():
            copy_tree(tree, root(master) / INCOMING / kind / version)


def webapps() -> dict[str, Path]:
    """Version -> tree of the lab's own web application, which takes its version from its folder."""
    return dict.fromkeys(WEBAPPS, REPO / "lab" / "webapp")
