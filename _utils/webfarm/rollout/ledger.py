"""Who decided what, when and why; which releases are bad; which servers are left out."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from webfarm import names
from webfarm.errors import WebfarmError
from webfarm.rollout import arguments
from webfarm.rollout.journal_file import Book

LONGEST = 500


class Ledger(Book):
    """The journal's decisions by persons, and what outlives the rollouts."""

    # -- records -------------------------------------------------------------------------------

    def record(self, what: str, who: str, why: str, data: Mapping[str, Any], now: float) -> None:
        """Write a decision: an override, an unlock, an approval, a wish, a bad mark."""
        with self.write():
            note(self.connection, what, who, why, data, now)

    def records(self, limit: int = 20) -> list[dict[str, Any]]:
        """The latest decisions, newest first: at, who, what, why, data."""
        rows = self.connection.execute(
            "SELECT * FROM records ORDER BY id DESC LIMIT ?", (limit,)
        ).fetchall()
        return [plain(row, "data") for row in rows]

    # -- bad releases --------------------------------------------------------------------------

    def mark_bad(self, release: str, who: str, why: str, now: float) -> None:
        """No rollout takes a farm to ``release`` any more; another reason replaces the last."""
        names.check(release, "release")
        who, why = arguments.reason(who, "user", True), arguments.reason(why, "reason", True)
        with self.write():
            self.connection.execute(
                "INSERT OR REPLACE INTO bad_releases VALUES (?, ?, ?, ?)", (release, who, why, now)
            )
            note(self.connection, "bad", who, why, {"release": release}, now)

    def unmark_bad(self, release: str, who: str, why: str, now: float) -> None:
        """Allow the release again; raises when it is not marked."""
        names.check(release, "release")
        who, why = arguments.reason(who, "user", True), arguments.reason(why, "reason", True)
        with self.write():
            gone = self.connection.execute("DELETE FROM bad_releases WHERE release=?", (release,))
            if not gone.rowcount:
                marked = ", ".join(self.bad()) or "none is"
                raise WebfarmError(f"{release} is not marked as bad (marked: {marked})")
            note(self.connection, "good", who, why, {"release": release}, now)

    def bad(self) -> dict[str, dict[str, Any]]:
        """Each release that is marked as bad: who, why, at."""
        rows = self.connection.execute("SELECT * FROM bad_releases ORDER BY release").fetchall()
        return {row["release"]: {k: row[k] for k in ("who", "why", "at")} for row in rows}

    # -- quarantine ----------------------------------------------------------------------------

    def quarantine(self, site: str, farm: str, servers: Mapping[str, str], now: float) -> None:
        """Replace the farm's set of servers that are left out, each with its reason.

        A server that was in the set already keeps its first reason, the telling one, and its time.
        """
        for what, name in (("site", site), ("farm", farm), *(("server", s) for s in servers)):
            names.check(name, what)
        with self.write():
            known = {
                row["server"]: (row["why"], row["since"])
                for row in self.connection.execute(
                    "SELECT * FROM quarantine WHERE site=? AND farm=?", (site, farm)
                )
            }
            self.connection.execute("DELETE FROM quarantine WHERE site=? AND farm=?", (site, farm))
            for server, why in servers.items():
                self.connection.execute(
                    "INSERT INTO quarantine VALUES (?, ?, ?, ?, ?)",
                    (site, farm, server, *known.get(server, (line(why), now))),
                )

    def quarantined(self, site: str | None = None) -> list[dict[str, Any]]:
        """The servers that are left out, of a site or of all: site, farm, server, why, since."""
        rows = self.connection.execute(
            "SELECT * FROM quarantine WHERE ? IS NULL OR site=? ORDER BY site, farm, server",
            (site, site),
        ).fetchall()
        return [dict(row) for row in rows]


def note(
    connection: sqlite3.Connection,
    what: str,
    who: str,
    why: str,
    data: Mapping[str, Any],
    now: float,
) -> None:
    """Write a decision within the transaction that does what it says."""
    connection.execute(
        "INSERT INTO records (at, who, what, why, data) VALUES (?, ?, ?, ?, ?)",
        (now, line(who), line(what), line(why), json.dumps(data, default=str)),
    )


def line(text: str) -> str:
    """Text from a node or a person in one line that is fit for a terminal, shortened."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def plain(row: sqlite3.Row, *packed: str) -> dict[str, Any]:
    """A row as data; the columns ``packed`` hold JSON."""
    data = dict(row)
    for key in packed:
        data[key] = json.loads(data[key]) if data[key] else None
    return data
