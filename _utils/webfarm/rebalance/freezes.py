"""Freezes: a person holds weights where they are, of a server, a farm or a site."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from webfarm.errors import WebfarmError
from webfarm.shape import shown

LONGEST = 366 * 86_400.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LENGTH = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


@dataclass(frozen=True)
class Freeze:
    """Who holds what, why, since when and until when (seconds since 1970; None: until thawed).

    farm, server
        None: all of the site's, all of the farm's.
    """

    site: str
    farm: str | None
    server: str | None
    reason: str
    holder: str
    since: float
    expires: float | None = None

    def lasts(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires

    def covers(self, site: str, farm: str) -> bool:
        """Whether it holds anything of that farm."""
        return self.site == site and self.farm in (None, farm)

    def meets(self, site: str, farm: str | None, server: str | None) -> bool:
        """Whether it holds anything of that site, farm or server."""
        return (
            self.site == site
            and (farm is None or self.farm in (None, farm))
            and (server is None or self.server in (None, server))
        )


def frozen(
    freezes: Iterable[Freeze], site: str, farm: str, servers: Iterable[str], now: float
) -> dict[str, str]:
    """The servers of a farm whose weights stay, each with the reason in words."""
    held: dict[str, str] = {}
    for freeze in freezes:
        if freeze.covers(site, farm) and freeze.lasts(now):
            for server in servers if freeze.server is None else (freeze.server,):
                held.setdefault(server, f"frozen by {freeze.holder}: {freeze.reason}")
    return held


def expiry(value: object, now: float) -> float | None:
    """When a freeze ends: None never, else ``90s``, ``30m``, ``2h`` or ``1d`` from ``now``."""
    if value is None:
        return None
    found = _LENGTH.fullmatch(value) if isinstance(value, str) else None
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST:
        raise WebfarmError(
            f"expires is {shown(value)}, expected a length of time such as 90s, 30m, 2h or 1d, at "
            "most 366d; nothing was changed"
        )
    return now + seconds
