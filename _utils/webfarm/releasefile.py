"""``/etc/webfarm/releases.php``: which release a pair of PHP and webapp is, for the server's guard.

It returns ``['8.2.36+2' => '2026.11.2', …]``. Highstate writes it from the pillar, and staging
a release adds its pair.
"""

import re
from pathlib import Path

from webfarm import files, names, releases
from webfarm.errors import WebfarmError

NAME = "releases.php"
_LOCK_SECONDS = 30.0
_ENTRY = re.compile(r"""(['"])([^'"\\]+)\1\s*=>\s*(['"])([^'"\\]+)\3""")
_HEAD = "<?php\nreturn [\n"


class NameInUse(WebfarmError):
    """A release would get another name or another content while this server runs it."""


def read(path: Path) -> dict[str, str]:
    """The pairs and their releases; what is not a pair of names is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    return {
        pair: release
        for _, pair, _, release in _ENTRY.findall(text)
        if _is_pair(pair) and names.problem(release) is None
    }


def add(path: Path, php: str, webapp: str, release: str, active: str | None) -> bool:
    """Enter a pair under its release; True when the file changed.

    active
        The pair that this server has in use: its name must not change under it, else the balancers'
        fence would take the server out of service.

    A release is one pair: another pair of the same name is taken out.
    """
    pair = releases.pair(names.check(php, "php version"), names.check(webapp, "webapp version"))
    names.check(release, "release")
    with files.locked(path.with_name(f".{path.name}.lock"), _LOCK_SECONDS, f"writing {path}"):
        known = read(path)
        wanted = {p: r for p, r in known.items() if r != release} | {pair: release}
        if wanted == known:
            return False
        if active in known and wanted.get(active) != known[active]:
            raise NameInUse(
                f"this server runs {active} as release {known[active]}; staging {pair} as"
                f" {release} would change what that name means. Nothing was changed: give the new"
                " pair a new release name in the pillar"
            )
        files.write_atomic(path, render(wanted))
    return True


def render(entries: dict[str, str]) -> str:
    """The file's text: the same bytes as the state ``php`` writes for the same releases."""
    lines = [
        f"    '{pair}' => '{release}',\n"
        for pair, release in sorted(entries.items(), key=lambda e: e[1].lower())
    ]
    return f"{_HEAD}{''.join(lines)}];\n"


def _is_pair(text: str) -> bool:
    php, plus, webapp = text.partition("+")
    return bool(plus) and names.problem(php) is None and names.problem(webapp) is None
