"""Decide whether a name from outside may be used in a command, a path or a map."""

import re

from webfarm.errors import BadName

MAX_LENGTH = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def problem(value: object) -> str | None:
    """Say what is wrong with ``value`` as a name, or None when it is one."""
    if not isinstance(value, str):
        return f"is {type(value).__name__}, expected text"
    if not value:
        return "is empty"
    if len(value) > MAX_LENGTH:
        return f"has {len(value)} characters, at most {MAX_LENGTH} are allowed"
    if ".." in value:
        return "contains '..'"
    if not _NAME.fullmatch(value):
        return "must match [A-Za-z0-9][A-Za-z0-9_.-]*"
    return None


def check(value: object, what: str) -> str:
    """Return ``value`` when it is a safe name.

    what
        What the name stands for, for the message: ``server``, ``farm``, ``version`` …

    Raises :class:`webfarm.errors.BadName`; a long value is shortened in the message.
    """
    fault = problem(value)
    if fault is None:
        assert isinstance(value, str)
        return value
    shown = ascii(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    raise BadName(f"{what} name {shown} {fault}; nothing was changed")
