"""Read the package set that an operator asks for; pure.

A set is a tuple of words. Debian's are ``name`` or ``name=version``; Gentoo's are atoms:
``category/name``, ``=category/name-version``, either with ``:slot``.
"""

import re
from collections.abc import Sequence

from webfarm.errors import WebfarmError

MOST_WORDS = 500
LONGEST_WORD = 200
# apt reads `name-` as "remove it"
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](=[0-9][A-Za-z0-9.+~:-]*)?", re.ASCII)
_CATEGORY_AND_NAME = r"[A-Za-z0-9_][A-Za-z0-9+_.-]*/[A-Za-z0-9_][A-Za-z0-9+_-]*"
_SLOT = r"(:[A-Za-z0-9_][A-Za-z0-9+_.-]*)?"
_VERSION = r"[0-9]+(\.[0-9]+)*[a-z]?(_(alpha|beta|pre|rc|p)[0-9]*)*(-r[0-9]+)?"
_GENTOO = re.compile(
    rf"({_CATEGORY_AND_NAME}|={_CATEGORY_AND_NAME}-{_VERSION}){_SLOT}",
    re.ASCII,
)


def wanted(value: object, what: str = "packages") -> tuple[str, ...]:
    """The words of a package set, sorted, each once.

    value
        A list of words, or one string of words between commas or spaces, as Salt's command line
        hands it over.

    Raises :class:`WebfarmError` that shows the first word that is none.
    """
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not words:
        raise WebfarmError(
            f"{what} is {_shown(value)}, expected packages: {what}='[openssl, nginx=1.22.1-9]'; "
            "nothing was changed"
        )
    if len(words) > MOST_WORDS:
        raise WebfarmError(
            f"{what} has {len(words)} words, at most {MOST_WORDS} are taken; nothing was changed"
        )
    for word in words:
        if not is_wanted(word):
            raise WebfarmError(
                f"{what}: {_shown(word)} is no package; expected name or name=version (Debian), "
                "category/name or =category/name-version (Gentoo); nothing was changed"
            )
    return tuple(sorted(set(words)))


def is_wanted(word: object) -> bool:
    """``word`` names a package, in Debian's way or in Gentoo's."""
    if not isinstance(word, str) or len(word) > LONGEST_WORD or ".." in word:
        return False
    return bool(_DEBIAN.fullmatch(word) or _GENTOO.fullmatch(word))


def without_version(word: str) -> str:
    """The package's name in one of Gentoo's words (without a slot) or Debian's."""
    if word.startswith("="):
        return re.sub(rf"-{_VERSION}$", "", word[1:])
    return word.partition("=")[0]


def _shown(value: object) -> str:
    try:
        text = ascii(value)
    except ValueError:  # Python does not write an integer of more than 4300 digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
