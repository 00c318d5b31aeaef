"""A PHP tree for the release store, from a package that Portage has built.

Gentoo installs each PHP below ``/usr/lib64/phpX.Y``; the store wants ``bin/php`` and
``sbin/php-fpm`` in a tree that runs from any folder.
"""

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webfarm import files, manifest
from webfarm.errors import WebfarmError
from webfarm.packages import binhost
from webfarm.store import check_shape, check_version

MOST_BYTES = 2 * 1024**3
FOLDER = "_trees"  # beside the profiles, which cannot have this name


@dataclass(frozen=True)
class Exported:
    """A tree as it is served.

    digest
        The tree's, as the release store computes it.
    archive
        The tar file's.
    """

    version: str
    path: Path
    digest: str
    archive: str


def export(merge: Callable[[Path], Path], version: str, public: Path) -> Exported:
    """Have PHP merged into a root of its own, and serve its tree as a tar file.

    merge
        Merges into the root that it is given and returns the folder that ``usr`` is in.

    What was exported under this version is never replaced by another content.
    """
    check_version(version)
    folder = public / FOLDER
    files.make_folder(folder)
    with tempfile.TemporaryDirectory(prefix="php-", dir=public.parent) as home:
        root = Path(home) / "root"
        root.mkdir(mode=0o755)
        tree = Path(home) / "tree"
        _copy(merge(root), tree)
        described = manifest.of(tree, normalise=True)
        check_shape("php", described)
        packed = Path(home) / "tree.tar"
        _pack(tree, packed)
        target = folder / f"php-{version}.tar"
        digest = binhost.digest_of(packed)
        if target.exists() and binhost.digest_of(target) != digest:
            raise WebfarmError(
                f"php {version} was exported before with another content; export this build under"
                " another version, such as 8.2.36-r1. Nothing was changed"
            )
        packed.chmod(0o644)
        os.rename(packed, target)
        files.sync_dir(folder)
    return Exported(version, target, described.digest, digest)


def fetch(url: str, archive: str, folder: Path) -> Path:
    """Fetch an exported tree into ``folder`` and unpack it; returns the tree.

    Raises :class:`WebfarmError` when its content has not the digest ``archive``.
    """
    packed, tree = folder / "tree.tar", folder / "tree"
    digest, size = hashlib.sha256(), 0
    opener = binhost.opener(url)
    try:
        with opener.open(url, timeout=binhost.FETCH_SECONDS) as answer, packed.open("wb") as out:
            while data := answer.read(1 << 20):
                size += len(data)
                digest.update(data)
                out.write(data)
                if size > MOST_BYTES:
                    raise WebfarmError(f"{url} has more than {MOST_BYTES} bytes; nothing was added")
    except (OSError, ValueError) as error:
        raise WebfarmError(f"{url} cannot be read: {error}; nothing was added") from None
    seen = f"sha256:{digest.hexdigest()}"
    if seen != archive:
        raise WebfarmError(
            f"{url} is {seen[:19]}…, expected {str(archive)[:19]!a}…: it is not what was exported;"
            " nothing was added"
        )
    tree.mkdir(mode=0o755)
    try:
        with tarfile.open(packed) as tar:
            tar.extractall(tree, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise WebfarmError(f"{url} cannot be unpacked: {error}; nothing was added") from None
    return tree


def _copy(base: Path, tree: Path) -> None:
    found = [
        folder
        for pattern in ("usr/lib64/php*", "usr/lib/php*")
        for folder in sorted(base.glob(pattern))
        if (folder / "bin/php").is_file()
    ]
    if len(found) != 1:
        shown = ", ".join(map(str, found)) or "none"
        raise WebfarmError(
            f"a package of PHP must have one usr/lib64/phpX.Y with bin/php, this one has {shown};"
            " was it built with USE=cli fpm? Nothing was exported"
        )
    shutil.copytree(found[0], tree, symlinks=True)
    fpm = tree / "sbin/php-fpm"
    if not fpm.exists() and (tree / "bin/php-fpm").is_file():
        fpm.parent.mkdir(mode=0o755, exist_ok=True)
        fpm.symlink_to("../bin/php-fpm")


def _pack(tree: Path, target: Path) -> None:
    """The same tree gives the same bytes."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = 0
        return member

    def add(tar: Any, path: Path) -> None:
        for child in sorted(path.iterdir()):
            tar.add(child, str(child.relative_to(tree)), recursive=False, filter=plain)
            if child.is_dir() and not child.is_symlink():
                add(tar, child)

    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, tree)
