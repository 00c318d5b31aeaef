"""Hardware profiles: what the pillar says of a kind of machine, and whether this is one.

Packages are built and certified for a profile. A binary that was built for another CPU may end
with SIGILL, so a machine that is not of its profile gets none.
"""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from webfarm.errors import WebfarmError
from webfarm.shape import Model

Flag = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]
Family = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_ .()@:/-]{1,80}$")]
# what a shell or make.conf would read as more than a word must not get there
Cflags = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_=+,./ -]{0,400}$")]
_MEMORY_SLACK = 0.1  # the kernel and the firmware keep a part
_VIRTUAL = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd")


class HwProfile(Model):
    """A kind of machine; what is left out is not checked.

    cpu_family
        A part of the CPU's vendor, family and model as ``/proc/cpuinfo`` names it, such as
        ``GenuineIntel 6 85`` or ``Xeon(R) Gold``.
    flags
        Flags that the CPU must have.
    memory_mib
        The least memory; a tenth less is accepted, which firmware and kernel keep.
    disk
        The kind that the first disk must be.
    cflags
        What compilers are told when packages are built for it.
    """

    cpu_family: Family | None = None
    flags: tuple[Flag, ...] = ()
    memory_mib: Annotated[int, Field(ge=1)] | None = None
    disk: Literal["ssd", "hdd", "any"] = "any"
    cflags: Cflags = "-O2 -pipe"


@dataclass(frozen=True)
class Machine:
    """What this machine is; disk is ``ssd``, ``hdd``, or ``unknown`` where it has none of its
    own."""

    cpu: str
    flags: frozenset[str]
    memory_mib: int
    disk: str

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "flags": sorted(self.flags)}


def machine(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Machine:
    """Look at this machine."""
    cpu: dict[str, str] = {}
    for line in (proc / "cpuinfo").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        cpu.setdefault(key.strip(), value.strip())
    names = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part")
    memory = re.search(r"^MemTotal:\s+([0-9]+) kB", (proc / "meminfo").read_text(), re.MULTILINE)
    return Machine(
        cpu=" ".join(cpu[name] for name in names if name in cpu),
        flags=frozenset((cpu.get("flags") or cpu.get("Features") or "").split()),
        memory_mib=int(memory[1]) // 1024 if memory else 0,
        disk=_disk(sys),
    )


def differences(profile: HwProfile, found: Machine) -> list[str]:
    """Why ``found`` is not a machine of ``profile``: nothing when it is."""
    out = []
    if profile.cpu_family is not None and profile.cpu_family not in found.cpu:
        out.append(f"the CPU is {found.cpu!a:.80}, expected {profile.cpu_family}")
    missing = [flag for flag in profile.flags if flag not in found.flags]
    if missing:
        out.append(f"the CPU lacks {', '.join(missing)}")
    if profile.memory_mib and found.memory_mib < profile.memory_mib * (1 - _MEMORY_SLACK):
        out.append(f"it has {found.memory_mib} MiB of memory, expected {profile.memory_mib}")
    if profile.disk != "any" and found.disk not in (profile.disk, "unknown"):
        out.append(f"its disk is {found.disk}, expected {profile.disk}")
    return out


def check(profiles: Mapping[str, HwProfile], name: str, found: Machine) -> None:
    """Raise :class:`WebfarmError` when ``found`` is not what the pillar says it is.

    Without profiles in the pillar there is nothing to check.
    """
    if not profiles:
        return
    if name not in profiles:
        raise WebfarmError(
            f"there is no hw_profile {name} in webfarm:hw_profiles; there are:"
            f" {', '.join(profiles)}; nothing was changed"
        )
    wrong = differences(profiles[name], found)
    if wrong:
        fits = [other for other, profile in profiles.items() if not differences(profile, found)]
        raise WebfarmError(
            f"this machine is not of hw_profile {name}: {'; '.join(wrong)}. It would fit"
            f" {', '.join(fits) or 'none'}: set its hw_profile in the pillar; nothing was changed"
        )


def _disk(sys: Path) -> str:
    """The kind of the first disk, by ``queue/rotational`` (Linux, queue-sysfs)."""
    with contextlib.suppress(OSError):
        for device in sorted((sys / "block").iterdir()):
            if device.name.startswith(_VIRTUAL):
                continue
            with contextlib.suppress(OSError):
                rotational = (device / "queue/rotational").read_text().strip()
                return "hdd" if rotational == "1" else "ssd"
    return "unknown"
