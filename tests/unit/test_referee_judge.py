"""The judge finds each broken promise for the right reason, and nothing in a clean log."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from referee.answer import Answer, Mark, Note, decode, decode_all, encode
from referee.judge import Breach, Judge
from referee.phases import Phases
from referee.releases import order_key
from referee.report import text
from referee.verdict import GUILTY, INNOCENT, TOO_LITTLE, Terms, Verdict, judge
from webfarm import releases

OLD, NEW = "2026.9.1", "2026.11.2"


def answer(count: int = 1, sent: float = 0.0, **changes: object) -> Answer:
    """One good answer to client c1 that took 0.1 s."""
    fields: dict[str, object] = {
        "client": "c1",
        "seq": 1,
        "sent": sent,
        "answered": sent + 0.1,
        "address": "10.77.100.11",
        "status": 200,
        "session": "s1",
        "count": count,
        "release": OLD,
        "site": "site1",
        "farm": "farm1",
        "server": "site1-farm1-ws1",
    }
    return Answer(**(fields | changes))  # type: ignore[arg-type]


def failure(sent: float = 0.0, kind: str = "500", **changes: object) -> Answer:
    """One failed answer that says nothing."""
    fields: dict[str, object] = {
        "session": "",
        "count": 0,
        "release": "",
        "kind": kind,
        "status": 500,
        "site": "",
        "farm": "",
        "server": "",
    }
    return answer(sent=sent, **(fields | changes))  # type: ignore[arg-type]


def breaches(*answers: Answer, **options: int) -> list[tuple[str, str]]:
    """What a judge finds in a log."""
    court = Judge(**options)
    return [(found.promise, found.kind) for one in answers for found in court.see(one)]


def found(*answers: Answer) -> list[Breach]:
    """The breaches themselves."""
    court = Judge()
    return [breach for one in answers for breach in court.see(one)]


def verdict(*entries: Answer | Mark | Note, **terms: object) -> Verdict:
    """The verdict on a log; one request is evidence enough."""
    fields: dict[str, object] = {"min_requests": 1}
    return judge(lambda: iter(entries), Terms(**(fields | terms)))  # type: ignore[arg-type]


# S1


def test_s1_an_older_release_after_a_newer_one_is_a_regression() -> None:
    log = (answer(1, 0, release=NEW), answer(2, 1, release=OLD))
    assert breaches(*log) == [("S1", "regression")]
    [breach] = found(*log)
    assert breach.earlier == log[0]
    assert "2026.9.1 of site1/farm1/site1-farm1-ws1 after 2026.11.2" in breach.text
    assert "0.90 s" in breach.text


def test_s1_a_newer_release_is_none() -> None:
    assert breaches(answer(1, 0, release=OLD), answer(2, 1, release=NEW)) == []


def test_s1_order_is_natural_not_alphabetical() -> None:
    assert breaches(answer(1, 0, release="2026.9.1"), answer(2, 1, release="2026.10.1")) == []


def test_s1_answers_that_overlap_are_not_in_order() -> None:
    new = answer(1, 1.0, release=NEW, parallel=True)
    old = answer(2, 0.9, release=OLD, parallel=True, answered=2.0)
    assert breaches(new, old) == []


def test_s1_an_overlap_with_the_newest_still_counts_what_was_in_hand_before() -> None:
    first = answer(1, 0.0, release="2", parallel=True)
    newest = answer(2, 1.0, release="3", parallel=True, answered=1.5)
    oldest = answer(3, 1.2, release="1", parallel=True, answered=2.0)
    [breach] = found(first, newest, oldest)
    assert (breach.promise, breach.earlier) == ("S1", first)


def test_s1_each_late_answer_of_the_old_release_is_counted() -> None:
    log = [answer(1, 0, release=NEW), *(answer(n, n, release=OLD) for n in range(2, 5))]
    assert breaches(*log) == [("S1", "regression")] * 3


def test_s1_another_session_may_be_answered_by_the_old_release() -> None:
    other = answer(1, 1, release=OLD, client="c2", session="s2")
    assert breaches(answer(1, 0, release=NEW), other) == []


def test_s1_a_session_that_was_replaced_still_binds() -> None:
    log = (answer(1, 0, release=NEW), answer(1, 1, release=OLD, session="s2"))
    assert breaches(*log) == [("S3", "lost"), ("S1", "regression")]


def test_s1_a_declared_reset_begins_anew() -> None:
    court = Judge(allow_resets=1)
    log = (
        answer(1, 0, release=NEW),
        answer(1, 1, release=OLD, session="s2"),
        answer(2, 2, release=OLD, session="s2"),
    )
    assert [breach for one in log for breach in court.see(one)] == []
    assert court.resets == 1


def test_s1_a_parallel_client_whose_sessions_may_be_reset_is_judged_by_session() -> None:
    log = (
        answer(1, 0, release=NEW, parallel=True),
        answer(1, 1, release=OLD, parallel=True, session="s2"),
        answer(1, 1, release=OLD, parallel=True, session="s3"),
        answer(2, 2, release=NEW, parallel=True, session="s3"),
        answer(3, 3, release=OLD, parallel=True, session="s3"),
    )
    assert breaches(*log, allow_resets=9) == [("S1", "regression")]
    assert len(breaches(*log)) == 3


def test_s1_more_resets_than_declared_are_lost_sessions() -> None:
    log = (answer(1, 0), answer(1, 1, session="s2"), answer(1, 2, session="s3"))
    assert breaches(*log, allow_resets=1) == [("S3", "lost")]


def test_s1_an_error_page_of_an_old_release_is_an_answer_too() -> None:
    log = (answer(1, 0, release=NEW), failure(1, release=OLD))
    assert breaches(*log) == [("S2", "500"), ("S1", "regression")]


# S2


@pytest.mark.parametrize("kind", ["500", "shed", "reset", "timeout", "connect", "tls", "malformed"])
def test_s2_a_failure_is_found_by_its_kind(kind: str) -> None:
    assert breaches(failure(kind=kind)) == [("S2", kind)]


# S3


def test_s3_a_counter_that_goes_back_is_rewound() -> None:
    assert breaches(*(answer(n, t) for t, n in enumerate((1, 2, 3, 3)))) == [("S3", "rewound")]


def test_s3_one_rewind_is_counted_once() -> None:
    counts = (1, 2, 3, 4, 5, 3, 4, 5)
    assert breaches(*(answer(n, t) for t, n in enumerate(counts))) == [("S3", "rewound")]


def test_s3_a_counter_that_begins_again_is_lost() -> None:
    assert breaches(*(answer(n, t) for t, n in enumerate((1, 2, 3, 1, 2)))) == [("S3", "lost")]


def test_s3_a_new_session_id_is_lost() -> None:
    assert breaches(answer(1, 0), answer(1, 1, session="s2"), answer(2, 2, session="s2")) == [
        ("S3", "lost")
    ]


def test_s3_a_counter_that_skips_is_ahead() -> None:
    assert breaches(answer(1, 0), answer(3, 1), answer(4, 2)) == [("S3", "ahead")]


def test_s3_a_first_answer_counts_one() -> None:
    assert breaches(answer(5)) == [("S3", "ahead")]


def test_s3_a_session_given_to_two_clients_is_shared() -> None:
    assert ("S3", "shared") in breaches(answer(1, 0), answer(1, 1, client="c2"))


@pytest.mark.parametrize("count", [3, 4])
def test_s3_a_failed_request_may_have_been_counted_or_not(count: int) -> None:
    log = (answer(1, 0), answer(2, 1), failure(2, "reset"), answer(count, 3))
    assert breaches(*log) == [("S2", "reset")]


@pytest.mark.parametrize(("count", "kind"), [(2, "rewound"), (5, "ahead")])
def test_s3_a_failed_request_excuses_no_more_than_itself(count: int, kind: str) -> None:
    log = (answer(1, 0), answer(2, 1), failure(2, "reset"), answer(count, 3))
    assert breaches(*log) == [("S2", "reset"), ("S3", kind)]


def test_s3_a_failed_request_may_be_counted_later() -> None:
    log = (answer(1, 0), failure(1, "timeout"), answer(2, 2), answer(4, 3), answer(6, 4))
    assert breaches(*log) == [("S2", "timeout"), ("S3", "ahead")]


def test_s3_a_request_that_was_never_sent_was_not_counted() -> None:
    log = (answer(1, 0), failure(1, "connect"), answer(3, 2))
    assert breaches(*log) == [("S2", "connect"), ("S3", "ahead")]


def test_s3_is_not_judged_for_parallel_clients() -> None:
    log = (answer(1, 0, parallel=True), answer(3, 1, parallel=True), answer(2, 1, parallel=True))
    assert breaches(*log) == []


# properties


@st.composite
def clean_logs(draw: st.DrawFn) -> list[Answer]:
    """Clients whose requests never overlap, some failing, releases rising."""
    log = []
    for client in range(draw(st.integers(1, 3))):
        time, count, release = draw(st.floats(0, 5)), 0, 1
        for seq in range(draw(st.integers(1, 15))):
            time += draw(st.floats(0.01, 2))
            release += draw(st.integers(0, 1))
            here = {"client": f"c{client}", "seq": seq, "answered": time + 0.005}
            if draw(st.integers(0, 4)) == 0:
                count += draw(st.integers(0, 1))
                log.append(failure(time, "reset", **here))
            else:
                count += 1
                log.append(answer(count, time, session=f"s{client}", release=f"r{release}", **here))
    return sorted(log, key=lambda one: one.answered)


@given(clean_logs())
def test_a_clean_log_has_nothing_but_its_failures(log: list[Answer]) -> None:
    failed = sum(bool(one.kind) for one in log)
    assert breaches(*log) == [("S2", "reset")] * failed


@given(clean_logs(), st.data())
def test_s1_any_good_answer_made_older_than_one_in_hand_is_found(
    log: list[Answer], data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(log) - 1))
    old = replace(log[at], release="r0") if not log[at].kind else log[at]
    older_in_hand = any(
        one.client == old.client and one.release and one.answered <= old.sent for one in log[:at]
    )
    found_at = [
        breach.answer for breach in found(*log[:at], old, *log[at + 1 :]) if breach.promise == "S1"
    ]
    assert found_at == ([old] if older_in_hand and not old.kind else [])


@given(clean_logs(), st.data())
def test_s3_any_counter_moved_back_past_all_doubt_is_found(
    log: list[Answer], data: st.DataObject
) -> None:
    good = [i for i, one in enumerate(log) if not one.kind]
    if not good:
        return
    at = data.draw(st.sampled_from(good))
    before = [one.count for one in log[:at] if one.client == log[at].client and not one.kind]
    moved = replace(log[at], count=data.draw(st.integers(0, before[-1] if before else 0)))
    kinds = [
        breach.kind
        for breach in found(*log[:at], moved)
        if breach.promise == "S3" and breach.answer is moved
    ]
    assert kinds in (["rewound"], ["lost"])
    assert (kinds == ["lost"]) == (moved.count == 1)


@given(clean_logs())
def test_the_log_on_disk_says_the_same(log: list[Answer]) -> None:
    read = list(decode_all(encode(one) for one in log))
    assert [replace(one, sent=0, answered=0) for one in read if isinstance(one, Answer)] == [
        replace(one, sent=0, answered=0) for one in log
    ]
    assert breaches(*(one for one in read if isinstance(one, Answer))) == breaches(*log)


@given(st.lists(st.from_regex(r"[a-z0-9]{1,4}(\.[0-9]{1,3}){0,3}", fullmatch=True), max_size=6))
def test_the_order_of_releases_is_the_clusters(names: list[str]) -> None:
    numeric = [name for name in names if name[0].isdigit() and name.replace(".", "").isdigit()]
    assert sorted(numeric, key=order_key) == sorted(numeric, key=releases.order_key)


# phases, evidence, text


def test_a_request_that_overlaps_a_phase_belongs_to_it() -> None:
    phases = Phases([Mark("upgrade-end", 20), Mark("upgrade-start", 10)])
    assert phases.names() == ["before", "upgrade", "after"]
    assert [phases.of(*when) for when in ((1, 2), (9, 11), (12, 13), (19, 25), (21, 22))] == [
        "before",
        "upgrade",
        "upgrade",
        "upgrade",
        "after",
    ]


def test_two_phases_have_a_time_between_them() -> None:
    marks = [Mark("a-start", 1), Mark("a-end", 2), Mark("b-start", 5)]
    phases = Phases(marks)
    assert phases.names() == ["before", "a", "between", "b", "after"]
    assert [phases.of(t, t) for t in (0, 1.5, 3, 7)] == ["before", "a", "between", "b"]


def test_without_marks_all_is_one_phase() -> None:
    assert Phases().names() == ["all"] and Phases().of(1, 2) == "all"


def test_enough_good_answers_are_innocent() -> None:
    result = verdict(*(answer(n, n) for n in range(1, 11)), min_requests=10)
    assert (result.code, result.data["broken"]) == (INNOCENT, [])


def test_too_few_answers_prove_nothing() -> None:
    assert verdict(answer(), min_requests=2).code == TOO_LITTLE


def test_a_phase_without_requests_proves_nothing() -> None:
    marks = (Mark("upgrade-start", 50), Mark("upgrade-end", 60))
    assert verdict(answer(1, 0), answer(2, 100), *marks).data["lacking"] == [
        "no request during upgrade"
    ]


def test_a_breach_is_guilty_however_little_was_seen() -> None:
    result = verdict(failure(), min_requests=1000)
    assert (result.code, result.data["broken"]) == (GUILTY, ["S2"])


def test_a_promise_that_is_not_judged_is_counted_and_not_guilty() -> None:
    result = verdict(answer(), failure(1), promises=("S1", "S3"))
    assert result.code == INNOCENT
    assert result.data["promises"]["S2"]["breaches"] == 1


def test_failures_are_counted_by_phase() -> None:
    log = (answer(1, 0), failure(11), failure(12, "reset"), answer(2, 30))
    marks = (Mark("upgrade-start", 10), Mark("upgrade-end", 20))
    data = verdict(*log, *marks).data
    assert data["promises"]["S2"]["phases"] == {"upgrade": 2}
    assert data["phases"]["upgrade"]["failures"] == {"500": 1, "reset": 1}
    assert data["phases"]["before"]["failed"] == data["phases"]["after"]["failed"] == 0


def test_moves_and_shares_are_counted() -> None:
    log = (
        answer(1, 0),
        answer(2, 1, farmid="site1:farm1:1"),
        answer(3, 2, server="site1-farm1-ws2", farmid="site1:farm1:1"),
        answer(4, 3, farm="farm2", server="site1-farm2-ws1", farmid="site1:farm1:1"),
        answer(5, 4, site="site2", server="site2-farm1-ws1"),
    )
    data = verdict(*log).data
    assert data["moves"]["farms"] == {"site1/farm1 -> site1/farm2": 1}
    assert data["moves"]["sites"] == {"site1 -> site2": 1}
    farm1 = data["farms"]["site1/farm1"]
    assert farm1["servers"] == {"site1-farm1-ws1": 2, "site1-farm1-ws2": 1}
    assert (farm1["evenness"], farm1["sticky_evenness"]) == (1.333, 1.0)
    assert data["farms"]["site1/farm2"]["sticky"] == {}


def test_latency_is_by_nearest_rank_and_without_slow_requests() -> None:
    log = [answer(n, n, answered=n + n / 1000) for n in range(1, 101)]
    data = verdict(*log, answer(101, 200, answered=202.5, slow=2000)).data["phases"]["all"]
    assert (data["p50_ms"], data["p99_ms"], data["max_ms"]) == (50.0, 99.0, 100.0)
    assert data["longest_ms"] == 500.0


def test_the_text_names_the_promise_and_shows_the_answers() -> None:
    log = (answer(1, 0, release=NEW), answer(2, 1, release=OLD), Note(2, {"ended": True}))
    shown = text(verdict(*log).data)
    assert "S1 monotone  broken: regression 1" in shown
    assert "S2 lossless  kept" in shown
    assert "00:00:01.000Z +0.100s c1#1 GET status=200 session=s1 count=2 release=2026.9.1" in shown
    assert shown.endswith("verdict: guilty (S1)\n")


def test_a_line_still_being_written_is_left_out() -> None:
    whole, half = encode(answer(1)), encode(answer(2))[:20]
    assert len(list(decode_all([whole, half]))) == 1


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", '{"mark": "x"}', '{"client": "c", "nose": 1}', "x"]
)
def test_what_is_no_line_of_the_log_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a line"):
        decode(line)
