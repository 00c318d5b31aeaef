"""Say exactly what a tree of files contains, as text, so that two trees can be compared.

The text of a manifest, sorted by path, has these lines::

    d <mode> <path>               a folder (the tree's own root is not listed)
    f <sha256> <mode> <path>      a file
    l <target> <path>             a symlink

Space, control characters and % in a symlink's target are percent-encoded.

Modes are octal without a leading zero. The digest of a tree is the sha256 of this text.
"""

import hashlib
import os
import posixpath
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, unquote

from webfarm.errors import WebfarmError

MAX_BYTES = 64 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"[1-7][0-7]{0,3}|0")
_PLAIN = (  # what a target may hold unencoded: all printable ASCII but space and %
    "/!\"#$&'()*+,:;<=>?@[\\]^`{|}~"
)
_CHUNK = 1024 * 1024


class BadTree(WebfarmError):
    """A tree that cannot be a release: the message names the entry."""


class BadManifest(WebfarmError):
    """A text that is not a manifest: the message names the line."""


class BadDigest(WebfarmError):
    """A digest that is not 64 lower-case hexadecimal digits."""


@dataclass(frozen=True)
class Entry:
    """One line: ``kind`` is d, f or l; ``value`` a file's sha256 or a symlink's target."""

    kind: str
    path: str
    mode: int = 0
    value: str = ""

    def line(self) -> str:
        """The entry as the manifest's text has it."""
        if self.kind == "d":
            return f"d {self.mode:o} {self.path}"
        if self.kind == "f":
            return f"f {self.value} {self.mode:o} {self.path}"
        return f"l {quote(self.value, safe=_PLAIN)} {self.path}"


@dataclass(frozen=True)
class Manifest:
    """The entries of a tree, sorted by path."""

    entries: tuple[Entry, ...]

    @cached_property
    def text(self) -> str:
        """The canonical text, each line ended by a newline."""
        return "".join(entry.line() + "\n" for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        """sha256 of :attr:`text`, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def check_digest(value: object) -> str:
    """Return ``value`` when it is a digest; raises :class:`BadDigest`."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise BadDigest(
            f"digest {ascii(value)[:80]} is not 64 lower-case hexadecimal digits; see `salt-run"
            " store.list`"
        )
    return value


def of(root: Path, normalise: bool = False) -> Manifest:
    """Read the tree under ``root``.

    normalise
        Give the modes that the store gives: see :func:`normal_mode`.

    Raises :class:`BadTree` for a device, a socket, a FIFO, a set-id bit, a symlink that is absolute
    or leaves the tree, and a name that is not UTF-8 or has control characters.
    """
    if root.is_symlink() or not root.is_dir():
        raise BadTree(f"{root} is not a folder")
    found: list[Entry] = []
    _read_folder(os.fsencode(root), "", normalise, found)
    return Manifest(tuple(sorted(found, key=lambda entry: entry.path)))


def normal_mode(mode: int) -> int:
    """The mode of a released entry: folders 755, files 555 when executable, else 444.

    Released files are read-only because versions share them by hard links.
    """
    if stat.S_ISDIR(mode):
        return 0o755
    return 0o555 if mode & 0o111 else 0o444


def _read_folder(root: bytes, prefix: str, normalise: bool, found: list[Entry]) -> None:
    with os.scandir(root) as entries:
        for item in entries:
            path = prefix + _name(item.name, prefix)
            status = item.stat(follow_symlinks=False)
            mode = normal_mode(status.st_mode) if normalise else stat.S_IMODE(status.st_mode)
            if stat.S_ISLNK(status.st_mode):
                found.append(Entry("l", path, 0, _target(os.readlink(item.path), path)))
            elif status.st_mode & (stat.S_ISUID | stat.S_ISGID) and not stat.S_ISDIR(
                status.st_mode
            ):
                raise BadTree(
                    f"{path} has a set-id bit ({mode:o}); a release may not hold such a file"
                )
            elif stat.S_ISDIR(status.st_mode):
                found.append(Entry("d", path, mode))
                _read_folder(item.path, path + "/", normalise, found)
            elif stat.S_ISREG(status.st_mode):
                found.append(Entry("f", path, mode, sha256(item.path)))
            else:
                raise BadTree(
                    f"{path} is a device, socket or FIFO; a release holds files, folders and"
                    " symlinks only"
                )


def _name(raw: bytes, prefix: str) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadTree(f"a name in {prefix or '.'} is not UTF-8: {raw!r}") from None
    if _has_controls(name):
        raise BadTree(f"a name in {prefix or '.'} has control characters: {name!a}")
    return name


def _has_controls(text: str) -> bool:
    return any(ord(char) < 32 or ord(char) == 127 for char in text)


