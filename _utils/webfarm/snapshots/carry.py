"""Carry what must survive a restore from the root that is left into the one that comes."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from webfarm.snapshots.model import SnapshotError
from webfarm.snapshots.tools import Tools


def inside(root: Path, path: str) -> Path:
    """``path`` below ``root``.

    A symlink on the way would lead out of ``root``, so it is refused: :class:`SnapshotError`.
    """
    place = root
    for part in path.strip("/").split("/"):
        place = place / part
        if place.is_symlink():
            raise SnapshotError(
                f"preserve: {path} passes the symlink {place}, which may lead out of the root;"
                " name the folder itself in webfarm:snapshots:preserve. Nothing was changed"
            )
    return place


def check(root: Path, paths: Iterable[str]) -> None:
    """Raise :class:`SnapshotError` when one of ``paths`` could not be carried out of ``root``."""
    for path in paths:
        inside(root, path)


def carry(old: Path, new: Path, paths: Iterable[str], tools: Tools) -> list[str]:
    """Replace each of ``paths`` in ``new`` by what it is in ``old``; returns those that were there.

    Each is copied beside its place and then exchanged with it. One that ``old`` has not is left in
    ``new`` as it is.
    """
    carried = []
    for path in paths:
        source, target = inside(old, path), inside(new, path)
        if not source.exists():
            continue
        _make_parents(old, new, path, tools)
        copy = _copy_of(target)
        tools.remove(copy)
        tools.run(["cp", "--archive", "--reflink=auto", "--", str(source), str(copy)])
        if _is_empty(target):  # also what a snapshot has where another subvolume was
            target.rmdir()
        if target.exists():
            tools.exchange(copy, target)
            tools.remove(copy)
        else:
            tools.rename(copy, target)
        carried.append(path)
    return carried


def tidy(root: Path, paths: Iterable[str], tools: Tools) -> None:
    """Remove what a killed :func:`carry` has left in ``root``."""
    for path in paths:
        copy = _copy_of(root / path.strip("/"))
        if os.path.lexists(copy):
            tools.remove(_copy_of(inside(root, path)))


def _copy_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.webfarm-carried")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _make_parents(old: Path, new: Path, path: str, tools: Tools) -> None:
    for parent in reversed([*Path(path.strip("/")).parents][:-1]):
        there = os.lstat(old / parent)
        if not (new / parent).is_dir():
            tools.make(new / parent, stat.S_IMODE(there.st_mode))
            os.chown(new / parent, there.st_uid, there.st_gid)
            os.chmod(new / parent, stat.S_IMODE(there.st_mode))
