"""A node's control groups: its own place for its services, and a limit for its CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .places import PREFIX

TOP = Path("/sys/fs/cgroup")
PARENT = f"{PREFIX}lab"
PERIOD_US = 100_000


def systemd_host() -> bool:
    """Whether systemd runs this host and gives each container a scope by itself."""
    return Path("/run/systemd/system").is_dir()


def _hierarchies() -> list[Path]:
    if (TOP / "cgroup.controllers").exists():
        return [TOP]
    wanted = ("cpu", "cpu,cpuacct", "systemd", "unified")
    return [TOP / name for name in wanted if (TOP / name / "cgroup.procs").exists()]


def create(node: str) -> list[Path]:
    """A group of the node's own in each hierarchy; the files to write a process id to.

    Without this all nodes would share one group tree, and one node's systemd would see (and
    stop) the services of the others.
    """
    if systemd_host():
        return []
    groups = []
    for hierarchy in _hierarchies():
        group = hierarchy / PARENT / node
        group.mkdir(parents=True, exist_ok=True)
        groups.append(group / "cgroup.procs")
    return groups


def remove_all() -> None:
    """Remove the groups of every node; their processes must be gone."""
    for hierarchy in _hierarchies():
        parent = hierarchy / PARENT
        if not parent.exists():
            continue
        folders = [path for path in parent.rglob("*") if path.is_dir()]
        for folder in [*sorted(folders, key=lambda path: -len(path.parts)), parent]:
            for _ in range(50):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the last process is not yet reaped
                    time.sleep(0.02)


def _cpu_group(pid: int) -> Path | None:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            for name in ("cpu", "cpu,cpuacct"):
                if (TOP / name).is_dir():
                    return _node_level(TOP / name, path)
        if not controllers and (TOP / "cgroup.controllers").exists():
            return _node_level(TOP, path)
    return None


def _node_level(hierarchy: Path, path: str) -> Path:
    """The group of the whole node, above whatever its systemd made of it."""
    parts = path.strip("/").split("/")
    if PARENT in parts:
        parts = parts[: parts.index(PARENT) + 2]
    else:
        scope = [n for n, part in enumerate(parts) if part.endswith((".scope", ".service"))]
        parts = parts[: scope[0] + 1] if scope else parts
    return hierarchy.joinpath(*parts)


def to_join(node_pid: int) -> Path:
    """The file to write a host's process to, so that its CPU counts as the node's."""
    group = _cpu_group(node_pid)
    if group is None or systemd_host():  # cgroup v2 takes no process in an inner group
        return Path(os.devnull)
    return group / "cgroup.procs"


def limit_cpu(node_pid: int, cores: float | None) -> None:
    """Let the whole node have at most so many cores; None: no limit."""
    group = _cpu_group(node_pid)
    if group is None:
        return
    quota = int(cores * PERIOD_US) if cores else -1
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{quota if cores else 'max'} {PERIOD_US}\n")
    elif (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
