"""Debian's packages: what apt would change, as data, and installing exactly that.

apt says what it would do by ``--simulate`` (the lines ``Inst`` and ``Remv``) and which files it
would fetch by ``--print-uris``, with their SHA256 from the signed index (apt-get(8)).
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from webfarm import files
from webfarm.errors import WebfarmError
from webfarm.packages import commands, quiet
from webfarm.packages.changes import Binary, Change, Refused, refusal

CACHE = Path("/var/cache/webfarm/apt")
FETCH_SECONDS = 1800.0
INSTALL_SECONDS = 3600.0
_ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    "APT_LISTBUGS_FRONTEND": "none",
    "NEEDRESTART_SUSPEND": "1",
    "UCF_FORCE_CONFFOLD": "1",
}
_OPTIONS = (
    "--option=APT::Install-Recommends=false",
    "--option=Acquire::ForceHash=SHA256",
    "--option=Acquire::Retries=2",
    "--option=APT::Get::AutomaticRemove=false",
    # a configuration file that was edited stays; the new one waits beside it as .dpkg-dist
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
)
_DO = ("apt-get", "--assume-yes", "--quiet", "--no-remove")
_LOCK_FREE = "--option=Debug::NoLocking=true"
_INSTALL = re.compile(r"Inst (\S+)(?: \[([^\]]+)\])? \((\S+) .*\[([a-z0-9-]+)\]\)")
_REMOVE = re.compile(r"(?:Remv|Purg) (\S+)")
_URI = re.compile(r"'[^']*' (\S+) ([0-9]+) SHA256:([0-9a-f]{64})")
_WAITING = (".dpkg-dist", ".dpkg-new", ".ucf-dist", ".ucf-new")


class Apt:
    """This machine's apt and dpkg."""

    name = "apt"

    def resolve(
        self, words: Sequence[str], certified: Mapping[str, Binary] | None = None
    ) -> list[Change]:
        """What installing ``words`` would change, dependencies included.

        certified
            Prefer exactly these versions, also when the archive has newer ones by now.

        Raises :class:`WebfarmError` for a package that is not there, and when packages would be
        removed.
        """
        with tempfile.TemporaryDirectory(prefix="webfarm-apt-") as folder:
            return self._resolve(["install", "--", *words], Path(folder), certified or {})

    def world(self) -> list[Change]:
        """What an upgrade of everything would change."""
        with tempfile.TemporaryDirectory(prefix="webfarm-apt-") as folder:
            return self._resolve(["dist-upgrade"], Path(folder), {})

    def install(
        self, words: Sequence[str], changes: Sequence[Change], certified: Mapping[str, Binary]
    ) -> None:
        """Make these changes, which the caller has compared, and nothing else.

        The packages are fetched first and their content compared. They are installed from the
        folder that they were fetched to, without the network: apt cannot take another one.
        """
        self._sound()
        files.make_folder(CACHE)
        # apt's own user reads it while it fetches
        with tempfile.TemporaryDirectory(prefix="webfarm-apt-") as folder, quiet.services() as lock:
            pins = Path(folder)
            pins.chmod(0o755)
            archives = Path(tempfile.mkdtemp(prefix="fetch-", dir=CACHE))
            try:
                archives.chmod(0o755)
                options = [
                    *self._pinned(pins, certified),
                    f"--option=Dir::Cache::archives={archives}",
                ]
                self._fetch(words, options, lock)
                compare_content(archives, changes, certified)
                self._change(words, options, lock)
            finally:
                shutil.rmtree(archives, ignore_errors=True)

    def build(self, words: Sequence[str], cflags: str, rebuild: bool) -> dict[str, Any]:
        """Debian's packages are built already: says what the archive has of them."""
        found = self.resolve(words)
        return {"built": [], "present": [f"{change.name}={change.new}" for change in found]}

    def publish(self) -> dict[str, Any]:
        """Debian's archive serves its packages: there is nothing to publish."""
        return {"address": None, "index": None, "packages": {}}

    def configure(self, test: bool = False) -> dict[str, Any]:
        """apt's sources are not Webfarm's: nothing is changed."""
        return {}

    def installed(self) -> dict[str, str]:
        """Every installed package with its version; those of a foreign architecture as
        ``name:arch``."""
        native = commands.ask(["dpkg", "--print-architecture"], {}, "dpkg").strip()
        shown = "${Package}\t${Architecture}\t${Version}\t${db:Status-Status}\n"
        out = {}
        listing = commands.ask(["dpkg-query", "--show", f"--showformat={shown}"], {}, "dpkg")
        for line in listing.splitlines():
            name, architecture, version, status = line.split("\t")
            if status == "installed":
                foreign = architecture not in (native, "all")
                out[f"{name}:{architecture}" if foreign else name] = version
        return out

    def owned(self, changes: Iterable[Change]) -> dict[str, frozenset[str]]:
        """The files that the packages to be changed have installed here, by their real paths."""
        out = {}
        for change in changes:
            listing = ""
            if change.old is not None:
                listing = commands.ask(["dpkg-query", "--listfiles", change.name], {}, "dpkg")
            out[change.name] = frozenset(
                str(Path(line).resolve()) for line in listing.splitlines() if line.startswith("/")
            )
        return out

    def sync(self) -> str:
        """Fetch the indexes anew."""
        status, said = commands.follow(
            ["apt-get", "--quiet=2", "--option=APT::Update::Error-Mode=any", "update"],
            _ENVIRONMENT,
            FETCH_SECONDS,
        )
        if status:
            raise WebfarmError(f"apt-get update failed: {said}; the old indexes are still there")
        return said

    def waiting(self, root: Path = Path("/etc")) -> list[str]:
        """New configuration files beside the edited ones, which a person has to merge."""
        return sorted(str(p) for p in root.rglob("*") if p.name.endswith(_WAITING))

    def verify(self, names: Sequence[str]) -> list[str]:
        """What differs from what the packages installed, configuration aside; all packages when
        there are no names."""
        status, output, errors = commands.answer(["dpkg", "--verify", *names], {})
        lines = [line for line in output.splitlines() if line.split()[1:2] != ["c"]]
        if status and not lines and errors.strip():
            raise WebfarmError(f"dpkg --verify: {commands.last(errors.splitlines())}")
        return lines

    def news(self) -> list[dict[str, str]]:
        """Debian has no list of news that were not read: always none."""
        return []

    def reboot(self) -> bool:
        """A package's script has asked for a reboot."""
        return Path("/run/reboot-required").exists()

    def _resolve(
        self, words: Sequence[str], folder: Path, certified: Mapping[str, Binary]
    ) -> list[Change]:
        empty = folder / "archives"
        (empty / "partial").mkdir(parents=True, exist_ok=True)
        options = [*self._pinned(folder, certified), f"--option=Dir::Cache::archives={empty}"]
        base = ["apt-get", "--assume-yes", _LOCK_FREE, *options]
        simulated = commands.ask(
            [*base, "--simulate", "--quiet", *words], _ENVIRONMENT, _what(words)
        )
        found = parse_simulation(simulated)
        if not found:
            return []
        printed = commands.ask(
            [*base, "--print-uris", "--quiet=2", *words], _ENVIRONMENT, _what(words)
        )
        return with_digests(found, printed)

    def _pinned(self, folder: Path, certified: Mapping[str, Binary]) -> list[str]:
        """Options that make apt prefer the certified versions, but never an older one than is
        installed (a priority below 1000, apt_preferences(5))."""
        if not certified:
            return [*_OPTIONS]
        usual = Path("/etc/apt/preferences")
        text = "".join(
            f"Package: {name}\nPin: version {binary.version}\nPin-Priority: 995\n\n"
            for name, binary in sorted(certified.items())
        )
        if usual.is_file():
            text += usual.read_text(encoding="utf-8", errors="replace")
        (folder / "preferences").write_text(text, encoding="utf-8")
        return [*_OPTIONS, f"--option=Dir::Etc::preferences={folder / 'preferences'}"]

    def _sound(self) -> None:
        broken = commands.ask(["dpkg", "--audit"], {}, "dpkg")
        if broken.strip():
            raise WebfarmError(
                f"dpkg was interrupted before: {commands.last(broken.splitlines())}; mend it with"
                " `dpkg --configure --pending`. Nothing was changed"
            )

    def _fetch(self, words: Sequence[str], options: Sequence[str], lock: int) -> None:
        status, said = commands.follow(
            [*_DO, "--download-only", *options, "install", "--", *words],
            _ENVIRONMENT,
            FETCH_SECONDS,
            keep=[lock],
        )
        if status:
            raise Refused(f"the packages could not be fetched: {said}. Nothing was changed")

    def _change(self, words: Sequence[str], options: Sequence[str], lock: int) -> None:
        status, said = commands.follow(
            [*_DO, "--no-download", *options, "install", "--", *words],
            _ENVIRONMENT,
            INSTALL_SECONDS,
            keep=[lock],
        )
        if status:
            raise WebfarmError(
                f"apt-get failed while it installed {' '.join(words)}: {said}. Packages may be half"
                " installed: look at `dpkg --audit`, or go back to the snapshot. The whole output"
                f" is in `journalctl -t {commands.TAG}`"
            )


