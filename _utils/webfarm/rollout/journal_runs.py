"""The runs in the journal: what an operator asked for, how far it is, what he wishes of it."""

import json
import socket
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments
from webfarm.rollout.ledger import Ledger, note
from webfarm.rollout.model import Goal, Run, Wish
from webfarm.rollout.waves.values import wave

WISHES = ("pause", "abort", "rollback")


class Unfinished(WebfarmError):
    """A run that has not ended is in the way; ``run`` is its number."""

    def __init__(self, message: str, run: int) -> None:
        super().__init__(message)
        self.run = run


class Runs(Ledger):
    """The journal's runs. A run is unfinished while it is ``running`` or ``paused``."""

    def begin_run(self, run: Run, holder: str, now: float) -> tuple[int, bool]:
        """Start a run, or take up the unfinished one that asks for the same.

        The caller holds every site of the run, so one that is left ``running`` has no process. The
        same is: the same kind, farms and releases; policy, override and order are those of the new
        call. A wish to pause is fulfilled by now, one to abort or to roll back is still owed. Steps
        that a crash left ``intended`` become ``unknown``.

        A run of kind ``server`` takes no farm out of service: it is in nobody's way and nobody is
        in its way. One that its process left unfinished ends when another run begins.

        Returns its number and whether it was taken up; raises :class:`Unfinished` when another run
        is in the way.
        """
        _check(run)
        packed = (
            json.dumps([asdict(goal) for goal in run.goals]),
            json.dumps(dict(run.policy)),
            run.override,
        )
        with self.write():
            known = self.unfinished()
            same = [data for data in known if asks_the_same(data["run"], run)]
            others = [data for data in known if set(data["run"].sites) & set(run.sites)]
            for left in others:
                if left["kind"] == "server" and left not in same:
                    self._end(left["id"], "failed", {"message": "its process ended"}, now)
                elif not same and run.kind != "server":
                    raise Unfinished(_in_the_way(left, now), left["id"])
            if same:
                number = int(same[0]["id"])
                self._orphans(number, now)
                self.connection.execute(
                    "UPDATE runs SET goals=?, policy=?, override=?, state='running', holder=?,"
                    " host=?, ended=NULL, outcome=NULL WHERE id=?",
                    (*packed, holder, socket.gethostname(), number),
                )
                self._unwish(number, "pause")
            else:
                cursor = self.connection.execute(
                    "INSERT INTO runs (goals, policy, override, state, holder, host, kind, undoes,"
                    " started) VALUES (?, ?, ?, 'running', ?, ?, ?, ?, ?)",
                    (*packed, holder, socket.gethostname(), run.kind, run.undoes, now),
                )
                number = int(cursor.lastrowid or 0)
            if run.override and not (same and same[0]["run"].override == run.override):
                note(self.connection, "override", holder, run.override, {"run": number}, now)
            if run.force:
                data = {"run": number, "past": run.past}
                note(self.connection, "force", holder, run.force, data, now)
        return number, bool(same)

    def cut_off(self, run: Run) -> bool:
        """A process that conducted this run ended without a word."""
        return any(
            data["state"] == "running" and asks_the_same(data["run"], run)
            for data in self.unfinished()
        )

    def end_run(self, run: int, state: str, outcome: Mapping[str, Any], now: float) -> None:
        """Write how the run ended, or that it is ``paused``, which fulfils a wish to pause."""
        with self.write():
            self._row(run)
            self._end(run, state, outcome, now)

    def run(self, run: int) -> dict[str, Any]:
        """A run as data, with ``run``: the :class:`Run` that was asked for."""
        return _plain(self._row(run))

    def runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """The latest runs, newest first."""
        rows = self.connection.execute("SELECT * FROM runs ORDER BY id DESC LIMIT ?", (limit,))
        return [_plain(row) for row in rows.fetchall()]

    def unfinished(self, site: str | None = None) -> list[dict[str, Any]]:
        """The runs that have not ended, oldest first; those that touch ``site``, or all."""
        rows = self.connection.execute(
            "SELECT * FROM runs WHERE state IN ('running', 'paused') ORDER BY id"
        ).fetchall()
        found = [_plain(row) for row in rows]
        return [data for data in found if site is None or site in data["run"].sites]

    # -- wishes --------------------------------------------------------------------------------

    def wish(self, run: int, wish: Wish, now: float) -> bool:
        """Ask the process that conducts the run; False when the run is not ``running``.

        A wish replaces an earlier one, but a run that shall end is not paused before.
        """
        if wish.kind not in WISHES:
            raise WebfarmError(f"a wish is one of {', '.join(WISHES)}, not {wish.kind!a:.40}")
        by = arguments.reason(wish.by, "user", True)
        why = arguments.reason(wish.why)
        with self.write():
            row = self._row(run)
            if row["state"] != "running":
                return False
            if wish.kind == "pause" and row["wish"] in ("abort", "rollback"):
                raise WebfarmError(
                    f"run {run} is not paused: {row['wish_by']} has asked for its {row['wish']}, "
                    f"see `salt-run upgrade.watch {run}`"
                )
            self.connection.execute(
                "UPDATE runs SET wish=?, wish_by=?, wish_why=?, wish_at=? WHERE id=?",
                (wish.kind, by, why, now, run),
            )
            note(self.connection, wish.kind, by, why, {"run": run}, now)
        return True

    def wished(self, run: int) -> Wish | None:
        """What is wished of the run and not yet done."""
        return _plain(self._row(run))["wish"]  # type: ignore[no-any-return]

    def clear_wish(self, run: int) -> None:
        """Forget the wish."""
        with self.write():
            self._row(run)
            self._unwish(run, *WISHES)

    # -- approvals -----------------------------------------------------------------------------

    def wait_for_approval(self, run: int, point: int, now: float) -> None:
        """Write that the run does not pass ``point`` (1, 2, …) until it is approved."""
        with self.write():
            self._row(run)
            self.connection.execute("UPDATE runs SET waits=? WHERE id=?", (point, run))

    def approve(self, run: int, by: str, now: float) -> int:
        """Let the run pass the point at which it waits, and record who did; gives the point."""
        by = arguments.reason(by, "user", True)
        with self.write():
            row = self._row(run)
            if row["waits"] is None:
                raise WebfarmError(
                    f"run {run} is {row['state']} and waits for no approval; see "
                    f"`salt-run upgrade.history {run}`"
                )
            self.connection.execute("UPDATE runs SET approved=waits, waits=NULL WHERE id=?", (run,))
            data = {"run": run, "point": row["waits"]}
            note(self.connection, "approve", by, "", data, now)
        return int(row["waits"])

    def approved(self, run: int) -> int:
        """The last point that was approved; 0 for none."""
        return int(self._row(run)["approved"])

    # -- shared --------------------------------------------------------------------------------

    def _row(self, run: int) -> sqlite3.Row:
        number = arguments.number(run, "run")
        row = self.connection.execute("SELECT * FROM runs WHERE id=?", (number,)).fetchone()
        if row is None:
            raise WebfarmError(f"there is no run {run}; see `salt-run upgrade.history`")
        assert isinstance(row, sqlite3.Row)
        return row

    def _end(self, run: int, state: str, outcome: Mapping[str, Any], now: float) -> None:
        self._orphans(run, now)
        self.connection.execute(
            "UPDATE runs SET state=?, ended=?, outcome=? WHERE id=?",
            (state, now, json.dumps(outcome, default=str), run),
        )
        self._unwish(run, *(("pause",) if state == "paused" else WISHES))

    def _unwish(self, run: int, *kinds: str) -> None:
        self.connection.execute(
            "UPDATE runs SET wish=NULL, wish_by=NULL, wish_why=NULL, wish_at=NULL"
            f" WHERE id=? AND wish IN ({', '.join('?' * len(kinds))})",
            (run, *kinds),
        )

    def _orphans(self, run: int, now: float) -> None:
        self.connection.execute(
            "UPDATE steps SET state='unknown', ended=? WHERE state='intended' AND (run=?"
            " OR rollout IN (SELECT id FROM rollouts WHERE run=?))",
            (now, run, run),
        )


