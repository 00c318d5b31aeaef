"""Where the lab keeps its things."""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = os.environ.get("WEBFARM_LAB_PREFIX", "wf-")
"""Every machine, network namespace, disk and cgroup of the lab has a name that begins so.

With another prefix and another state folder, a second lab stands beside the first.
"""

REPO = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("WEBFARM_LAB_CACHE", "/var/cache/webfarm-lab"))
STATE = Path(os.environ.get("WEBFARM_LAB_STATE", "/var/lib/webfarm-lab"))

DISKS = STATE / "disks"
"""The btrfs of all nodes; DISKS/NODE is a node's part of it."""

SUBVOLUME = {"mount": "/.webfarm", "subvolume": "@"}
"""Within a node: where DISKS/NODE is, and what of it is the root."""

CERTIFICATES = STATE / "certificates"
LAB_FILE = STATE / "lab.json"
LOCK_FILE = STATE / "lock"


def root(node: str) -> Path:
    """The node's file system, seen from the host."""
    return DISKS / node / SUBVOLUME["subvolume"]
