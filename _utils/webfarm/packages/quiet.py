"""Keep Debian's packages from starting and restarting services while they are installed.

Their scripts ask ``/usr/sbin/policy-rc.d`` first (invoke-rc.d(8), deb-systemd-invoke(1p)). Ours
forbids everything while a lock is held that the installing process and its children have open. So
it forbids nothing any more once they have ended, also when they were killed.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from webfarm import files

POLICY = Path("/usr/sbin/policy-rc.d")
LOCK = Path("/run/webfarm-packages.lock")
_MARK = "# Webfarm: no service is touched while it installs packages"
_WAIT_SECONDS = 5.0


def _script(lock: Path, saved: Path) -> str:
    return (
        f"#!/bin/sh\n{_MARK}\n"
        f"flock --nonblock {lock} true || exit 101\n"
        f'if [ -x {saved} ]; then exec {saved} "$@"; fi\nexit 0\n'
    )


@contextlib.contextmanager
def services(policy: Path = POLICY, lock: Path = LOCK) -> Iterator[int]:
    """No service is started or stopped meanwhile; yields the lock's descriptor, for the children.

    Another policy that is there is put aside, and back afterwards. One of ours that a power cut
    left is taken away.
    """
    saved = policy.with_name(policy.name + ".webfarm-saved")
    with files.locked(lock, _WAIT_SECONDS, "an installation of packages") as descriptor:
        _put_back(policy, saved)
        if policy.exists():
            os.rename(policy, saved)
        try:
            files.write_atomic(policy, _script(lock, saved), 0o755)
            yield descriptor
        finally:
            _put_back(policy, saved)


def _put_back(policy: Path, saved: Path) -> None:
    """Take our own policy away, and put another one back."""
    with contextlib.suppress(FileNotFoundError):
        if _MARK in policy.read_text(errors="replace"):
            policy.unlink()
    if saved.exists() and not policy.exists():
        os.rename(saved, policy)
