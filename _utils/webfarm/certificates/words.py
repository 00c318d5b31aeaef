"""What the words of a package set name; pure."""

import re

_GENTOO_VERSION = re.compile(r"-([0-9][0-9A-Za-z._]*(?:-r[0-9]+)?)$")


def named(word: str) -> tuple[str, str | None]:
    """The package that a word names, and the version that it asks for.

    >>> named("nginx=1.22.1-9"), named("=www-servers/nginx-1.26.2-r1:0"), named("dev-lang/php:8.2")
    (('nginx', '1.22.1-9'), ('www-servers/nginx', '1.26.2-r1'), ('dev-lang/php', None))
    """
    if "/" not in word:
        name, _, version = word.partition("=")
        return name, version or None
    atom = word.partition(":")[0]
    if not atom.startswith("="):
        return atom, None
    found = _GENTOO_VERSION.search(atom)
    return (atom[1:], None) if found is None else (atom[1 : found.start()], found[1])


def base(package: str) -> str:
    """A package's name without what follows a colon: an architecture or a slot."""
    return package.partition(":")[0]