def _target(raw: str | bytes, path: str) -> str:
    try:
        target = os.fsencode(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise BadTree(f"{path} is a symlink whose target is not UTF-8: {raw!r}") from None
    fault = _target_fault(target, path)
    if fault:
        raise BadTree(fault)
    return target


def _target_fault(target: str, path: str) -> str | None:
    if not target or target.startswith("/"):
        return f"{path} is a symlink to {target!a}; in a release it must be relative"
    depth = path.count("/")
    # `..` only at the front: after a name it would climb from wherever a symlink of that name leads
    parts = [part for part in target.split("/") if part not in ("", ".")]
    climbs = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    if climbs > depth or ".." in parts[climbs:]:
        return f"{path} is a symlink to {target!a}, which may leave the tree"
    return None


def sha256(path: bytes | str | Path) -> str:
    """sha256 of a file's content; a symlink is not followed."""
    total = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with open(descriptor, "rb", buffering=0) as stream:
        while chunk := stream.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def parse(text: str) -> Manifest:
    """Read a manifest that came from outside; raises :class:`BadManifest`.

    Only the canonical text passes: sorted, no entry twice, each entry in a folder that is listed,
    no path or symlink out of the tree. So ``parse(text).text == text``.
    """
    if len(text) > MAX_BYTES:
        raise BadManifest(
            f"the manifest has {len(text)} characters, at most {MAX_BYTES} are allowed"
        )
    if text and not text.endswith("\n"):
        raise BadManifest("the manifest's last line is cut off")
    entries: list[Entry] = []
    folders = {""}
    last = ""
    for number, line in enumerate(text.split("\n")[:-1], 1):
        entry, fault = _parse_line(line)
        if not fault and entry.path <= last:
            fault = "is not in the order of paths, or there twice"
        if not fault and posixpath.dirname(entry.path) not in folders:
            fault = "lies in a folder that is not listed"
        if fault:
            raise BadManifest(f"line {number} of the manifest {fault}: {line[:120]!a}")
        last = entry.path
        if entry.kind == "d":
            folders.add(entry.path)
        entries.append(entry)
    return Manifest(tuple(entries))


_NOTHING = Entry("", "")


def _parse_line(line: str) -> tuple[Entry, str | None]:
    kind, _, rest = line.partition(" ")
    value, mode = "", "0"
    if kind == "f":
        value, _, rest = rest.partition(" ")
        if not _SHA256.fullmatch(value):
            return _NOTHING, "has no sha256"
    if kind in ("f", "d"):
        mode, _, path = rest.partition(" ")
        if not _MODE.fullmatch(mode):
            return _NOTHING, "has no octal mode"
    elif kind == "l":
        raw, _, path = rest.partition(" ")
        value = unquote(raw) if raw.isascii() else ""
    else:
        return _NOTHING, "is of no known kind (d, f, l)"
    if not path or any(part in ("", ".", "..") for part in path.split("/")):
        return _NOTHING, "has a path that is empty, absolute or leaves the tree"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return _NOTHING, "has a path that is not UTF-8"
    if _has_controls(path):
        return _NOTHING, "has a path with control characters"
    entry = Entry(kind, path, int(mode, 8), value)
    if kind == "l" and (fault := _target_fault(value, path)):
        return _NOTHING, f"is refused ({fault})"
    return entry, None if entry.line() == line else "is not in canonical form"


def diff(expected: Manifest, seen: Manifest) -> list[str]:
    """Name each entry that differs: ``missing``, ``unexpected`` or what changed."""
    want = {entry.path: entry for entry in expected.entries}
    have = {entry.path: entry for entry in seen.entries}
    lines = []
    for path in sorted(want.keys() | have.keys()):
        old, new = want.get(path), have.get(path)
        if old == new:
            continue
        if new is None:
            lines.append(f"{path}: missing")
        elif old is None:
            lines.append(f"{path}: unexpected")
        else:
            lines.append(f"{path}: {_change(old, new)}")
    return lines


def _change(old: Entry, new: Entry) -> str:
    kinds = {"d": "folder", "f": "file", "l": "symlink"}
    if old.kind != new.kind:
        return f"expected a {kinds[old.kind]}, found a {kinds[new.kind]}"
    if old.value != new.value:
        what = (
            "content differs" if old.kind == "f" else f"symlink to {old.value}, found {new.value}"
        )
        return what if old.mode == new.mode else f"{what}, mode {old.mode:o}, found {new.mode:o}"
    return f"mode {old.mode:o}, found {new.mode:o}"


def summary(differences: list[str], limit: int = 5) -> str:
    """The first differences in one line, and how many more there are."""
    more = len(differences) - limit
    return "; ".join(differences[:limit]) + (f"; and {more} more" if more > 0 else "")
