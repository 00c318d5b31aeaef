"""The machine beneath a web server: its boot, its services, a reboot that is answered first.

Effects go through ``run``, which is given a command as a list of words and returns what it printed;
it raises :class:`WebfarmError` for a command that fails.
"""

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from webfarm.errors import WebfarmError

OURS = ("nginx", "webfarm-php-fpm", "memcached")  # what a web server must run
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DELAY_SECONDS = 2  # until the answer has left
TIMER = "webfarm-reboot"
MOST_UNITS = 50
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]{0,127}", re.ASCII)
_BOOT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

Run = Callable[[Sequence[str]], str]


def boot_id(path: Path = BOOT_ID) -> str:
    """The identity of this boot; another one after each."""
    return path.read_text(encoding="ascii").strip()


def run(command: Sequence[str], seconds: float = 100.0) -> str:
    """What the command printed."""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, timeout=seconds, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WebfarmError(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        said = " / ".join(line for line in done.stderr.splitlines() if line)[-500:]
        raise WebfarmError(
            f"`{' '.join(command)}` failed ({done.returncode}): {said or 'silently'}"
        )
    return done.stdout


def check_units(units: object, default: Sequence[str] = OURS) -> list[str]:
    """Names of services that are safe in a command; None is all of ours."""
    if units is None:
        return list(default)
    if isinstance(units, str) or not isinstance(units, Sequence) or len(units) > MOST_UNITS:
        raise WebfarmError(f"units is {units!a:.80}, expected a list; nothing was restarted")
    for unit in units:
        if not isinstance(unit, str) or not _UNIT.fullmatch(unit):
            raise WebfarmError(f"unit {unit!a:.80} is no name of a service; nothing was restarted")
    return list(dict.fromkeys(units))


def failed(units: Sequence[str], run: Run = run) -> list[str]:
    """Those of the units that are installed and do not run, as systemd says."""
    out = []
    for unit in units:
        said = run(["systemctl", "show", "--property=LoadState,ActiveState", "--", _service(unit)])
        state = dict(line.partition("=")[::2] for line in said.splitlines())
        if state.get("LoadState") == "loaded" and state.get("ActiveState") not in (
            *("active", "reloading"),
        ):
            out.append(unit)
    return out


def restart(units: Sequence[str], run: Run = run) -> list[str]:
    """Restart the units that are there, and prove that they run; gives those."""
    there = [
        unit
        for unit in units
        if "LoadState=loaded"
        in run(["systemctl", "show", "--property=LoadState", "--", _service(unit)])
    ]
    if there:
        names = [_service(unit) for unit in there]
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "reset-failed", "--", *names])
        run(["systemctl", "restart", "--", *names])
    if dead := failed(there, run):
        raise WebfarmError(f"{', '.join(dead)} did not start again; see `journalctl -u {dead[0]}`")
    return there


def reboot(
    expected: object, run: Run = run, boot: Callable[[], str] = boot_id
) -> dict[str, object]:
    """Reboot a moment later, so that this is answered; not when it was done already.

    expected
        The boot in which it was asked for; None: this one. In another one nothing is done, so a
        message that comes twice, or late, does not reboot twice.
    """
    if expected is not None and not (isinstance(expected, str) and _BOOT.fullmatch(expected)):
        raise WebfarmError(f"boot_id is {expected!a:.60}, expected that of a boot")
    now = boot()
    if expected is not None and expected != now:
        return {"boot_id": now, "reboots": False}
    run(  # a timer of systemd's own: it outlives the minion's job
        [
            "systemd-run",
            f"--unit={TIMER}-{now[:8]}",
            f"--on-active={DELAY_SECONDS}s",
            "--timer-property=AccuracySec=100ms",
            "--collect",
            "--",
            "systemctl",
            "reboot",
        ]
    )
    return {"boot_id": now, "reboots": True}


def _service(unit: str) -> str:
    return unit if "." in unit else f"{unit}.service"
