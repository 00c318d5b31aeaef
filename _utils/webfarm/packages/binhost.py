"""The index of a profile's binary host, beside Portage's own: every package with its SHA256.

Portage's index ``Packages`` has MD5 and SHA1 only. ``webfarm.json`` names the profile, the SHA256
of that index and of each package, and is written last.
"""

import hashlib
import json
import os
import re
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from webfarm import files, names
from webfarm.errors import WebfarmError

NAME = "webfarm.json"
INDEX = "Packages"
MOST_BYTES = 64 * 1024 * 1024
FETCH_SECONDS = 30.0
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+_.-]*(/[A-Za-z0-9_][A-Za-z0-9+_.-]*){1,3}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class BadBinhost(WebfarmError):
    """The binary host is not one of this profile, or not whole; nothing was changed."""


@dataclass(frozen=True)
class Package:
    """A binary package by its path on the host."""

    digest: str
    size: int


@dataclass(frozen=True)
class Binhost:
    """What is published for a profile.

    index
        The digest of Portage's index.
    packages
        By their paths.
    """

    profile: str
    index: str
    packages: Mapping[str, Package]

    @property
    def text(self) -> str:
        """The content of the file."""
        packages = {
            path: {"digest": package.digest, "size": package.size}
            for path, package in sorted(self.packages.items())
        }
        content = {"profile": self.profile, "index": self.index, "packages": packages}
        return json.dumps(content, indent=1) + "\n"


def parse(text: str, where: str) -> Binhost:
    """Read the index; raises :class:`BadBinhost`."""
    try:
        given = json.loads(text)
        packages = {
            path: Package(_digest(entry["digest"]), int(entry["size"]))
            for path, entry in given["packages"].items()
            if check_path(path, where)
        }
        return Binhost(names.check(given["profile"], "profile"), _digest(given["index"]), packages)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BadBinhost(
            f"{where} is no index of a binary host ({type(error).__name__}: {error!s:.80}); publish"
            " it anew on the preproduction server. Nothing was changed"
        ) from None


def check_path(path: object, where: str) -> str:
    """``path`` when it stays below the host's folder."""
    if not isinstance(path, str) or not _PATH.fullmatch(path) or len(path) > 400:
        raise BadBinhost(f"{where}: {path!a:.80} is no path of a package; nothing was changed")
    return path


def stanzas(index: str) -> Iterator[dict[str, str]]:
    """The packages of Portage's index: their fields, without the header."""
    for block in index.split("\n\n")[1:]:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "CPV" in fields and "PATH" in fields:
            yield fields


def digest_of(path: Path) -> str:
    """``sha256:HEX`` of a file."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def publish(built: Path, public: Path, profile: str) -> Binhost:
    """Make what is in ``built`` what ``public`` serves; readers see the old index or the new one.

    Packages are linked, the index is written after them and the index of digests last. What is not
    in the index any more is deleted after that.
    """
    index = (built / INDEX).read_bytes()
    files.make_folder(public)
    packages = {}
    for fields in stanzas(index.decode("utf-8")):
        path = check_path(fields["PATH"], f"{built}/{INDEX}")
        source, target = built / path, public / path
        packages[path] = Package(digest_of(source), source.stat().st_size)
        if not target.is_file() or digest_of(target) != packages[path].digest:
            files.make_folder(target.parent)
            _link(source, target)
    made = Binhost(profile, f"sha256:{hashlib.sha256(index).hexdigest()}", packages)
    files.write_atomic(public / INDEX, index.decode("utf-8"))
    files.write_atomic(public / NAME, made.text)
    for old in list(public.rglob("*")):
        relative = str(old.relative_to(public))
        if old.is_file() and relative not in packages and relative not in (INDEX, NAME):
            old.unlink()
    return made


def damages(public: Path) -> list[str]:
    """What of a published host is not as its index says: nothing when it is whole."""
    try:
        host = parse((public / NAME).read_text(encoding="utf-8"), str(public / NAME))
    except FileNotFoundError:
        return []
    out = []
    if not (public / INDEX).is_file() or digest_of(public / INDEX) != host.index:
        out.append(f"{public / INDEX} is not the index that was published")
    for path, package in sorted(host.packages.items()):
        if not (public / path).is_file():
            out.append(f"{public / path} is missing")
        elif digest_of(public / path) != package.digest:
            out.append(f"{public / path} was changed")
    return out


def fetch(address: str, profile: str) -> Binhost:
    """What the host at ``address`` has, when it is this profile's and its parts match.

    Raises :class:`BadBinhost`.
    """
    host = parse(_get(f"{address}/{NAME}").decode("utf-8", "replace"), f"{address}/{NAME}")
    if host.profile != profile:
        raise BadBinhost(
            f"the binary host {address} is for the profile {host.profile}, this machine is of"
            f" {profile}: correct its hw_profile in the pillar or the host's address, and apply the"
            " state `packages`. Nothing was changed"
        )
    digest = f"sha256:{hashlib.sha256(_get(f'{address}/{INDEX}')).hexdigest()}"
    if digest != host.index:
        raise BadBinhost(
            f"{address}/{INDEX} does not match {NAME}: it is {digest[:19]}…, published was"
            f" {host.index[:19]}…; publish it anew with `webfarm_packages.publish` on the"
            " preproduction server. Nothing was changed"
        )
    return host


def opener(url: str) -> urllib.request.OpenerDirector:
    """What opens ``url``, without a proxy; raises :class:`WebfarmError` for any but HTTP."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise BadBinhost(f"{url!a:.80} is no address of HTTP. Nothing was changed")
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _get(url: str) -> bytes:
    try:
        with opener(url).open(url, timeout=FETCH_SECONDS) as answer:
            data: bytes = answer.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BadBinhost(
            f"{url} cannot be read: {error}; does the preproduction server publish, and serve it?"
            " Nothing was changed"
        ) from None
    if len(data) > MOST_BYTES:
        raise BadBinhost(f"{url} has more than {MOST_BYTES} bytes; nothing was changed")
    return data


def _link(source: Path, target: Path) -> None:
    """A link to, or a copy of, a package; it has its name only when it is whole."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent) as folder:
        new = Path(folder) / "package"
        try:
            os.link(source, new)
        except OSError:
            new.write_bytes(source.read_bytes())
        with suppress(OSError):
            new.chmod(0o644)
        os.rename(new, target)


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{value!a:.40} is no sha256")
    return value
