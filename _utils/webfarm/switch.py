"""Change what a web server runs: move the symlinks, restart php-fpm, prove it, or put all back.

Killed at any instant, it leaves symlinks that name complete versions. Between the two symlinks the
pair is one that no release has, so ``/ready`` answers 503; the next call repairs it.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from webfarm import files, names, releasefile, releases
from webfarm.errors import WebfarmError
from webfarm.ready import Ready
from webfarm.store import check_version
from webfarm.trees import Links, Trees

_POLL = 0.2
_LOCK_SECONDS = 90.0
Proof = Callable[[Ready], bool]


class SwitchError(WebfarmError):
    """The server does not run what it was told to; the message says what it was left with."""


@dataclass(frozen=True)
class Switch:
    """Changes this server's versions of PHP and webapp.

    versions
        The trees, by kind: ``php`` and ``webapp``.
    releases_php
        The path of ``releases.php``.
    restart
        Restarts php-fpm; raises :class:`WebfarmError` when that fails.
    ask
        Asks ``/ready``, expecting a release (None: its own).
    complaints
        The last lines of php-fpm's log.
    deadline
        Seconds until ``/ready`` must have proved a change.
    """

    versions: Mapping[str, Trees]
    releases_php: Path
    restart: Callable[[], None]
    ask: Callable[[str | None], Ready]
    complaints: Callable[[], str]
    deadline: float

    def active_pair(self) -> str | None:
        """The pair that the symlinks name."""
        php, webapp = (self.versions[kind].links().current for kind in ("php", "webapp"))
        return releases.pair(php, webapp) if php and webapp else None

    def release(self, release: str, php: str, webapp: str) -> Ready:
        """Run a staged release; returns what ``/ready`` says of it. Once there, nothing is done."""
        names.check(release, "release")
        wanted = {
            "php": check_version(php),
            "webapp": check_version(webapp),
        }
        with self._lock(f"switching to release {release}"):
            for kind, version in wanted.items():
                self.versions[kind].tree(version)
            # staging did this, unless both trees were there already
            releasefile.add(self.releases_php, php, webapp, release, self.active_pair())

            def proof(answer: Ready) -> bool:
                return (
                    answer.ready
                    and answer.release == release
                    and answer.php == php
                    and answer.webapp == webapp
                )

            return self._to(wanted, proof, release)

    def one(self, kind: str, version: str) -> Ready:
        """Run another version of one kind; proved when ``/ready`` names that version."""
        check_version(version)
        with self._lock(f"activating {kind} {version}"):
            self.versions[kind].tree(version)
            return self._to({kind: version}, lambda a: getattr(a, kind) == version, None)

    def _lock(self, what: str) -> AbstractContextManager[int]:
        root = self.versions["php"].root.parent
        files.make_folder(root)
        return files.locked(root / ".switch.lock", _LOCK_SECONDS, what)

    def _to(self, wanted: Mapping[str, str], proof: Proof, release: str | None) -> Ready:
        before = {kind: self.versions[kind].links() for kind in wanted}
        if all(before[kind].current == version for kind, version in wanted.items()):
            answer = self.ask(release)
            if proof(answer):
                return answer
        try:
            for kind, version in wanted.items():
                self.versions[kind].activate(version)
            self.restart()
            return self._wait(proof, release)
        except WebfarmError as error:
            name = ", ".join(f"{kind} {version}" for kind, version in wanted.items())
            said = self.complaints()
            outcome = self._put_back(wanted, before)
            raise SwitchError(
                f"this server could not be switched to {name}: {_clause(error)}. {outcome}. php-fpm"
                f" said: {said or 'nothing'}"
            ) from error

    def _wait(self, proof: Proof, release: str | None) -> Ready:
        end = time.monotonic() + self.deadline
        while True:
            answer = self.ask(release)
            if proof(answer):
                return answer
            if time.monotonic() >= end:
                raise SwitchError(
                    f"/ready did not prove it within {self.deadline:g} s: it names php"
                    f" {answer.php}, webapp {answer.webapp}, release {answer.release} ("
                    f"{answer.why or 'ready'})"
                )
            time.sleep(_POLL)

    def _put_back(self, wanted: Mapping[str, str], before: Mapping[str, Links]) -> str:
        """Undo; returns a clause that says what the server is left with."""
        names_before = ", ".join(f"{k} {v.current or 'none'}" for k, v in before.items())
        try:
            for kind, links in before.items():
                self.versions[kind].restore(links)
            if all(before[kind].current == version for kind, version in wanted.items()):
                return "The symlinks named it before already, there is nothing to go back to"
            if any(links.current is None for links in before.values()):
                return f"The symlinks are as before ({names_before}), php-fpm was not restarted"
            self.restart()
            self._wait(lambda a: all(getattr(a, k) == v.current for k, v in before.items()), None)
        except (WebfarmError, OSError) as error:
            return (
                f"Going back to {names_before} FAILED too ({_clause(error)}): the server is out of"
                " service and needs a person"
            )
        return f"It runs {names_before} again, as before"


def _clause(error: Exception) -> str:
    """An error's message on one line and without its full stop."""
    return " ".join(str(error).split()).rstrip(".")