def parse_simulation(text: str) -> list[tuple[str, str | None, str, str]]:
    """Name, old and new version and architecture of what ``apt-get --simulate`` would install.

    Raises :class:`Refused` when it would remove something.
    """
    found, removed = [], []
    for line in text.splitlines():
        install = _INSTALL.match(line)
        remove = _REMOVE.match(line)
        if install:
            found.append((install[1], install[2], install[3], install[4]))
        elif remove:
            removed.append(remove[1])
        elif line.startswith("Inst "):
            raise WebfarmError(f"apt said {line!a:.120}, which is not understood")
    if removed:
        raise Refused(
            f"apt would remove {', '.join(removed)}; Webfarm removes nothing by itself. Nothing was"
            " changed"
        )
    return found


def with_digests(found: Iterable[tuple[str, str | None, str, str]], printed: str) -> list[Change]:
    """The changes, each with the digest and size of its binary as ``--print-uris`` told them."""
    binaries = {
        line[1]: (int(line[2]), f"sha256:{line[3]}")
        for line in map(_URI.match, printed.splitlines())
        if line
    }
    changes = []
    for name, old, new, architecture in found:
        file = file_name(name, new, architecture)
        if file not in binaries:
            raise WebfarmError(
                f"apt names no SHA256 for {file}: its archive must be served over HTTP and its"
                " index must have SHA256; nothing was changed"
            )
        size, digest = binaries[file]
        changes.append(Change(name, old, new, digest, size))
    return changes


