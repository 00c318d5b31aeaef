"""Read a log to the end and say whether the cluster kept its promises."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .answer import Answer, Entry, Mark, Note
from .judge import Breach, Judge
from .phases import Phases
from .tally import Tally

PROMISES = {"S1": "monotone", "S2": "lossless", "S3": "sessions"}
INNOCENT, GUILTY, TOO_LITTLE = 0, 1, 2
WORDS = {INNOCENT: "innocent", GUILTY: "guilty", TOO_LITTLE: "too little evidence"}


@dataclass(frozen=True)
class Terms:
    """What is judged, and how much must have been seen.

    min_requests
        Fewer requests than this are no proof of innocence; a marked phase must have some too.
    """

    promises: Sequence[str] = tuple(PROMISES)
    allow_resets: int = 0
    min_requests: int = 1000
    examples: int = 5


@dataclass(frozen=True)
class Verdict:
    """The outcome; ``data`` is all of it as plain values."""

    code: int
    data: dict[str, Any]


def judge(read: Callable[[], Iterable[Entry]], terms: Terms) -> Verdict:
    """Judge a log.

    read
        Gives the log's entries from the beginning; it is called twice, to know all marks first.
    """
    marks, note = _around(read())
    phases = Phases(marks)
    tally, court = Tally(phases), Judge(terms.allow_resets)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    by_phase: dict[str, Counter[str]] = defaultdict(Counter)
    examples: dict[str, list[Breach]] = defaultdict(list)
    for entry in read():
        if not isinstance(entry, Answer):
            continue
        tally.add(entry)
        for breach in court.see(entry):
            counts[breach.promise][breach.kind] += 1
            by_phase[breach.promise][phases.of(entry.sent, entry.answered)] += 1
            if counts[breach.promise][breach.kind] <= terms.examples:
                examples[breach.promise].append(breach)
    broken = [promise for promise in terms.promises if counts[promise]]
    lacking = _lacking(tally, terms)
    code = GUILTY if broken else TOO_LITTLE if lacking else INNOCENT
    return Verdict(
        code,
        {
            "verdict": WORDS[code],
            "broken": broken,
            "lacking": lacking,
            "promises": {
                promise: {
                    "judged": promise in terms.promises,
                    "breaches": counts[promise].total(),
                    "kinds": dict(counts[promise].most_common()),
                    "phases": dict(by_phase[promise]),
                    "examples": [_example(breach) for breach in examples[promise]],
                }
                for promise in PROMISES
            },
            "clients": court.clients,
            "sessions": court.sessions,
            "resets": court.resets,
            **tally.data(),
            "marks": [asdict(mark) for mark in phases.marks],
            "traffic": note,
        },
    )


def _around(entries: Iterable[Entry]) -> tuple[list[Mark], dict[str, Any]]:
    marks: list[Mark] = []
    note: dict[str, Any] = {}
    for entry in entries:
        if isinstance(entry, Mark):
            marks.append(entry)
        elif isinstance(entry, Note):
            note |= entry.note
    return marks, note


def _lacking(tally: Tally, terms: Terms) -> list[str]:
    lacking = []
    if tally.requests < terms.min_requests:
        lacking.append(f"{tally.requests} requests, at least {terms.min_requests} are needed")
    for span in tally.phases.spans:
        if not tally.spells[span.name].requests:
            lacking.append(f"no request during {span.name}")
    return lacking


def _example(breach: Breach) -> dict[str, Any]:
    return {
        "kind": breach.kind,
        "text": breach.text,
        "client": breach.answer.client,
        "answer": _brief(breach.answer),
        "earlier": None if breach.earlier is None else _brief(breach.earlier),
    }


def _brief(answer: Answer) -> dict[str, Any]:
    return {
        name: value
        for name, value in asdict(answer).items()
        if name in ("sent", "answered") or value not in ("", 0, False)
    }
