"""Find broken promises in the answers that clients got.

S1  An answer's release is not older than that of any answer which the same session had in hand when
    it asked. Two answers that overlap are not in order, so neither is a regression of the other.
S2  No request fails.
S3  A session's counter is exactly one more with each answer. A request that failed may have been
    counted or not.

A session is what its id names. A client whose session is replaced has lost it, and what it saw
before still binds the cluster, unless such resets have been declared; then the new session begins
with nothing seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .answer import UNSENT, Answer
from .releases import Key, order_key


@dataclass(frozen=True)
class Breach:
    """A promise broken by one answer; ``earlier`` is the answer that it contradicts."""

    promise: str
    kind: str
    text: str
    answer: Answer
    earlier: Answer | None = None


class Seen:
    """The newest release that was in hand at any moment, as a rising staircase."""

    def __init__(self) -> None:
        self._steps: list[tuple[Key, Answer]] = []

    def newer(self, answer: Answer) -> Answer | None:
        """An answer of a newer release that was in hand when this one was asked for."""
        key = order_key(answer.release)
        for step, earlier in reversed(self._steps):
            if step <= key:
                return None
            if earlier.answered <= answer.sent:
                return earlier
        return None

    def add(self, answer: Answer) -> None:
        """Remember the answer when its release is the newest so far."""
        key = order_key(answer.release)
        if not self._steps or key > self._steps[-1][0]:
            self._steps.append((key, answer))


@dataclass
class _Client:
    """What one cookie jar was told; ``unknown`` failures may have been counted."""

    seen: Seen = field(default_factory=Seen)
    last: Answer | None = None
    unknown: int = 0


class Judge:
    """Reads answers in the order in which they came.

    allow_resets
        So many sessions may be replaced by new ones: a floor of ``available``, or a rollback that
        says so.
    """

    def __init__(self, allow_resets: int = 0) -> None:
        self.allow_resets = allow_resets
        self.resets = 0
        self._clients: dict[str, _Client] = {}
        self._sessions: dict[str, Seen] = {}
        self._owners: dict[str, str] = {}

    @property
    def clients(self) -> int:
        """How many clients have been answered."""
        return len(self._clients)

    @property
    def sessions(self) -> int:
        """How many session ids have been seen."""
        return len(self._owners)

    def see(self, answer: Answer) -> list[Breach]:
        """The promises that this answer breaks."""
        client = self._clients.setdefault(answer.client, _Client())
        breaches: list[Breach] = []
        if answer.kind:
            breaches.append(_failed(answer))
            if answer.kind not in UNSENT:
                client.unknown += 1
        else:
            breaches += self._counter(client, answer)
            breaches += self._owner(answer)
        if answer.release:
            breaches += self._release(client, answer)
        return breaches

    def _release(self, client: _Client, answer: Answer) -> list[Breach]:
        session = answer.session or (client.last.session if client.last else "")
        seen = self._sessions.setdefault(session, Seen()) if session else Seen()
        earlier = seen.newer(answer)
        if not (answer.parallel and self.allow_resets):
            # of two answers at once, which one the client's next session follows cannot be told
            earlier = earlier or client.seen.newer(answer)
        seen.add(answer)
        client.seen.add(answer)
        if earlier is None:
            return []
        text = (
            f"{answer.release} of {_where(answer)} after {earlier.release} of {_where(earlier)}, "
            f"which it had for {answer.sent - earlier.answered:.2f} s"
        )
        return [Breach("S1", "regression", text, answer, earlier)]

    def _owner(self, answer: Answer) -> list[Breach]:
        owner = self._owners.setdefault(answer.session, answer.client)
        if owner == answer.client:
            return []
        text = (
            f"session {answer.session} belongs to client {owner} and was given to {answer.client}"
        )
        return [Breach("S3", "shared", text, answer)]

    def _counter(self, client: _Client, answer: Answer) -> list[Breach]:
        last, client.last = client.last, answer
        if answer.parallel:
            return []
        unknown, client.unknown = client.unknown, 0
        before = 0 if last is None else last.count
        if last is not None and last.session != answer.session:
            if self.resets < self.allow_resets:
                self.resets += 1
                client.seen = Seen()
                return []
            text = (
                f"session {last.session} at {before} was replaced by {answer.session} "
                f"at {answer.count}"
            )
            return [Breach("S3", "lost", text, answer, last)]
        lowest, highest = before + 1, before + 1 + unknown
        if lowest <= answer.count <= highest:
            client.unknown = highest - answer.count
            return []
        expected = str(lowest) if not unknown else f"{lowest} to {highest}"
        if answer.count > highest:
            kind, text = "ahead", f"the counter is {answer.count}, expected {expected}"
        elif answer.count == 1:
            kind, text = "lost", f"the counter began again at 1, expected {expected}"
        else:
            kind, text = "rewound", f"the counter is {answer.count}, expected {expected}"
        return [Breach("S3", kind, f"{text}, at {_where(answer)}", answer, last)]


def _failed(answer: Answer) -> Breach:
    what = answer.why or (f"status {answer.status}" if answer.status else answer.kind)
    slow = f" of {answer.slow} ms" if answer.slow else ""
    text = f"{answer.method}{slow} by {answer.address}: {what}, after {answer.took:.2f} s"
    return Breach("S2", answer.kind, text, answer)


def _where(answer: Answer) -> str:
    return "/".join(part for part in (answer.site, answer.farm, answer.server) if part) or "nobody"
