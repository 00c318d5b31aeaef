"""The journal: every step is written before and after it runs, so that a crash leaves a trace.

:mod:`journal_file` has its format, :mod:`journal_runs` the runs, :mod:`ledger` what people decided;
here are a run's rollouts, one for each farm, and their steps.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from webfarm.rollout.journal_file import FORMAT, BadJournal, connect
from webfarm.rollout.journal_runs import Runs, Unfinished
from webfarm.rollout.ledger import plain
from webfarm.rollout.model import Before, Goal, Step

__all__ = ["FORMAT", "BadJournal", "Journal", "Unfinished", "connect"]


class Journal(Runs):
    """The rollouts and their steps, beside the runs and the ledger."""

    def begin(
        self, goal: Goal, holder: str, now: float, run: int
    ) -> tuple[int, Before | None, bool]:
        """Start a rollout, or take up the farm's last one if it is of this run and did not end.

        Returns its id, how the farm was before it, and whether it was taken up. An unfinished
        rollout of another run or goal becomes ``superseded``. What the same run knew of the farm
        before is handed on, unless it ended well; a run that has ended has left its farms in
        service, so what it knew is out of date.
        """
        with self.write():
            last = self.connection.execute(
                "SELECT * FROM rollouts WHERE site=? AND farm=? AND server IS ?"
                " ORDER BY id DESC LIMIT 1",
                (goal.site, goal.farm, goal.server),
            ).fetchone()
            before = None
            if last is not None and last["state"] not in ("done", "nothing"):
                before = _before(last["before"]) if last["run"] == run else None
                unfinished = last["state"] in ("running", "paused")
                if unfinished and (last["release"], last["run"]) == (goal.release, run):
                    self.connection.execute(
                        "UPDATE rollouts SET state='running', holder=?, ended=NULL, outcome=NULL"
                        " WHERE id=?",
                        (holder, last["id"]),
                    )
                    return last["id"], before, True
                if unfinished:
                    self._state(last["id"], "superseded", now, None)
            cursor = self.connection.execute(
                "INSERT INTO rollouts (run, site, farm, server, release, state, holder, started,"
                " before) VALUES (?, ?, ?, ?, ?, 'running', ?, ?, ?)",
                (
                    run,
                    goal.site,
                    goal.farm,
                    goal.server,
                    goal.release,
                    holder,
                    now,
                    json.dumps(asdict(before)) if before else None,
                ),
            )
            return int(cursor.lastrowid or 0), before, False

    def remember(self, rollout: int, before: Before) -> None:
        """Write how the farm was in service."""
        with self.write():
            self.connection.execute(
                "UPDATE rollouts SET before=? WHERE id=?", (json.dumps(asdict(before)), rollout)
            )

    def intend(self, rollout: int, step: Step, now: float) -> int:
        """Write that the step is about to run; returns the step's id."""
        return self._intend(rollout, None, step, now)

    def intend_run(self, run: int, step: Step, now: float) -> int:
        """Like :meth:`intend`, for a step of the run itself."""
        return self._intend(None, run, step, now)

    def settle(self, step: int, state: str, evidence: Mapping[str, Any], now: float) -> None:
        """Write how the step ended: ``done``, ``failed`` or ``unknown``."""
        with self.write():
            self.connection.execute(
                "UPDATE steps SET state=?, evidence=?, ended=? WHERE id=?",
                (state, json.dumps(evidence, default=str), now, step),
            )

    def end(self, rollout: int, state: str, outcome: Mapping[str, Any], now: float) -> None:
        """Write how the rollout ended: ``done``, ``nothing``, ``failed``, ``paused`` …"""
        with self.write():
            self._unsettled(rollout, now)
            self._state(rollout, state, now, json.dumps(outcome, default=str))

    def rollouts(self, limit: int = 20, run: int | None = None) -> list[dict[str, Any]]:
        """The latest rollouts, of a run or of all, newest first, with their outcome."""
        rows = self.connection.execute(
            "SELECT * FROM rollouts WHERE ? IS NULL OR run=? ORDER BY id DESC LIMIT ?",
            (run, run, limit),
        ).fetchall()
        return [plain(row, "before", "outcome") for row in rows]

    def under_way(self, run: int) -> list[tuple[str, str, str]]:
        """Site, farm and release of each farm that the run has in hand, in order."""
        rows = self.connection.execute(
            "SELECT site, farm, release FROM rollouts WHERE run=? AND server IS NULL"
            " AND state IN ('running', 'paused') ORDER BY id",
            (run,),
        ).fetchall()
        return list(dict.fromkeys((row["site"], row["farm"], row["release"]) for row in rows))

    def steps(self, rollout: int) -> list[dict[str, Any]]:
        """A rollout's steps in the order in which they ran."""
        return self._steps("rollout", rollout)

    def run_steps(self, run: int) -> list[dict[str, Any]]:
        """The steps of the run itself, such as staging, in the order in which they ran."""
        return self._steps("run", run)

    def finished(self, run: int) -> list[tuple[str, str, Before]]:
        """The farms that the run touched, in order, each as it was when the run came to it."""
        rows = self.connection.execute(
            "SELECT site, farm, before FROM rollouts WHERE run=? AND before IS NOT NULL"
            " AND server IS NULL ORDER BY id",
            (run,),
        ).fetchall()
        first: dict[tuple[str, str], Before] = {}
        for row in rows:
            first.setdefault((row["site"], row["farm"]), Before(**json.loads(row["before"])))
        return [(site, farm, before) for (site, farm), before in first.items()]

    # -- shared --------------------------------------------------------------------------------

    def _intend(self, rollout: int | None, run: int | None, step: Step, now: float) -> int:
        with self.write():
            cursor = self.connection.execute(
                "INSERT INTO steps (rollout, run, name, targets, why, state, started)"
                " VALUES (?, ?, ?, ?, ?, 'intended', ?)",
                (rollout, run, step.name, json.dumps(list(step.targets)), step.why, now),
            )
            return int(cursor.lastrowid or 0)

    def _steps(self, column: str, of: int) -> list[dict[str, Any]]:
        rows = self.connection.execute(
            f"SELECT * FROM steps WHERE {column}=? ORDER BY id", (of,)
        ).fetchall()
        return [plain(row, "targets", "evidence") for row in rows]

    def _unsettled(self, rollout: int, now: float) -> None:
        self.connection.execute(
            "UPDATE steps SET state='unknown', ended=? WHERE rollout=? AND state='intended'",
            (now, rollout),
        )

    def _state(self, rollout: int, state: str, now: float, outcome: str | None) -> None:
        self.connection.execute(
            "UPDATE rollouts SET state=?, ended=?, outcome=? WHERE id=?",
            (state, now, outcome, rollout),
        )


def _before(packed: str | None) -> Before | None:
    return Before(**json.loads(packed)) if packed else None
