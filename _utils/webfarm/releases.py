"""Order releases by their names, as PHP's ``strnatcmp`` does on the servers."""

import re

OrderKey = tuple[tuple[int, int, str], ...]


def order_key(name: str) -> OrderKey:
    """A sort key: runs of digits compare as numbers, all else as text.

    ``2026.9.1 < 2026.11.1 < 2026.11.2``
    """
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    )


def pair(php: str, webapp: str) -> str:
    """What a server runs, as one word: ``8.2.36+2``."""
    return f"{php}+{webapp}"
