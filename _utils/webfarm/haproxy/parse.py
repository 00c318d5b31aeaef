"""Read what HAProxy prints: server states, statistics, maps, its own figures, its processes."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from webfarm.haproxy.client import BalancerError

STATE_VERSION = "1"
_FIELDS = [
    "be_id",
    "be_name",
    "srv_id",
    "srv_name",
    "srv_addr",
    "srv_op_state",
    "srv_admin_state",
    "srv_uweight",
    "srv_iweight",
]
_FORCED_MAINT, _INHERITED_MAINT, _CONFIGURED_MAINT = 0x01, 0x02, 0x04
_FORCED_DRAIN, _INHERITED_DRAIN = 0x08, 0x10


@dataclass(frozen=True)
class ServerState:
    """One line of ``show servers state``.

    uweight, iweight
        The weight in force and the configured one, 0..256.
    admin
        ``ready``, ``drain`` or ``maint``, as an operator or the configuration set it.
    """

    backend: str
    server: str
    address: str
    operational: int
    admin: str
    uweight: int
    iweight: int


@dataclass(frozen=True)
class Processes:
    """HAProxy's processes by ``show proc``; old workers finish their requests after a reload."""

    master: int
    workers: tuple[int, ...] = ()
    old_workers: tuple[int, ...] = field(default=())


def servers_state(text: str) -> list[ServerState]:
    """Parse ``show servers state``; raises :class:`BalancerError` for anything else."""
    lines = text.strip("\n").split("\n")
    if lines[0] != STATE_VERSION:
        raise BalancerError(
            f"`show servers state`: format version {ascii(lines[0])[:80]}, expected {STATE_VERSION}"
        )
    if len(lines) < 2 or lines[1].lstrip("# ").split()[: len(_FIELDS)] != _FIELDS:
        raise BalancerError("`show servers state`: unknown columns; is this HAProxy 2.6 or later?")
    states = []
    for line in lines[2:]:
        parts = line.split()
        try:
            states.append(
                ServerState(
                    backend=parts[1],
                    server=parts[3],
                    address=parts[4],
                    operational=int(parts[5]),
                    admin=admin_state(int(parts[6])),
                    uweight=int(parts[7]),
                    iweight=int(parts[8]),
                )
            )
        except (IndexError, ValueError):
            raise BalancerError(f"`show servers state`: cannot read {ascii(line)[:120]}") from None
    return states


def admin_state(bits: int) -> str:
    """HAProxy's administrative bits as one word; maintenance outweighs drain."""
    if bits & (_FORCED_MAINT | _INHERITED_MAINT | _CONFIGURED_MAINT):
        return "maint"
    if bits & (_FORCED_DRAIN | _INHERITED_DRAIN):
        return "drain"
    return "ready"


def as_running(text: str) -> str:
    """``show servers state`` with every server operational, for the state file.

    A HAProxy that starts from it keeps weights and administrative states, and finds out by its own
    checks who is down. A server wrongly taken for up does no harm: requests to it are refused by
    the fence and retried.
    """
    lines = []
    for line in text.strip("\n").split("\n"):
        parts = line.split(" ")
        if len(parts) > len(_FIELDS) and parts[0].isdecimal():
            parts[5] = "2"
        lines.append(" ".join(parts))
    return "\n".join(lines) + "\n"


def stat(text: str) -> list[dict[str, str]]:
    """Parse the CSV of ``show stat``: one mapping per frontend, server and backend."""
    if not text.startswith("# pxname,svname,"):
        raise BalancerError(f"`show stat`: expected CSV, got {ascii(text)[:120]}")
    try:
        rows = list(csv.reader(io.StringIO(text[2:]), strict=True))
    except csv.Error as error:
        raise BalancerError(f"`show stat`: broken CSV: {error}") from None
    header = rows[0]
    if any(row and len(row) != len(header) for row in rows):
        raise BalancerError("`show stat`: a row of another length than the header")
    return [dict(zip(header, row, strict=True)) for row in rows[1:] if row]


def number(row: Mapping[str, str], column: str) -> int:
    """A figure of a ``show stat`` row; HAProxy leaves out what does not apply."""
    value = row.get(column, "")
    try:
        return int(value) if value else 0
    except ValueError:
        raise BalancerError(f"`show stat`: {column} is {ascii(value)[:40]}, not a number") from None


def counters(row: Mapping[str, str]) -> dict[str, int]:
    """What a backend's row has counted since this HAProxy began: requests, those answered 5xx, and
    the moving average of the response time in milliseconds.
    """
    return {
        "requests": number(row, "req_tot"),
        "errors": number(row, "hrsp_5xx"),
        "response_ms": number(row, "rtime"),
    }


def server_counters(row: Mapping[str, str]) -> dict[str, int]:
    """The same of a server's row, which has no sum of its requests but one for each class."""
    classes = ("hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx", "hrsp_other")
    return {
        "requests": sum(number(row, name) for name in classes),
        "errors": number(row, "hrsp_5xx"),
        "response_ms": number(row, "rtime"),
    }


def check_result(row: Mapping[str, str]) -> str:
    """The last health check as ``L7OK/200``; without the star of one that is under way."""
    status = row.get("check_status", "").lstrip("* ")
    code = row.get("check_code", "")
    return f"{status}/{code}" if code else status


def map_entries(text: str) -> list[tuple[str, str]]:
    """Parse ``show map FILE``: (key, value) pairs in HAProxy's order."""
    entries = []
    for line in text.split("\n"):
        if not line:
            continue
        parts = line.split(" ", 2)
        if len(parts) != 3 or not parts[0].startswith("0x"):
            raise BalancerError(f"`show map`: HAProxy said {ascii(line)[:120]}")
        entries.append((parts[1], parts[2]))
    return entries


def info(text: str) -> dict[str, str]:
    """Parse ``show info``."""
    found = {}
    for line in text.split("\n"):
        key, colon, value = line.partition(": ")
        if colon:
            found[key] = value
    if "Pid" not in found:
        raise BalancerError(f"`show info`: HAProxy said {ascii(text)[:120]}")
    return found


def processes(text: str) -> Processes:
    """Parse ``show proc`` of the master's socket."""
    master = 0
    groups: dict[str, list[int]] = {"workers": [], "old workers": []}
    group = ""
    for line in text.split("\n"):
        if line.startswith("# "):
            group = line[2:].strip()
            continue
        parts = line.split()
        if len(parts) < 3 or not parts[0].isdecimal():
            continue
        if parts[1] == "master":
            master = int(parts[0])
        elif group in groups and parts[1] == "worker":
            groups[group].append(int(parts[0]))
    if not master:
        raise BalancerError(f"`show proc`: HAProxy said {ascii(text)[:120]}")
    return Processes(master, tuple(groups["workers"]), tuple(groups["old workers"]))
