"""The exceptions of Webfarm, under one base."""

# a SaltException that Salt shows as `ERROR: message`; the base itself it shows as a traceback
try:
    from salt.exceptions import CommandExecutionError as _Base
except ImportError:  # the library also runs where Salt is not installed
    _Base = Exception  # type: ignore[assignment,misc]


class WebfarmError(_Base):  # type: ignore[misc]
    """Something could not be done; the message names the thing, what was seen and the remedy."""


class BadName(WebfarmError):
    """A name from outside that must not reach a socket, a path or a command."""


class BadTopology(WebfarmError):
    """The pillar ``webfarm`` has mistakes.

    mistakes
        One line each: the path in the pillar, what was found, what is allowed.
    """

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = list(mistakes)
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(
            f"the pillar `webfarm` has {count}:\n" + "\n".join(f"  {m}" for m in mistakes)
        )