def scope(run: Run) -> str:
    """What the run touches, for a sentence: ``site1 (farm1, farm2)``."""
    farms: dict[str, list[str]] = {site: [] for site in run.sites}
    for goal in run.goals:
        farms[goal.site].append(goal.server or goal.farm)
    return "; ".join(f"{site} ({', '.join(them)})" for site, them in farms.items())


def releases(run: Run) -> str:
    """The releases that the run takes its farms to, for a sentence."""
    return ", ".join(dict.fromkeys(goal.release for goal in run.goals))


def age(seconds: float) -> str:
    """How long something is, to read: ``65 s``, ``12 min``, ``3 h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def asks_the_same(one: Run, other: Run) -> bool:
    """Both ask for the same: kind, farms and releases, in any order."""

    def asked(run: Run) -> tuple[str, set[tuple[str | None, ...]]]:
        return run.kind, {(g.site, g.farm, g.server, g.release) for g in run.goals}

    return asked(one) == asked(other)


def _in_the_way(data: Mapping[str, Any], now: float) -> str:
    number, run = data["id"], data["run"]
    since = data["ended"] if data["state"] == "paused" else data["started"]
    return (
        f"run {number} has not ended: {run.kind} of {scope(run)} to {releases(run)}, "
        f"{data['state']} since {age(now - since)}, by {data['holder']} on {data['host']}. Go on "
        f"with it: `salt-run upgrade.resume {number}`; end it: `salt-run upgrade.abort {number}`; "
        f"take it back: `salt-run upgrade.rollback {number}`"
    )


def _check(run: Run) -> None:
    if not run.goals:
        raise WebfarmError("the run has no farm; nothing was changed")
    for goal in run.goals:
        for what in ("site", "farm", "release"):
            names.check(getattr(goal, what), what)
        if goal.server is not None:
            names.check(goal.server, "server")


def _plain(row: sqlite3.Row) -> dict[str, Any]:
    run = Run(
        kind=row["kind"],
        goals=tuple(
            Goal(**{**goal, "wave": wave(goal.get("wave"))}) for goal in json.loads(row["goals"])
        ),
        policy=json.loads(row["policy"]),
        override=row["override"],
        undoes=row["undoes"],
    )
    kept = ("id", "kind", "state", "holder", "host", "started", "ended", "waits", "approved")
    return {
        **{key: row[key] for key in kept},
        "scope": scope(run),
        "release": releases(run),
        "run": run,
        "wish": Wish(row["wish"], row["wish_by"], row["wish_why"]) if row["wish"] else None,
        "wish_at": row["wish_at"],
        "outcome": json.loads(row["outcome"]) if row["outcome"] else None,
    }
