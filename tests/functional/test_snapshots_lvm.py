"""LVM, thick and thin, on a real kernel with device-mapper: an emulated machine, booted twice."""

import shlex
import sys
from pathlib import Path

import pytest
from emulated_machine import EmulatedMachine

pytestmark = pytest.mark.long

GUEST = Path(__file__).with_name("lvm_guest.py")


def test_a_broken_root_on_lvm_is_good_after_the_restore_and_a_boot(tmp_path: Path) -> None:
    """Thick and thin; a restore is killed at some steps; the first boot ends without a shutdown."""
    machine = EmulatedMachine(tmp_path, disks=2)
    for boot in ("1", "2"):
        command = shlex.join([sys.executable, str(GUEST), str(GUEST.parents[2]), boot])
        said = machine.boot(command)
        assert f"all done in boot {boot}" in said and "GUEST ended with 0" in said, said[-6000:]
        print(said)
