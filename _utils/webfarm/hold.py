"""Refuse what a rollout that has lost its site still sends: the minion's side of a lease.

Every message of a rollout bears a hold, ``SITE:TOKEN.NUMBER``: each new holder of a site has a
higher token, and counts its messages. A minion remembers the newest that it was shown, and refuses
an older one, whether its holder was replaced or it was given up on and is merely late. A change is
made under a lock, which a newer message waits for. So what a rollout has looked at can no longer
be changed by anything that was sent before.

A minion that was cut off has not been shown the newest. So a change must also follow a look of the
same holder within ``FRESH_SECONDS``, by this machine's own clock: what the network kept for longer
is refused, whoever holds the site by then.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from webfarm import files, names
from webfarm.errors import WebfarmError

FOLDER = "/var/lib/webfarm/holds"
SEE_SECONDS = 10.0  # less than a rollout waits for the answer to a look
CHANGE_SECONDS = 90.0
FRESH_SECONDS = 20.0  # how long after a look a change may follow
_HOLD = re.compile(r"(.*):([1-9][0-9]{0,11})(?:\.(0|[1-9][0-9]{0,11}))?", re.ASCII | re.DOTALL)
_TOKEN = re.compile(r"[1-9][0-9]{0,11}")
_SEEN = re.compile(r"([0-9]{1,12})\.([0-9]{1,12})(?: ([0-9]{1,12}) ([0-9a-f-]{36}))?\n", re.ASCII)

Mark = tuple[int, int]  # token and number: what is compared


class BadHold(WebfarmError):
    """A hold that is not ``SITE:TOKEN.NUMBER``."""


class StaleHold(WebfarmError):
    """The message comes too late; nothing was changed."""


class StaleLook(StaleHold):
    """The change does not follow a look closely enough; nothing was changed."""


class Hold(NamedTuple):
    """What a message bears."""

    site: str
    mark: Mark


class Shown(NamedTuple):
    """What a minion was shown of a site: the newest message, and when its holder last looked."""

    mark: Mark = (0, 0)
    looked: float | None = None


def parse(text: object) -> Hold:
    """Read ``SITE:TOKEN.NUMBER``; without a number it is 0. Both have at most 12 digits."""
    found = _HOLD.fullmatch(text) if isinstance(text, str) and len(text) < 100 else None
    if not found:
        raise BadHold(f"hold {ascii(text)[:80]} is not SITE:TOKEN.NUMBER; nothing was changed")
    return Hold(names.check(found[1], "site"), (int(found[2]), int(found[3] or 0)))


def check(hold: Hold, newest: Mark) -> None:
    """Raise :class:`StaleHold` when a newer message than ``hold`` was seen."""
    if hold.mark >= newest:
        return
    site, (token, number) = hold
    if token == newest[0]:
        why = f"message {number} of the rollout {site}:{token} comes late, after {newest[1]}"
    else:
        why = f"the rollout {site}:{token} no longer holds {site}, {site}:{newest[0]} does"
    raise StaleHold(f"{why}; nothing was changed. `salt-run upgrade.status` names the holder")


def shown(before: Shown, hold: Hold, look: bool, now: float) -> Shown:
    """What was shown once this message has come; raises :class:`StaleHold` when it is late.

    A look counts when nothing newer, and not itself, has come before: one that is delivered again
    later says nothing of who holds the site then.
    """
    check(hold, before.mark)
    looked = before.looked if hold.mark[0] == before.mark[0] else None
    return Shown(hold.mark, now if look and hold.mark > before.mark else looked)


def check_look(hold: Hold, looked: float | None, now: float) -> None:
    """Raise :class:`StaleLook` when a change comes more than ``FRESH_SECONDS`` after the look."""
    if looked is not None and 0 <= now - looked <= FRESH_SECONDS:
        return
    ago = "never" if looked is None else f"{now - looked:.0f} s ago"
    raise StaleLook(
        f"the rollout {hold.site}:{hold.mark[0]} last looked here {ago}, and a change must follow"
        f" within {FRESH_SECONDS:.0f} s; nothing was changed. A rollout looks again before it asks"
        " again; by hand, leave `hold` out"
    )


def of(opts: Mapping[str, Any]) -> "Holds":
    """This minion's memory; ``webfarm_holds`` in its configuration moves the folder."""
    return Holds(opts.get("webfarm_holds", FOLDER))