def file_name(name: str, version: str, architecture: str) -> str:
    """The name under which apt keeps a package: ``_`` and ``:`` in the version are escaped."""
    escaped = version.replace("%", "%25").replace("_", "%5f").replace(":", "%3a")
    return f"{name.partition(':')[0]}_{escaped}_{architecture}.deb"


def compare_content(
    folder: Path, changes: Iterable[Change], certified: Mapping[str, Binary]
) -> None:
    """Raise :class:`Refused` unless ``folder`` has exactly the certified binaries."""
    there = {path.name.lower(): path for path in folder.glob("*.deb")}
    faults = []
    for change in changes:
        stem = file_name(change.name, change.new, "").removesuffix(".deb").lower()
        found = [path for name, path in there.items() if name.startswith(stem)]
        if len(found) != 1:
            faults.append(f"{change.name} {change.new} was not fetched")
            continue
        with found[0].open("rb") as stream:
            digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        binary = certified.get(change.name)
        if binary is None or digest != binary.digest:
            faults.append(f"{change.name} {change.new} as fetched is {digest[:19]}…, not certified")
    if len(there) > len(list(changes)):
        faults.append("more was fetched than would be installed")
    if faults:
        raise Refused(refusal(faults))


def _what(words: Sequence[str]) -> str:
    return f"apt cannot do `{commands.shown(words)}`"
