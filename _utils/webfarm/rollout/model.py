"""The values of a rollout: what is wanted, what is seen, what is remembered, what is next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from webfarm.rollout.waves.values import OsView, Wave

STATES = ("open", "drain", "closed", "ready")
STEPS = (
    "stage",
    "preflight",
    "drain",
    "soft",
    "close",
    "quiesce",
    "fence",
    "switch",
    "flush",
    "warm",
    "verify",
    "ready",
    "open",
    "soak",
    "rejoin",
)


@dataclass(frozen=True)
class Goal:
    """One farm on one release.

    digests
        Kind (``php``, ``webapp``) to the digest of its tree, when the store knows it.
    reset_sessions
        The operator accepts that sessions which saw a newer release are reset.
    server
        Only this server is brought to the release; the farm is on it already.
    wave
        Not a farm but one server of each farm, ``farm`` and ``release`` are only labels then.
    """

    site: str
    farm: str
    release: str
    php: str
    webapp: str
    digests: Mapping[str, str] | None = None
    reset_sessions: bool = False
    server: str | None = None
    wave: Wave | None = None


@dataclass(frozen=True)
class Run:
    """What an operator asked for.

    kind
        ``upgrade``, ``os``, ``rollback`` or ``server``.
    goals
        The farms in the order in which they are taken.
    policy
        What this run overrides in every site's policy.
    override
        The reason to run in spite of a closed window or a freeze; empty: it does not.
    undoes
        The run that a rollback takes back.
    force, past
        The reason to go ahead without a certificate, and what was refused without it.
    """

    kind: str
    goals: tuple[Goal, ...]
    policy: Mapping[str, Any] = field(default_factory=dict)
    override: str = ""
    undoes: int | None = None
    force: str = ""
    past: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that the run touches, in its order."""
        return tuple(dict.fromkeys(goal.site for goal in self.goals))


@dataclass(frozen=True)
class Wish:
    """What an operator wants of a run under way: ``kind`` is pause, abort or rollback."""

    kind: str
    by: str
    why: str = ""

    def __str__(self) -> str:
        done = {"pause": "paused", "abort": "aborted", "rollback": "rolled back"}[self.kind]
        return f"{done} by {self.by}" + (f" ({self.why})" if self.why else "")


@dataclass(frozen=True)
class Counters:
    """What one balancer has counted for a farm since HAProxy started.

    errors
        Answers of 5xx, those that HAProxy made itself included.
    response_ms
        HAProxy's moving average of the time to a server's answer.
    """

    requests: int
    errors: int
    response_ms: int


@dataclass(frozen=True)
class ServerAtBalancer:
    """A server as one balancer's health check sees it; ``admin`` is what was set there.

    rested
        The weights' loop drained it, and brings it back by itself: to a rollout it is in service,
        but nothing can be counted on it.
    taken
        A rollout took it out of service by itself, and puts it back.
    """

    status: str
    admin: str = "ready"
    in_flight: int = 0
    check: str = ""
    rested: bool = False
    taken: bool = False
    counters: Counters | None = None

    @property
    def up(self) -> bool:
        """It gets requests: HAProxy writes ``UP``, or ``UP 1/2`` while a check fails."""
        return self.status.startswith("UP")

    @property
    def healthy(self) -> bool:
        """Its checks pass: it gets requests, or would but for the weights' loop."""
        return self.up or (self.rested and self.status.startswith(("DRAIN", "NOLB")))

    @property
    def passes(self) -> bool:
        """Its checks pass, whether it gets requests or not; in maint HAProxy makes none."""
        return self.status.startswith(("UP", "DRAIN", "NOLB"))

    @property
    def withheld(self) -> bool:
        """An operator took it out of service; a rollout leaves that as it is."""
        return self.admin != "ready" and not self.rested


@dataclass(frozen=True)
class FarmAtBalancer:
    """A farm as one balancer has it; ``in_flight`` counts the workers before a reload too."""

    state: str
    generation: int
    release: str
    in_flight: int = 0
    queued: int = 0
    servers: Mapping[str, ServerAtBalancer] = field(default_factory=dict)
    counters: Counters | None = None


@dataclass(frozen=True)
class BalancerView:
    """One site balancer; when it did not answer, ``answered`` is false and ``why`` says so."""

    id: str
    answered: bool
    why: str = ""
    farms: Mapping[str, FarmAtBalancer] = field(default_factory=dict)
    newest: int = 0
    pick: Mapping[str, int] = field(default_factory=dict)
    pick_newest: Mapping[str, int] = field(default_factory=dict)
    disk_agrees: bool = True
    old_workers: int = 0
    amnesty: int = 0


@dataclass(frozen=True)
class ServerView:
    """One server of the farm, as it speaks of itself."""

    id: str
    answered: bool
    why: str = ""
    release: str | None = None
    ready: bool = False
    php_versions: frozenset[str] = frozenset()
    webapp_versions: frozenset[str] = frozenset()
    boot_id: str = ""
    os: OsView | None = None

    def runs(self, release: str) -> bool:
        """It runs ``release`` and says that it is ready to serve it."""
        return self.answered and self.ready and self.release == release

    def has(self, php: str, webapp: str) -> bool:
        """Both trees are installed."""
        return php in self.php_versions and webapp in self.webapp_versions


@dataclass(frozen=True)
class Seen:
    """One observation of a site and of one farm's servers."""

    balancers: Mapping[str, BalancerView]
    servers: Mapping[str, ServerView]


@dataclass(frozen=True)
class Before:
    """How the farm was when it was last in service, before this rollout touched it.

    members
        Of a wave: server -> :class:`MemberBefore` as data.
    """

    release: str
    generation: int
    members: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Memory:
    """What a run knows besides its last observation; only ``before`` outlives the process.

    done
        Names of steps that an observation cannot show: preflight, soft, quiesce, warm, verify,
        soak.
    idle
        How many observations in a row showed nothing in flight while the farm was closed.
    flushed
        Members of the memcached pool proven empty since the farm was idle.
    quarantined
        Server to the reason why it is left out.
    retreat
        Why the farm is going back to the release that it had; empty while it goes forward.
    """

    done: frozenset[str] = frozenset()
    idle: int = 0
    flushed: frozenset[str] = frozenset()
    quarantined: Mapping[str, str] = field(default_factory=dict)
    before: Before | None = None
    retreat: str = ""


@dataclass(frozen=True)
class Step:
    """One thing to do and how to know that it is done.

    function, arguments
        What every target is asked to do; None for a step that only waits.
    deadline
        Seconds in which the observation must show it done; None waits for ever.
    why
        What the observation lacked, for the operator.
    """

    name: str
    targets: tuple[str, ...]
    why: str
    deadline: float | None
    function: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InService:
    """The goal is reached; ``left_out`` names servers that are not in service, and why."""

    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """The farm must not leave service; nothing has been changed."""

    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Stuck:
    """No step is safe in what is seen; another observation may differ."""

    reasons: tuple[str, ...]


Next = Step | InService | Refused | Stuck


@dataclass(frozen=True)
class Reply:
    """One node's answer to a call: ``ok`` is None when none came in time."""

    ok: bool | None
    value: Any = None
    error: str = ""


def listed(names: Sequence[str]) -> str:
    """Names for a sentence: the first few, then how many more."""
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
