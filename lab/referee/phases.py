"""Divide the log's time by its marks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .answer import Mark

START, END = "-start", "-end"


@dataclass(frozen=True)
class Phase:
    """A span of time that two marks enclose; it has not ended yet when ``end`` is infinite."""

    name: str
    start: float
    end: float = float("inf")


class Phases:
    """Say in which phase a request was.

    A request that overlaps a marked phase belongs to it, so that none which the event could have
    hurt is counted as before or after. The times around are ``before``, ``between`` and ``after``;
    without marks all is ``all``.
    """

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self.marks = sorted(marks, key=lambda mark: mark.at)
        self.spans: list[Phase] = []
        started: dict[str, float] = {}
        for mark in self.marks:
            if mark.mark.endswith(START):
                started.setdefault(mark.mark.removesuffix(START), mark.at)
            elif mark.mark.endswith(END):
                name = mark.mark.removesuffix(END)
                if name in started:
                    self.spans.append(Phase(name, started.pop(name), mark.at))
        self.spans += [Phase(name, at) for name, at in started.items()]
        self.spans.sort(key=lambda span: span.start)

    def names(self) -> list[str]:
        """All phases in the order of time."""
        if not self.spans:
            return ["all"]
        names = ["before"]
        for index, span in enumerate(self.spans):
            if index and "between" not in names:
                names.append("between")
            if span.name not in names:
                names.append(span.name)
        return [*names, "after"]

    def of(self, sent: float, answered: float) -> str:
        """The phase of a request."""
        if not self.spans:
            return "all"
        for span in self.spans:
            if sent <= span.end and answered >= span.start:
                return span.name
        if answered < self.spans[0].start:
            return "before"
        return "after" if sent > max(span.end for span in self.spans) else "between"
