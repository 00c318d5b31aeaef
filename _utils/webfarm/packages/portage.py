"""Gentoo's packages: what emerge would merge, as data; build them, or merge exactly those built.

What would be merged is asked of Portage's own library, see :mod:`webfarm.packages.portage_query`.
Production merges binaries only (``--usepkgonly --getbinpkgonly``): it never compiles.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from webfarm import files
from webfarm.errors import WebfarmError
from webfarm.packages import binhost, commands
from webfarm.packages.binhost import BadBinhost
from webfarm.packages.changes import Binary, Change, Refused, refusal
from webfarm.packages.settings import Portage as Settings
from webfarm.packages.wanted import without_version

QUERY = Path(__file__).with_name("portage_query.py")
QUERY_SECONDS = 600.0
FETCH_SECONDS = 1800.0
MERGE_SECONDS = 3600.0
BUILD_SECONDS = 24 * 3600.0
BINREPO = "webfarm.conf"
_BINARY = ("--usepkg", "--usepkgonly", "--getbinpkg", "--getbinpkgonly")
_PLAIN = ("--ask=n", "--color=n", "--autounmask=n")
_ENVIRONMENT = {"NOCOLOR": "true", "EMERGE_DEFAULT_OPTS": "", "CLEAN_DELAY": "0"}


class Portage:
    """This machine's Portage.

    profile
        The hardware profile whose binary host is used.
    address
        That host, ``http://ADDRESS:PORT/PROFILE``; None where the pillar has no preproduction
        server of the profile.
    """

    name = "portage"

    def __init__(self, settings: Settings, profile: str, address: str | None) -> None:
        self.settings = settings
        self.profile = profile
        self.address = address
        self._bin = Path(settings.bin)
        self._paths: dict[str, str] = {}  # on the host, of what was resolved last

    @property
    def built(self) -> Path:
        """Where packages of the profile are built (``PKGDIR``)."""
        return Path(self.settings.packages) / "build" / self.profile

    @property
    def public(self) -> Path:
        """What is served for the profile."""
        return Path(self.settings.packages) / "public" / self.profile

    @property
    def _place(self) -> Path:
        """Where emerge puts what it fetches."""
        return Path(self.settings.cache) / "fetched"

    def resolve(
        self, words: Sequence[str], certified: Mapping[str, Binary] | None = None
    ) -> list[Change]:
        """What merging ``words`` from the profile's binary host would change."""
        with self._empty() as folder:
            return self._resolve(words, certified or {}, Path(folder))

    def world(self) -> list[Change]:
        """What an upgrade of everything would change, from the binary host."""
        return self.resolve(["@world"])

    def install(
        self, words: Sequence[str], changes: Sequence[Change], certified: Mapping[str, Binary]
    ) -> None:
        """Merge these changes, which the caller has compared, and nothing else.

        emerge fetches the packages; their content is compared in a folder of their own; then it
        merges from this folder alone, without the network: it cannot take another one.
        """
        atoms = [_atom(change.name, change.new) for change in changes]
        paths = {change.name: self._paths[change.name] for change in changes}
        with self._empty() as folder:
            pkgdir = Path(folder)
            said = self._fetch(atoms, paths.values(), pkgdir)
            self._compare_content(pkgdir, changes, paths, certified, said)
            status, said = self._merge(["--oneshot", *atoms], pkgdir)
            if status:
                raise WebfarmError(
                    f"emerge failed while it merged {' '.join(atoms)}: {said}. Some may be merged:"
                    " look at `webfarm_packages.status`, or go back to the snapshot. The whole"
                    f" output is in `journalctl -t {commands.TAG}`"
                )
            new = {change.name for change in changes if change.old is None}
            self._select([word for word in words if _name(word) in new], pkgdir)

    def build(self, words: Sequence[str], cflags: str, rebuild: bool) -> dict[str, Any]:
        """Compile what ``words`` need into the profile's ``PKGDIR``; nothing is merged.

        Returns ``{"built": [cpv, …], "present": [cpv, …]}``. What was built before is not built
        again, since a certificate may name it; ``rebuild`` builds it again.

        Raises :class:`WebfarmError` with emerge's last lines.
        """
        files.make_folder(self.built)
        wanted = self._ask("resolve", self.built, options=["--oneshot"], words=words, certified={})
        there = set()
        if (self.built / binhost.INDEX).exists():
            text = (self.built / binhost.INDEX).read_text(encoding="utf-8")
            there = {
                fields["CPV"]
                for fields in binhost.stanzas(text)
                if (self.built / binhost.check_path(fields["PATH"], str(self.built))).is_file()
            }
        cpvs = {f"{_cp(one['name'])}-{one['to']}": one for one in wanted}
        missing = [cpv for cpv in cpvs if rebuild or cpv not in there]
        if missing:
            atoms = [_atom(cpvs[cpv]["name"], cpvs[cpv]["to"]) for cpv in missing]
            status, said = self._emerge(
                ["--oneshot", "--buildpkg=y", "--buildpkgonly", *atoms],
                self.built,
                BUILD_SECONDS,
                self._compiling(cflags),
            )
            if status:
                raise WebfarmError(
                    f"emerge could not build {' '.join(atoms)}: {said}. Nothing was merged or"
                    f" published; the whole output is in `journalctl -t {commands.TAG}`"
                )
        return {"built": missing, "present": [cpv for cpv in cpvs if cpv not in missing]}

    def publish(self) -> dict[str, Any]:
        """Serve what was built: ``{"profile", "address", "index", "packages": {path: digest}}``."""
        if not self.built.is_dir():
            raise WebfarmError(
                f"nothing was built for the profile {self.profile}: {self.built} is missing; begin"
                " with `webfarm_packages.build`"
            )
        status, said = commands.follow(
            [self._bin / "emaint", "--fix", "binhost"], self._environment(self.built), FETCH_SECONDS
        )
        if status:
            raise WebfarmError(f"emaint binhost failed: {said}; what is published is unchanged")
        host = binhost.publish(self.built, self.public, self.profile)
        return {
            "profile": self.profile,
            "address": self.address,
            "index": host.index,
            "packages": {path: package.digest for path, package in host.packages.items()},
        }

    def configure(self, test: bool = False) -> dict[str, Any]:
        """Have the profile's binary host in ``binrepos.conf``; returns what changed."""
        path = Path(self.settings.config) / "binrepos.conf" / BINREPO
        old = path.read_text(encoding="utf-8") if path.is_file() else None
        verify = "true" if self.settings.sign else "false"
        new = (
            "# written by Webfarm from the pillar\n"
            f"[webfarm]\npriority = 9999\nsync-uri = {self._host()}\n"
            f"location = {self._place}\nverify-signature = {verify}\n"
        )
        if old == new:
            return {}
        if not test:
            files.make_folder(path.parent)
            files.write_atomic(path, new)
        return {"old": old, "new": new}

    def merge_into(self, root: Path, package: str, version: str) -> Path:
        """Merge a published package into a root of its own, from its binary, without its
        dependencies; returns the folder in which its ``usr`` is. The machine is not changed."""
        host = binhost.fetch(self._host(), self.profile)
        with self._empty() as folder:
            pkgdir = Path(folder)
            atom = f"={package}-{version}"
            found = self._ask(
                "resolve",
                pkgdir,
                str(root),
                options=[*_BINARY, "--oneshot", "--nodeps"],
                words=[atom],
                certified={},
            )
            paths = [binhost.check_path(one["path"], self._host()) for one in found]
            said = self._fetch([atom], paths, pkgdir)
            for path in paths:
                known, there = host.packages.get(path), pkgdir / path
                if not known or not there.is_file() or binhost.digest_of(there) != known.digest:
                    raise Refused(f"{path} is not what was published: {said}. Nothing was changed")
            status, said = self._merge(["--oneshot", "--nodeps", atom], pkgdir, {"ROOT": str(root)})
        if status:
            raise WebfarmError(f"emerge could not merge {package}-{version} into {root}: {said}")
        return Path(self._ask("about", root=str(root))["eroot"])

    def installed(self) -> dict[str, str]:
        """Every installed package with its version; the slot belongs to the name unless it is 0."""
        found: dict[str, str] = self._ask("about")["installed"]
        return found

    def owned(self, changes: Iterable[Change]) -> dict[str, frozenset[str]]:
        """The files that the packages to be changed have installed here, by their real paths."""
        listed = list(changes)
        old = [change.name for change in listed if change.old is not None]
        found = self._ask("owned", names=old) if old else {}
        return {
            change.name: frozenset(str(Path(p).resolve()) for p in found.get(change.name, ()))
            for change in listed
        }

    def sync(self) -> str:
        """Fetch the repositories anew, and their news."""
        status, said = commands.follow(
            [self._bin / "emaint", "--auto", "sync"], self._environment(), FETCH_SECONDS
        )
        if status:
            raise WebfarmError(f"emaint sync failed: {said}")
        return said

    def waiting(self) -> list[str]:
        """New configuration files that wait for ``etc-update`` or ``dispatch-conf``."""
        found: list[str] = self._ask("waiting")
        return found

    def verify(self, names: Sequence[str]) -> list[str]:
        """What differs from what was merged, configuration aside, and from what is published."""
        found: list[str] = self._ask("verify", names=list(names))
        return found + ([] if names else binhost.damages(self.public))

    def news(self) -> list[dict[str, str]]:
        """The repositories' news that nobody has read."""
        found: list[dict[str, str]] = self._ask("news")
        return found

    def reboot(self) -> bool:
        """Gentoo's packages do not ask for a reboot: the pillar's list decides."""
        return False

    def _resolve(
        self, words: Sequence[str], certified: Mapping[str, Binary], pkgdir: Path
    ) -> list[Change]:
        address = self._host()
        host = binhost.fetch(address, self.profile)
        found = self._ask(
            "resolve",
            pkgdir,
            options=[*_BINARY, "--update", "--oneshot"],
            words=list(words),
            certified={name: binary.version for name, binary in certified.items()},
        )
        changes = []
        for one in found:
            name = str(one["name"])
            if not one["binary"]:
                raise Refused(f"{name} {one['to']} would be compiled here. Nothing was changed")
            if one["uri"].rstrip("/") != address:
                raise Refused(
                    f"{name} {one['to']} would come from {one['uri']!a:.80}, not from the binary"
                    f" host of the profile {self.profile}, {address}: apply the state `packages`,"
                    " and take other hosts out of binrepos.conf. Nothing was changed"
                )
            known = host.packages.get(one["path"])
            if known is None:
                raise BadBinhost(
                    f"{address}/{one['path']} ({name} {one['to']}) is not in {binhost.NAME};"
                    " publish it anew. Nothing was changed"
                )
            self._paths[name] = binhost.check_path(one["path"], address)
            changes.append(Change(name, one["from"], one["to"], known.digest, known.size))
        return changes

    def _fetch(self, atoms: Sequence[str], paths: Iterable[str], pkgdir: Path) -> str:
        """Have emerge fetch packages into ``pkgdir``; returns what it said when it could not."""
        place = self._place
        shutil.rmtree(place, ignore_errors=True)  # of an installation that was killed
        status, said = self._emerge(
            [*_BINARY, "--oneshot", "--fetchonly", "--nodeps", *atoms], pkgdir, FETCH_SECONDS
        )
        for path in paths:
            if (place / path).is_file():
                files.make_folder((pkgdir / path).parent)
                shutil.move(place / path, pkgdir / path)
        shutil.rmtree(place, ignore_errors=True)
        return said if status else ""

    def _merge(
        self, atoms: Sequence[str], pkgdir: Path, extra: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Merge from what is in ``pkgdir`` alone; it has no index, so it is looked through."""
        env = {"FEATURES": "-pkgdir-index-trusted -getbinpkg", **(extra or {})}
        return self._emerge(["--usepkg", "--usepkgonly", *atoms], pkgdir, MERGE_SECONDS, env)

    def _compare_content(
        self,
        pkgdir: Path,
        changes: Iterable[Change],
        paths: Mapping[str, str],
        certified: Mapping[str, Binary],
        said: str,
    ) -> None:
        faults = []
        for change in changes:
            path, binary = pkgdir / paths[change.name], certified.get(change.name)
            if not path.is_file():
                faults.append(f"{change.name} {change.new} could not be fetched ({said[-300:]})")
            elif binary is None or binhost.digest_of(path) != binary.digest:
                faults.append(f"{change.name} {change.new} as fetched is not what was certified")
        if faults:
            raise Refused(refusal(faults))

    def _select(self, words: Sequence[str], pkgdir: Path) -> None:
        """What an operator asked for by name is wanted from now on: it goes into ``world``."""
        if not words:
            return
        status, said = self._merge(["--noreplace", "--nodeps", *words], pkgdir)
        if status:
            raise WebfarmError(f"they are merged, but emerge did not select {words}: {said}")

    def _host(self) -> str:
        if self.address is None:
            raise WebfarmError(
                f"no preproduction server in the pillar has the hw_profile {self.profile}: there is"
                " no binary host for it. Nothing was changed"
            )
        return self.address

    def _compiling(self, cflags: str) -> dict[str, str]:
        settings = self.settings
        out = {"CFLAGS": cflags, "CXXFLAGS": cflags, "FEATURES": "buildpkg"}
        if settings.distcc:
            out["FEATURES"] += " distcc"
            out["DISTCC_HOSTS"] = " ".join(settings.distcc)
        if settings.sign:
            out["FEATURES"] += " binpkg-signing"
            out["BINPKG_GPG_SIGNING_KEY"] = settings.sign
        if settings.jobs:
            out["MAKEOPTS"] = f"-j{settings.jobs}"
        return out

    def _empty(self) -> tempfile.TemporaryDirectory[str]:
        cache = Path(self.settings.cache)
        files.make_folder(cache)
        return tempfile.TemporaryDirectory(prefix="fetch-", dir=cache)

    def _environment(self, pkgdir: Path | None = None) -> dict[str, str]:
        return _ENVIRONMENT | ({"PKGDIR": str(pkgdir)} if pkgdir else {})

    def _emerge(
        self,
        words: Sequence[str],
        pkgdir: Path,
        seconds: float,
        extra: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        return commands.follow(
            [self._bin / "emerge", *_PLAIN, *words],
            {**self._environment(pkgdir), **(extra or {})},
            seconds,
        )

    def _ask(
        self, what: str, pkgdir: Path | None = None, root: str | None = None, **question: Any
    ) -> Any:
        env = self._environment(pkgdir) | ({"ROOT": root} if root else {})
        try:
            done = subprocess.run(
                # -P: a `portage` beside the program is not Portage
                [self._bin / "python3", "-P", QUERY],
                input=json.dumps({"do": what, **question}),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=QUERY_SECONDS,
                env=commands.environment(env),
            )
            answer = json.loads(done.stdout)
        except FileNotFoundError:
            raise WebfarmError(
                f"{self._bin}/python3 is not on this machine: webfarm:packages:portage:bin must be"
                " the folder of Portage's python3; nothing was changed"
            ) from None
        except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
            raise WebfarmError(
                f"Portage did not answer ({error!s:.200}); nothing was changed"
            ) from None
        if "answer" not in answer:
            said = commands.last([line for line in done.stderr.splitlines() if line.strip()])
            raise WebfarmError(f"{answer['error']}: {said}; nothing was changed")
        return answer["answer"]


def _cp(name: str) -> str:
    return name.partition(":")[0]


def _atom(name: str, version: str) -> str:
    cp, _, slot = name.partition(":")
    return f"={cp}-{version}" + (f":{slot}" if slot else "")


def _name(word: str) -> str:
    """The name of the package that a word asks for, without its version; its slot stays."""
    package, _, slot = word.partition(":")
    return without_version(package) + (f":{slot}" if slot else "")
