"""Order releases as PHP's ``strnatcmp`` does, independently of the cluster's own code."""

import re
from functools import cache

Key = tuple[tuple[int, int], ...]


@cache
def order_key(name: str) -> Key:
    """A sort key: runs of digits compare as numbers, and where a text's ``0`` would stand."""
    return tuple(
        (ord("0"), int(part)) if part.isdigit() else (ord(part), 0)
        for part in re.findall(r"[0-9]+|[^0-9]", name)
    )
