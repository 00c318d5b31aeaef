"""The trial of one subject on one preproduction server: change it, test it, read it back.

What differs between packages and releases is in :mod:`trial_packages` and :mod:`trial_release`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from webfarm.certificates import shapes
from webfarm.certificates.bench import Bench, Look, Means
from webfarm.certificates.model import NotCertified, Subject, Tested
from webfarm.certificates.settings import Certifying
from webfarm.errors import WebfarmError
from webfarm.rollout.lease import Held
from webfarm.rollout.ledger import line

COMMAND_GRACE = 30.0  # the minion ends the command itself, and then still has to answer
Proof = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a trial takes place."""

    profile: str
    server: str


class Trial(ABC):
    """One trial; :meth:`run` always gives a :class:`Tested`, unless the lease is lost."""

    def __init__(
        self, means: Means, bench: Bench, settings: Certifying, subject: Subject, place: Place
    ) -> None:
        self.means = means
        self.bench = bench
        self.settings = settings
        self.subject = subject
        self.place = place
        self.server = place.server
        self.boots: list[str] = []
        self.evidence: list[dict[str, Any]] = []
        self.proof: Proof = {}

    @abstractmethod
    def change(self, first: Look) -> None:
        """Bring the server to what is to be tested."""

    @abstractmethod
    def read_back(self) -> Proof:
        """What is installed: fields of :class:`Tested`; raises when it is not what it must be."""

    def run(self) -> Tested:
        """Change, test, read back; a failure is a result."""
        started = self.means.clock.time()
        state, message = "passed", ""
        try:
            self._run()
        except Held:
            raise
        except WebfarmError as error:
            state, message = "failed", line(str(error))
        return Tested(
            self.place.profile,
            self.server,
            state,
            started,
            self.means.clock.time(),
            tuple(self.boots),
            evidence=tuple(self.evidence),
            message=message,
            **(self.proof if state == "passed" else {}),
        )

    def _run(self) -> None:
        with self.step("look"):
            first = self.bench.look()
            self.boots.append(first.boot)
        self.change(first)
        with self.step("ready"):
            self.bench.wait("become ready", self.settings.reboot_seconds, lambda seen: seen.ready)
        with self.step("read back") as found:
            before = self.read_back()
            found["same"] = True
        for check in self.settings.smoke:
            with self.step(f"smoke {check}") as found:
                answer = self.means.traffic.smoke(self.server, check)
                found["answered_in"] = round(answer.seconds, 4)
                if answer.why:
                    raise NotCertified(f"{self.server}: {answer.why}")
        if self.settings.command:
            with self.step("command") as found:
                self._command(found)
        with self.step("soak") as found:
            self._soak(found)
        with self.step("read back after the soak") as found:
            self._unchanged(before)
            found["same"] = True
        self.proof = before

    def _command(self, found: dict[str, Any]) -> None:
        """The user's own command, which the server runs as its own pillar has it."""
        arguments = {
            "command": list(self.settings.command),
            "deadline": self.settings.command_seconds,
        }
        seconds = self.settings.command_seconds + COMMAND_GRACE
        value = self.bench.ask("webfarm_preproduction.command", arguments, seconds)
        with self.bench.shaped("webfarm_preproduction.command"):
            reply = shapes.mapping(value, "the answer")
            code = shapes.field(reply, "code", "the answer")
            if isinstance(code, bool) or not isinstance(code, int):
                raise shapes.BadShape(f"the exit code is {code!a:.40}")
        found["code"], found["output"] = code, line(str(reply.get("output", "")))
        if code != 0:
            raise NotCertified(
                f"{self.server}: the command {self.settings.command[0]} ended with {code}: "
                f"{found['output'] or 'it said nothing'}"
            )

    def _soak(self, found: dict[str, Any]) -> None:
        def beat() -> bool:
            self.bench.hold.beat()
            return self.means.interrupted()

        done = self.means.traffic.soak(self.server, self.settings, beat)
        found |= {"requests": done.requests, "failed": done.failed}
        found |= {"p50": done.p50, "p99": done.p99, "faults": list(done.faults)}
        if done.stopped:
            raise NotCertified(f"{self.server}: Ctrl-C, during the soak")
        if done.failed:
            raise NotCertified(
                f"{self.server}: {done.failed} of {done.requests} requests of the soak failed: "
                + "; ".join(done.faults[:3])
            )
        if done.requests != self.settings.soak_requests:
            raise NotCertified(
                f"{self.server}: the soak made {done.requests} requests, "
                f"{self.settings.soak_requests} were wanted"
            )

    def _unchanged(self, before: Proof) -> None:
        seen = self.bench.look()
        if seen.boot != self.boots[-1]:
            raise NotCertified(f"{self.server} rebooted during the tests, nobody told it to")
        if not seen.ready:
            raise NotCertified(f"{self.server} is not ready after the soak: {seen.why}")
        if self.read_back() != before:
            raise NotCertified(
                f"{self.server} has something else installed after the soak than before it"
            )

    @contextmanager
    def step(self, what: str) -> Iterator[dict[str, Any]]:
        """A step with its evidence, whether it works or not."""
        if self.means.interrupted():
            raise NotCertified(f"{self.server}: Ctrl-C, before {what}")
        start = self.means.clock.monotonic()
        found: dict[str, Any] = {}
        error = ""
        try:
            yield found
        except WebfarmError as raised:
            error = line(str(raised))
            raise
        except BaseException:
            error = "?"  # the process is ending: whatever it wrote now could be wrong
            raise
        finally:
            if error != "?":
                spent = round(self.means.clock.monotonic() - start, 1)
                entry = {"what": what, "ok": not error, "seconds": spent, **found}
                self.evidence.append(entry | ({"error": error} if error else {}))
                self.means.say(
                    f"{self.place.profile} {self.server}: {what} "
                    + (f"failed: {error}" if error else f"done, {spent:.1f} s")
                )
