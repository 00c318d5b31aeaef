"""Write a verdict as text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .verdict import PROMISES


def text(data: dict[str, Any]) -> str:
    """The verdict for a reader: what was seen, what was broken, the verdict last."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: dict[str, Any]) -> Iterator[str]:
    methods = ", ".join(f"{n} {method}" for method, n in data["methods"].items())
    yield (
        f"{data['requests']} requests of {data['clients']} clients, {data['sessions']} sessions: "
        f"{methods}; {data['slow']} slow, {data['new_connections']} on new connections"
    )
    yield from _traffic(data["traffic"])
    yield ""
    yield from _table(
        ["phase", "seconds", "requests", "per s", "failed", "p50 ms", "p99 ms", "max ms"],
        [
            [
                name,
                *(spell[key] for key in ("seconds", "requests", "rate", "failed")),
                *(spell[key] for key in ("p50_ms", "p99_ms", "max_ms")),
            ]
            for name, spell in data["phases"].items()
        ],
    )
    yield ""
    yield from _table(
        ["served by", "requests", "releases", "servers (share)", "max/mean"],
        [
            [name, farm["requests"], _counts(farm["releases"]), _shares(farm), farm["evenness"]]
            for name, farm in data["farms"].items()
        ],
    )
    yield ""
    for what, moves in data["moves"].items():
        yield f"moves between {what}: {_counts(moves) or 'none'}"
    if data["resets"]:
        yield f"sessions reset as declared: {data['resets']}"
    yield ""
    yield from _promises(data)


def _promises(data: dict[str, Any]) -> Iterator[str]:
    for promise, name in PROMISES.items():
        finding = data["promises"][promise]
        word = "broken" if finding["breaches"] else "kept"
        if not finding["judged"]:
            word = f"{word} (not judged)"
        detail = f": {_counts(finding['kinds'])}; {_counts(finding['phases'])}" * bool(
            finding["breaches"]
        )
        yield f"{promise} {name:<9} {word}{detail}"
        for example in finding["examples"]:
            yield f"    {example['kind']}: {example['text']}"
            for title in ("earlier", "answer"):
                if example[title]:
                    yield f"      {title:<8}{_answer(example[title])}"
    yield ""
    reason = ", ".join(data["broken"]) or "; ".join(data["lacking"])
    yield f"verdict: {data['verdict']}" + (f" ({reason})" if reason else "")


def _answer(answer: dict[str, Any]) -> str:
    sent, took = answer["sent"], answer["answered"] - answer["sent"]
    clock = time.strftime("%H:%M:%S", time.gmtime(sent)) + f"{sent % 1:.3f}"[1:]
    keys = ("status", "session", "count", "release", "site", "farm", "server", "farmid", "address")
    seen = " ".join(f"{key}={answer[key]}" for key in keys if key in answer)
    return (
        f"{clock}Z +{took:.3f}s {answer['client']}#{answer.get('seq', 0)} {answer['method']} {seen}"
    )


def _traffic(note: dict[str, Any]) -> Iterator[str]:
    if not note:
        return
    state = "ended" if note.get("ended") else "not ended"
    yield (
        f"traffic {state}: {note.get('cpu_percent', 0)} % of a core, stalled at most "
        f"{note.get('stall_ms', 0)} ms, {note.get('late', 0)} late or without an idle client"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _shares(farm: dict[str, Any]) -> str:
    total = max(1, farm["requests"])
    return ", ".join(f"{server} {100 * n / total:.1f} %" for server, n in farm["servers"].items())


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
