"""One preproduction server: ask it, look before each change, wait for it, check what it says.

Whatever goes wrong is a :class:`NotCertified` that names the server: nothing is guessed, and no
reply is taken in a shape that it should not have.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from webfarm import names
from webfarm.certificates import shapes
from webfarm.certificates.model import NotCertified
from webfarm.certificates.settings import Certifying, Check
from webfarm.certificates.traffic import Answer, Soaked
from webfarm.rollout.cluster import Clock
from webfarm.rollout.lease import Hold
from webfarm.rollout.ledger import line
from webfarm.rollout.model import Reply

LOOK_SECONDS = 15.0
ASK_SECONDS = 120.0
POLL_SECONDS = 3.0
HELD = (
    "webfarm_release.status",
    "webfarm_release.stage",
    "webfarm_release.switch",
    "webfarm_packages.install",
    "webfarm_os.restart",
    "webfarm_os.reboot",
)


class Minions(Protocol):
    """The part of a :class:`webfarm.rollout.cluster.Cluster` that certification needs."""

    hold: Hold | None

    def call(
        self,
        site: str,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
        deadline: float,
    ) -> Mapping[str, Reply]:
        """See :class:`webfarm.rollout.cluster.Cluster`; ``site`` is the lease's name."""
        ...


class Traffic(Protocol):
    """Real requests to a preproduction server."""

    def smoke(self, server: str, check: Check) -> Answer:
        """One request."""
        ...

    def soak(self, server: str, settings: Certifying, beat: Callable[[], bool]) -> Soaked:
        """Many requests; ``beat`` is called meanwhile, and ends it by True."""
        ...


@dataclass(frozen=True)
class Means:
    """The world, handed in.

    say
        Told what goes on, a line at a time.
    interrupted
        True once the user has typed Ctrl-C.
    """

    minions: Minions
    traffic: Traffic
    clock: Clock
    say: Callable[[str], None] = lambda text: None
    interrupted: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Look:
    """What a server says of itself."""

    boot: str
    ready: bool
    why: str
    release: str | None
    php: str | None
    webapp: str | None


def lease_name(server: str) -> str:
    """The lease of a preproduction server; no site can have such a name."""
    name = f"webfarm.{server}"
    if len(name) <= names.MAX_LENGTH:
        return name
    return f"webfarm.{hashlib.sha256(server.encode()).hexdigest()[:40]}"


class Bench:
    """A preproduction server that is held."""

    def __init__(self, means: Means, server: str, hold: Hold) -> None:
        self.means = means
        self.server = server
        self.hold = hold
        self.lease = lease_name(server)

    def ask(
        self,
        function: str,
        arguments: Mapping[str, Any] | None = None,
        deadline: float = ASK_SECONDS,
    ) -> Any:
        """What the server returned; raises :class:`NotCertified` when that is no success."""
        reply = self.reply(function, arguments or {}, deadline)
        if reply.ok is None:
            raise NotCertified(
                f"{self.server} gave no answer to {function} ({line(reply.error)}); whether it was "
                "done is not known"
            )
        if not reply.ok:
            raise NotCertified(f"{self.server}: {function} failed: {line(reply.error)}")
        return reply.value

    def change(
        self, function: str, arguments: Mapping[str, Any], deadline: float = ASK_SECONDS
    ) -> Any:
        """Like :meth:`ask`, after a look: a minion refuses a change that follows none."""
        self.look()
        return self.ask(function, arguments, deadline)

    def reply(self, function: str, arguments: Mapping[str, Any], deadline: float) -> Reply:
        """Ask once; silence is a reply, and so is an answer that is none."""
        self.hold.confirm()
        self.hold.beat()
        sent = dict(arguments)
        if function in HELD:
            sent["hold"] = self.hold.of(self.lease)
        found = self.means.minions.call(self.lease, function, [self.server], sent, deadline)
        reply = found.get(self.server)
        return reply if isinstance(reply, Reply) else Reply(None, error="no answer")

    def look(self) -> Look:
        """What the server says of itself now."""
        with self.shaped("webfarm_release.status"):
            return _look(self.ask("webfarm_release.status", {}, LOOK_SECONDS))

    def wait(
        self, what: str, seconds: float, done: Callable[[Look], bool], boot: str | None = None
    ) -> Look:
        """Look until it is ``done``; a server that is silent meanwhile is only waited for.

        boot
            Not this boot: what still runs in it is not looked at.
        """
        end = self.means.clock.monotonic() + seconds
        why = "it did not answer"
        while True:
            reply = self.reply("webfarm_release.status", {}, LOOK_SECONDS)
            if reply.ok:
                with self.shaped("webfarm_release.status"):
                    seen = _look(reply.value)
                if seen.boot != boot and done(seen):
                    return seen
                why = "it has not rebooted" if seen.boot == boot else seen.why or "it is not ready"
            else:
                why = line(reply.error) or why
            if self.means.interrupted():
                raise NotCertified(f"{self.server}: Ctrl-C, while waiting for it to {what}")
            if self.means.clock.monotonic() >= end:
                raise NotCertified(f"{self.server} did not {what} in {seconds:.0f} s: {why}")
            self.means.clock.sleep(POLL_SECONDS)

    def shaped(self, function: str) -> "_Shaped":
        """A reply that has not the shape of its function's is the server's failure."""
        return _Shaped(self.server, function)


class _Shaped:
    def __init__(self, server: str, function: str) -> None:
        self.server, self.function = server, function

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: object, _: object) -> None:
        if isinstance(error, shapes.BadShape):
            raise NotCertified(
                f"{self.server} answered {self.function} with something else than it returns: "
                f"{error}; do its modules suit this master? `salt {self.server} saltutil.sync_all`"
            ) from error


def _look(value: object) -> Look:
    found = shapes.mapping(value, "the status")
    texts = {key: found.get(key) for key in ("release", "php", "webapp")}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise shapes.BadShape(f"{key} is {text!a:.60}, expected text")
    return Look(
        boot=shapes.boot(shapes.field(found, "boot_id", "the status")),
        ready=shapes.flag(shapes.field(found, "ready", "the status"), "ready"),
        why=line(found.get("why") or ""),
        **{key: None if text is None else line(text) for key, text in texts.items()},
    )
