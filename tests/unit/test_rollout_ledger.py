"""The ledger: decisions with who, when and why; bad releases; servers that are left out."""

import pytest
from webfarm.errors import WebfarmError
from webfarm.rollout.journal import Journal, connect
from webfarm.rollout.ledger import line


@pytest.fixture
def journal() -> Journal:
    return Journal(connect(":memory:"))


def test_decisions_are_listed_newest_first(journal: Journal) -> None:
    journal.record("override", "alice", "the shop is closed", {"run": 1}, 1.0)
    journal.record("unlock", "bob", "its machine is gone", {"site": "site1"}, 2.0)
    assert [r["what"] for r in journal.records()] == ["unlock", "override"]
    assert journal.records(1) == [
        {
            "id": 2,
            "at": 2.0,
            "who": "bob",
            "what": "unlock",
            "why": "its machine is gone",
            "data": {"site": "site1"},
        }
    ]


def test_a_bad_release_is_marked_and_unmarked_with_who_and_why(journal: Journal) -> None:
    journal.mark_bad("2026.11.2", "alice", "answers 500", 1.0)
    journal.mark_bad("2026.11.2", "bob", "answers 500\nand is slow", 2.0)
    assert journal.bad() == {
        "2026.11.2": {"who": "bob", "why": "answers 500 and is slow", "at": 2.0}
    }
    with pytest.raises(WebfarmError, match=r"2026\.11\.3 is not marked.*2026\.11\.2"):
        journal.unmark_bad("2026.11.3", "bob", "typing error", 3.0)
    journal.unmark_bad("2026.11.2", "bob", "it was the database", 3.0)
    assert journal.bad() == {}
    assert [(r["what"], r["who"]) for r in journal.records()] == [
        ("good", "bob"),
        ("bad", "bob"),
        ("bad", "alice"),
    ]


@pytest.mark.parametrize("why", ["", "  ", "\x00\x1b", None, 7, ["because"], "x" * 501])
def test_a_mark_without_a_reason_is_refused(journal: Journal, why: str) -> None:
    with pytest.raises(WebfarmError, match="reason"):
        journal.mark_bad("2026.11.2", "alice", why, 1.0)
    journal.mark_bad("2026.11.2", "alice", "slow", 1.0)
    with pytest.raises(WebfarmError, match="reason"):
        journal.unmark_bad("2026.11.2", "alice", why, 2.0)
    assert set(journal.bad()) == {"2026.11.2"}


def test_names_that_are_none_are_not_written(journal: Journal, hostile_name: str) -> None:
    with pytest.raises(WebfarmError):
        journal.mark_bad(hostile_name, "alice", "slow", 1.0)
    for site, farm, server in (
        (hostile_name, "farm1", "ws1"),
        ("site1", hostile_name, "ws1"),
        ("site1", "farm1", hostile_name if hostile_name != ["farm1"] else ""),
    ):
        with pytest.raises(WebfarmError):
            journal.quarantine(site, farm, {server: "sick"}, 1.0)
    assert (journal.bad(), journal.quarantined(), journal.records()) == ({}, [], [])


def test_a_farms_quarantine_is_replaced_and_keeps_the_first_reason(journal: Journal) -> None:
    journal.quarantine("site1", "farm1", {"ws1": "php-fpm does not start", "ws2": "sick"}, 1.0)
    journal.quarantine("site1", "farm2", {"ws5": "sick"}, 2.0)
    journal.quarantine("site2", "farm1", {"ws9": "sick"}, 2.0)
    journal.quarantine("site1", "farm1", {"ws1": "shows 2026.11.1", "ws3": "silent"}, 3.0)
    found = [(q["farm"], q["server"], q["why"], q["since"]) for q in journal.quarantined("site1")]
    assert found == [
        ("farm1", "ws1", "php-fpm does not start", 1.0),
        ("farm1", "ws3", "silent", 3.0),
        ("farm2", "ws5", "sick", 2.0),
    ]
    assert len(journal.quarantined()) == 4
    journal.quarantine("site1", "farm1", {}, 4.0)
    assert [q["server"] for q in journal.quarantined()] == ["ws5", "ws9"]


def test_what_a_node_says_fits_in_one_line_of_a_terminal(journal: Journal) -> None:
    said = "Traceback:\n\tboom\x1b]0;evil\x07\u202e\ud800" + "x" * 10_000
    journal.quarantine("site1", "farm1", {"ws1": said}, 1.0)
    (left_out,) = journal.quarantined()
    assert left_out["why"].startswith("Traceback: boom ]0;evil xxx")
    assert len(left_out["why"]) == 500
    assert left_out["why"].isprintable()


def test_a_short_line_stays_as_it_is() -> None:
    assert line("größer als 5 % — naïve") == "größer als 5 % — naïve"