class Holds:
    """What this minion remembers: in ``folder``, a file for each site with its highest token.

    A file that is missing counts as 0, as on a new server. One that holds something else is not
    guessed at, since that would let an older rollout in: all rollouts are refused until a person
    has deleted it. (No crash leaves such a file: it is replaced by rename(2) after fsync.) The
    newest message's number is in the lock's file, with the second and the boot of the last look;
    they need not outlive a power cut, which ends all that could be late.
    """

    def __init__(
        self,
        folder: str | Path = FOLDER,
        see_seconds: float = SEE_SECONDS,
        change_seconds: float = CHANGE_SECONDS,
    ) -> None:
        self.folder = Path(folder)
        self.see_seconds = see_seconds
        self.change_seconds = change_seconds

    def see(self, hold: str | None) -> None:
        """Check the hold of an observation, and remember it.

        Waits ``see_seconds`` for a change in progress to end. None, as in what an operator does by
        hand, is not checked. Raises :class:`StaleHold`.
        """
        with self._holding(hold, self.see_seconds, "an observation"):
            pass

    @contextlib.contextmanager
    def under(self, hold: str | None) -> Iterator[None]:
        """Make a change while this hold is the newest: nobody can take over before it is made.

        Killed, the process lets go. Raises :class:`StaleHold` before anything is changed, and its
        :class:`StaleLook` when the holder did not :meth:`see` within ``FRESH_SECONDS`` before.
        """
        with self._holding(hold, self.change_seconds, "a change", look=False):
            yield

    @contextlib.contextmanager
    def _holding(
        self, text: str | None, seconds: float, what: str, look: bool = True
    ) -> Iterator[None]:
        if text is None:
            yield
            return
        hold = parse(text)
        with contextlib.ExitStack() as stack:
            try:
                files.make_folder(self.folder.parent)
                self.folder.mkdir(mode=0o700, exist_ok=True)
                path = self.folder / f".{hold.site}.lock"
                lock = stack.enter_context(files.locked(path, seconds, f"{what} by {text}"))
                self._register(hold, lock, look)
            except OSError as error:
                raise WebfarmError(
                    f"{error.filename or self.folder} cannot be used ({error.strerror}), and no"
                    " rollout goes on without it; nothing was changed"
                ) from error
            yield

    def _register(self, hold: Hold, lock: int, look: bool) -> None:
        before = self._shown(hold.site, lock)
        now, boot = time.clock_gettime(time.CLOCK_BOOTTIME), _boot()
        after = shown(before, hold, look, int(now))
        if after.mark[0] > before.mark[0]:
            files.write_atomic(self.folder / hold.site, f"{after.mark[0]}\n", 0o600)
        if after.mark > before.mark:
            seen = "" if after.looked is None else f" {int(after.looked)} {boot}"
            text = f"{after.mark[0]}.{after.mark[1]}{seen}\n".encode()
            os.pwrite(lock, text, 0)
            os.ftruncate(lock, len(text))
        if not look:
            check_look(hold, after.looked, now)

    def _shown(self, site: str, lock: int) -> Shown:
        token = self._token(site)
        seen = _SEEN.fullmatch(os.pread(lock, 128, 0).decode("ascii", "replace"))
        if not seen or int(seen[1]) != token:
            return Shown((token, 0))
        looked = float(seen[3]) if seen[4] and seen[4] == _boot() else None
        return Shown((token, int(seen[2])), looked)

    def _token(self, site: str) -> int:
        path = self.folder / site
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return 0
        with open(descriptor, "rb") as stream:
            text = stream.read(64).decode("ascii", "replace").removesuffix("\n")
        if not _TOKEN.fullmatch(text):
            raise WebfarmError(
                f"{path} holds {ascii(text)[:40]}, expected the number of the newest rollout; find"
                f" out who wrote it, make sure with `salt-run upgrade.status` that one rollout at"
                f" most runs in {site}, then delete the file. Nothing was changed"
            )
        return int(text)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
