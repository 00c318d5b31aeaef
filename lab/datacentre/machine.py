"""A node as a machine: its disk, booted in a container of its own."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from . import cgroup, disks, network
from .places import PREFIX, STATE, root
from .terminal import LabError, run, wait_until

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LANG": "C.UTF-8",
}
NSPAWN = Path("/run/systemd/nspawn")
REBOOT = 133
"""systemd-nspawn's exit code when the machine inside wants to be started again."""

BOOT_SECONDS = 300
STOP_SECONDS = 120


def machine(node: str) -> str:
    return f"{PREFIX}{node}"


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            yield int(entry.name), [word.decode(errors="replace") for word in words]


def containers() -> dict[str, list[int]]:
    """Machine name -> the processes that keep it up, of any lab on this host."""
    found: dict[str, list[int]] = {}
    for pid, words in _processes():
        if words[0] == "sh" and len(words) > 3 and words[3].startswith(PREFIX):
            found.setdefault(words[3], []).append(pid)
        elif words[0].endswith("systemd-nspawn"):
            for word in words:
                if word.startswith(f"--machine={PREFIX}"):
                    found.setdefault(word.partition("=")[2], []).append(pid)
    return found


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _inits(supervisors: Sequence[int]) -> list[int]:
    found = []
    for supervisor in supervisors:
        for child in _children(supervisor):
            try:
                status = Path(f"/proc/{child}/status").read_text()
            except OSError:
                continue
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:"))
            if numbers.split()[-1] == "1":
                found.append(child)
    return found


def _remembered(node: str) -> Path:
    return STATE / "pids" / node


def init(node: str) -> int | None:
    """The host's process id of the node's PID 1; None when the node is off."""
    try:
        pid, supervisor = (int(word) for word in _remembered(node).read_text().split())
    except (OSError, ValueError):
        pid = supervisor = 0
    if pid and pid in _children(supervisor):
        words = Path(f"/proc/{supervisor}/cmdline").read_bytes().split(b"\0")
        if f"--machine={machine(node)}".encode() in words:
            return pid
    supervisors = containers().get(machine(node), [])
    inits = _inits(supervisors)
    if not inits:
        return None
    parent = next(s for s in supervisors if inits[0] in _children(s))
    _remembered(node).parent.mkdir(parents=True, exist_ok=True)
    _remembered(node).write_text(f"{inits[0]} {parent}\n")
    return inits[0]


def need_init(node: str) -> int:
    pid = init(node)
    if pid is None:
        raise LabError(f"node {node} is off; start it with: lab/lab fault start {node}")
    return pid


def power_on(node: str) -> None:
    """Start the container; it boots in the background."""
    if not root(node).is_dir():
        raise LabError(f"node {node} has no disk; build a lab with: lab/lab down && lab/lab up")
    _stranded(node).unlink(missing_ok=True)
    console = STATE / "console" / f"{node}.log"
    console.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "systemd-nspawn",
        "--quiet",
        *disks.inside(node),
        f"--machine={machine(node)}",
        f"--hostname={node}",
        f"--network-namespace-path={network.path(node)}",
        "--capability=CAP_NET_ADMIN",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--register=no",
        *([] if cgroup.systemd_host() else ["--keep-unit"]),
        "--kill-signal=SIGRTMIN+3",
        "--boot",
    ]
    joins = [f"echo $$ > {shlex.quote(str(file))}" for file in cgroup.create(node)]
    # A stranded node goes dark where it should boot again: what its file says is done once.
    stranded = shlex.quote(str(_stranded(node)))
    loop = (
        f"while {shlex.join(command)}; [ $? = {REBOOT} ]; do "
        f"if [ -e {stranded} ]; then sh {stranded}; break; fi; done"
    )
    script = "; ".join([*joins, loop])
    with console.open("ab") as out:
        subprocess.Popen(
            ["sh", "-c", script, machine(node)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
            env={"PATH": ENVIRONMENT["PATH"]},
        )


def _stranded(node: str) -> Path:
    return STATE / "stranded" / node


def strand(node: str, script: str) -> None:
    """Let the node's next reboot end in the dark: it goes off, and ``script`` runs on the host."""
    need_init(node)
    _stranded(node).parent.mkdir(parents=True, exist_ok=True)
    _stranded(node).write_text(script)


def booted(node: str) -> bool:
    if init(node) is None:
        return False
    state = execute(node, ["systemctl", "is-system-running"], check=False)
    return state.stdout.strip() in ("running", "degraded")


def wait_booted(node: str) -> None:
    wait_until(
        lambda: booted(node),
        BOOT_SECONDS,
        f"node {node} to boot (its console: {STATE / 'console' / node}.log)",
    )


def boot_wave(nodes: Sequence[str]) -> None:
    for node in nodes:
        power_on(node)
    for node in nodes:
        wait_booted(node)


def wait_off(node: str, seconds: float) -> None:
    wait_until(lambda: machine(node) not in containers(), seconds, f"node {node} to be off")


def power_cut(node: str) -> None:
    """SIGKILL for everything in the node at once: the kernel takes all with PID 1."""
    os.kill(need_init(node), signal.SIGKILL)
    wait_off(node, 20)


def shut_down(node: str) -> None:
    """What the power button does: a clean stop of every service."""
    pid = need_init(node)
    execute(node, ["systemctl", "poweroff"], check=False)
    wait_until(
        lambda: _let_go(pid) or machine(node) not in containers(),
        STOP_SECONDS,
        f"node {node} to be off",
    )


def restart(node: str) -> None:
    """A clean restart; returns when the node has booted again."""
    before = need_init(node)
    execute(node, ["systemctl", "reboot"], check=False)
    wait_until(
        lambda: _let_go(before) or (init(node) not in (None, before) and booted(node)),
        STOP_SECONDS + BOOT_SECONDS,
        f"node {node} to boot again",
    )


def _let_go(pid: int) -> None:
    """Let the commands that run in a node from outside end with it.

    A shutdown stops every process in the node for a moment. nsenter then stops itself too, and as
    nobody continues it, its dead child would hold up the shutdown.
    """
    for process, words in _processes():
        if words[0] == "nsenter" and f"--target={pid}" in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def kill_all(names: Callable[[str], bool] = lambda _: True) -> None:
    """SIGKILL every container of any lab on this host, also one that is starting."""
    deadline = time.monotonic() + 30
    while True:
        supervisors = {m: pids for m, pids in containers().items() if names(m)}
        if not supervisors:
            return
        if time.monotonic() > deadline:
            raise LabError(f"these containers do not die: {', '.join(supervisors)}")
        for pids in supervisors.values():
            for pid in [*sorted(pids), *_inits(pids)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def enter(node: str, command: Sequence[str]) -> list[str]:
    """The host's command line that runs ``command`` in the node."""
    environment = dict(ENVIRONMENT)
    if "TERM" in os.environ:
        environment["TERM"] = os.environ["TERM"]
    pid = need_init(node)
    return [
        *("sh", "-c", 'echo $$ > "$0"; exec "$@"', str(cgroup.to_join(pid))),
        "nsenter",
        f"--target={pid}",
        *("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"),
        "env",
        "-i",
        *(f"{name}={value}" for name, value in environment.items()),
        *command,
    ]


def execute(
    node: str,
    command: Sequence[str],
    *,
    check: bool = True,
    stdin: str | None = None,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the node, its output kept."""
    return run(enter(node, command), check=check, stdin=stdin, timeout=timeout)


def forget_all() -> None:
    """Remove what systemd-nspawn leaves behind of machines that were killed."""
    for folder in NSPAWN.glob(f"*/{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)
