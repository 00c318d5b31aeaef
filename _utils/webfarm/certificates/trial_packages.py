"""The trial of a package set: install it from its binaries, let it run, read the versions back.

The digests are those of the binaries in the archive: ``pretend`` names them, ``install`` refuses
any other. What is meant to be installed is written before it is, so that a set which is on the
server already, from an earlier trial, is still known by its digests.
"""

import re

from webfarm import osnode
from webfarm.certificates import shapes
from webfarm.certificates.bench import Bench, Look, Means
from webfarm.certificates.book import Book
from webfarm.certificates.model import NotCertified, Subject
from webfarm.certificates.settings import Certifying
from webfarm.certificates.trial import Place, Proof, Trial
from webfarm.certificates.words import base, named
from webfarm.packages.wanted import MOST_WORDS
from webfarm.rollout.ledger import line

PRETEND_SECONDS = 600.0
_LEFT_OUT = re.compile(r"missing\s+/usr/share/(doc|man|locale|info|lintian)/")
MOST_UNITS = 50  # that webfarm_os.restart takes
OWN_UNIT = "salt-minion"  # it cannot be restarted by itself and answer


class PackagesTrial(Trial):
    """The packages of the subject; ``number`` is the certificate that is being made."""

    def __init__(
        self,
        means: Means,
        bench: Bench,
        settings: Certifying,
        subject: Subject,
        place: Place,
        book: Book,
        number: int,
    ) -> None:
        super().__init__(means, bench, settings, subject, place)
        self.book = book
        self.number = number
        self.changes: shapes.Expected = {}

    def change(self, first: Look) -> None:
        """Install what the archive has now, then restart every service, or reboot.

        Every one, not only those that use a file of the packages: what a package leaves in
        somebody's configuration is found at the next start, which must not be production's.
        """
        units: set[str] = set()
        with self.step("pretend") as found:
            self.changes, affected = self._pretend()
            units |= affected
            found["changes"] = self.changes
        _, active = self.book.installs(self.server)
        reboot = not active  # an earlier trial ended before what it installed also ran
        if self.changes:
            self.book.install(self.number, self.server, self.changes, self.means.clock.time())
            with self.step("install") as found:
                affected, needed = self._install()
                units |= affected
                reboot = reboot or needed
                found["units"] = sorted(units)
        if self.changes:
            units |= {f"{name}.service" for name in osnode.OURS}
        alone = all(shapes.is_service(unit) and not unit.startswith(OWN_UNIT) for unit in units)
        reboot = reboot or not alone or len(units) > MOST_UNITS
        if units and not reboot:
            with self.step("restart") as found:
                found["units"] = sorted(units)
                self.bench.change("webfarm_os.restart", {"units": sorted(units)}, 300.0)
        if self.changes and not reboot:
            with self.step("processes with deleted files") as found:
                found["left"] = self._left()
                reboot = bool(found["left"])
        if reboot:
            with self.step("reboot"):
                self._reboot()
        self.book.activated(self.server)

    def read_back(self) -> Proof:
        """Each package whose binary is known has the version that was meant for it."""
        value = self.bench.ask("webfarm_packages.status")
        with self.bench.shaped("webfarm_packages.status"):
            reply = shapes.mapping(value, "the status")
            installed = shapes.versions(shapes.field(reply, "installed", "the status"), "installed")
            boot = shapes.boot(shapes.field(reply, "boot_id", "the status"))
            self._profile(reply)
        if boot != self.boots[-1]:
            raise NotCertified(f"{self.server} rebooted during the tests, nobody told it to")
        known = {
            name: entry
            for name, entry in self._known().items()
            if name in self.changes or installed.get(name) == entry["to"]
        }
        for name, entry in known.items():
            if installed.get(name) != entry["to"]:
                raise NotCertified(
                    f"{self.server} has {name} {installed.get(name, 'not')} installed, expected "
                    f"{entry['to']}"
                )
        self._complete(known, installed)
        self._sound(known)
        return {"packages": known}

    # -- parts -----------------------------------------------------------------------------------

    def _known(self) -> shapes.Expected:
        """The binaries that trials of this very set have installed here, the latest of each."""
        known: shapes.Expected = {}
        for certificate in reversed(self.book.of(self.subject)):
            known |= self.book.installed_by(certificate.id, self.server)
        latest, _ = self.book.installs(self.server)
        for word in self.subject.words:  # another set may have brought the package itself
            name = base(named(word)[0])
            known |= {key: entry for key, entry in latest.items() if base(key) == name}
        # another set may have replaced it since
        return {name: latest.get(name, entry) for name, entry in known.items()} | self.changes

    def _complete(self, known: shapes.Expected, installed: dict[str, str]) -> None:
        for word in self.subject.words:
            name, version = named(word)
            here = {key: entry["to"] for key, entry in known.items() if base(key) == base(name)}
            if not here:
                has = next((v for key, v in installed.items() if base(key) == base(name)), None)
                seen = f"{name} {has} is on {self.server} already" if has else f"no {name} is there"
                raise NotCertified(
                    f"{seen}, and no certification has installed it there: nobody knows from which "
                    f"binary it came. Put {self.server} back to a snapshot of before, or take the "
                    "package off it, then certify the set again"
                )
            if version is not None and version not in here.values():
                raise NotCertified(
                    f"{self.server} has {name} {', '.join(here.values())}, the set asks for "
                    f"{version}"
                )

    def _sound(self, known: shapes.Expected) -> None:
        """The files of the packages are what the packages brought; nobody has replaced any."""
        names = sorted({base(name) for name in known})
        for start in range(0, len(names), MOST_WORDS):
            arguments = {"packages": names[start : start + MOST_WORDS]}
            value = self.bench.ask("webfarm_packages.verify", arguments, PRETEND_SECONDS)
            with self.bench.shaped("webfarm_packages.verify"):
                if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                    raise shapes.BadShape(f"the answer is {value!a:.60}, expected lines")
            # an image may leave documentation out
            odd = [one for one in value if not _LEFT_OUT.match(one)]
            if odd:
                raise NotCertified(
                    f"{self.server}: {len(odd)} files are not what their packages brought: "
                    + "; ".join(line(one)[:120] for one in odd[:3])
                )

    def _pretend(self) -> tuple[shapes.Expected, frozenset[str]]:
        arguments = {"packages": list(self.subject.words)}
        value = self.bench.ask("webfarm_packages.pretend", arguments, PRETEND_SECONDS)
        with self.bench.shaped("webfarm_packages.pretend"):
            reply = shapes.mapping(value, "the answer")
            changes = shapes.expected(shapes.field(reply, "changes", "the answer"), "changes")
            affects = shapes.affected(shapes.field(reply, "affects", "the answer"), "affects")
            self._profile(reply)
        return changes, affects

    def _install(self) -> tuple[frozenset[str], bool]:
        arguments = {"packages": list(self.subject.words), "expected": self.changes}
        seconds = float(self.settings.install_seconds)
        value = self.bench.change("webfarm_packages.install", arguments, seconds)
        with self.bench.shaped("webfarm_packages.install"):
            reply = shapes.mapping(value, "the answer")
            changed = shapes.mapping(shapes.field(reply, "changed", "the answer"), "changed")
            done = {
                shapes.package(name): shapes.version(
                    shapes.field(shapes.mapping(entry, "changed"), "to", "changed")
                )
                for name, entry in changed.items()
            }
            affects = shapes.affected(shapes.field(reply, "affects", "the answer"), "affects")
            needed = shapes.flag(shapes.field(reply, "reboot", "the answer"), "reboot")
        meant = {name: entry["to"] for name, entry in self.changes.items()}
        if done != meant:
            odd = sorted(name for name in done.keys() | meant if done.get(name) != meant.get(name))
            raise NotCertified(
                f"{self.server} did not install what was meant: "
                + ", ".join(
                    f"{name} is {done.get(name, 'not there')}, meant {meant.get(name, 'none')}"
                    for name in odd[:6]
                )
            )
        return affects, needed

    def _left(self) -> list[str]:
        value = self.bench.ask("webfarm_packages.deleted")
        with self.bench.shaped("webfarm_packages.deleted"):
            if not isinstance(value, list) or len(value) > shapes.MOST:
                raise shapes.BadShape(f"the answer is {value!a:.60}, expected a list")
            found = [shapes.mapping(entry, "a process") for entry in value]
        return [f"{entry.get('pid')!a:.20} {entry.get('command')!a:.60}" for entry in found[:20]]

    def _reboot(self) -> None:
        before = self.bench.look().boot
        reply = self.bench.reply("webfarm_os.reboot", {"boot_id": before}, 60.0)
        if reply.ok is False:
            raise NotCertified(f"{self.server}: webfarm_os.reboot failed: {reply.error[:500]}")
        # a server that goes down may not come to answer: the boot id says what happened
        seconds = float(self.settings.reboot_seconds)
        seen = self.bench.wait("reboot and become ready", seconds, lambda seen: seen.ready, before)
        self.boots.append(seen.boot)

    def _profile(self, reply: object) -> None:
        said = shapes.mapping(reply, "the answer").get("profile")
        if said != self.place.profile:
            raise NotCertified(
                f"{self.server} says that its hardware profile is {said!a:.60}, the pillar has "
                f"{self.place.profile}"
            )
