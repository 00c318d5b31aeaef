"""An older rollout changes nothing once a newer one has looked: real processes, one folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import wait_for
from webfarm.errors import BadName, WebfarmError
from webfarm.files import Locked
from webfarm.hold import FRESH_SECONDS, BadHold, Holds, StaleHold, StaleLook

LIBRARY = Path(__file__).parents[2] / "_utils"
OLD, NEW = "site1:1000", "site1:2000"
# change|see FOLDER HOLD MARK: a change says that it has begun, and is made when it is told to
PROCESS = f"""
import pathlib, sys, time
sys.path.insert(0, {str(LIBRARY)!r})
from webfarm.errors import WebfarmError
from webfarm.hold import Holds
what, folder, hold, mark = sys.argv[1:]
holds = Holds(folder, see_seconds=60, change_seconds=60)
print("started", flush=True)
try:
    if what == "see":
        holds.see(hold)
    else:
        with holds.under(hold):
            pathlib.Path(mark + ".begun").touch()
            while not pathlib.Path(mark + ".go").exists():
                time.sleep(0.01)
            pathlib.Path(mark + ".made").touch()
except WebfarmError as error:
    print(f"{{type(error).__name__}}: {{error}}", flush=True)
else:
    print("done", flush=True)
"""


class Other:
    """Another process that makes a change, or looks."""

    def __init__(self, what: str, folder: Path, hold: str, mark: Path) -> None:
        self.mark = mark
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, what, str(folder), hold, str(mark)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def has(self, what: str) -> bool:
        return self.mark.with_name(f"{self.mark.name}.{what}").exists()

    def begun(self) -> "Other":
        wait_for(lambda: self.has("begun"), "the change has begun")
        return self

    def go(self) -> None:
        self.mark.with_name(f"{self.mark.name}.go").touch()

    def said(self) -> str:
        return self.process.communicate(timeout=60)[0].strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "holds"


@pytest.fixture
def start(tmp_path: Path, folder: Path) -> Iterator[Callable[[str, str], Other]]:
    made: list[Other] = []

    def one(what: str, hold: str) -> Other:
        made.append(Other(what, folder, hold, tmp_path / f"mark{len(made)}"))
        return made[-1]

    yield one
    for other in made:
        other.process.kill()
        other.process.wait()
        assert other.process.stdout is not None
        other.process.stdout.close()


def change(holds: Holds, hold: str | None) -> None:
    with holds.under(hold):
        pass


def look_and_change(holds: Holds, hold: str) -> None:
    """As a rollout does it: the change is the message after the look."""
    token, _, number = hold.partition(".")
    holds.see(hold)
    change(holds, f"{token}.{int(number or 0) + 1}")


def kept(folder: Path, site: str = "site1") -> list[str]:
    """TOKEN.NUMBER, the second and the boot of the last look."""
    return (folder / f".{site}.lock").read_text().split()


def age(folder: Path, seconds: float) -> None:
    """Let the last look be so long ago."""
    mark, looked, boot = kept(folder)
    (folder / ".site1.lock").write_text(f"{mark} {int(looked) - int(seconds)} {boot}\n")


# -- what a newer rollout has seen, an older one cannot change -----------------------------------


def test_a_change_that_comes_after_a_newer_observation_changes_nothing(
    folder: Path, start: Callable[[str, str], Other]
) -> None:
    look_and_change(Holds(folder), OLD)
    Holds(folder).see(NEW)
    late = start("change", f"{OLD}.2")
    late.go()
    assert late.said().startswith("StaleHold: the rollout site1:1000 no longer holds site1")
    assert not late.has("begun")


def test_an_observation_waits_for_the_change_in_progress(
    folder: Path, start: Callable[[str, str], Other]
) -> None:
    Holds(folder).see(OLD)
    old = start("change", OLD).begun()
    new = start("see", NEW)
    with pytest.raises(Locked):  # it is in progress, and does not end by being waited for
        Holds(folder, see_seconds=0.3).see(NEW)
    assert new.process.poll() is None
    assert not old.has("made")
    old.go()
    assert (old.said(), new.said()) == ("done", "done")
    with pytest.raises(StaleHold):
        change(Holds(folder), OLD)


def test_a_change_that_waited_behind_a_newer_one_is_refused(
    folder: Path, start: Callable[[str, str], Other]
) -> None:
    look_and_change(Holds(folder), OLD)
    Holds(folder).see(NEW)
    new = start("change", NEW).begun()
    old = start("change", f"{OLD}.2")
    new.go()
    assert new.said() == "done"
    assert old.said().startswith("StaleHold")
    assert not old.has("begun")


def test_a_killed_change_lets_go(folder: Path, start: Callable[[str, str], Other]) -> None:
    Holds(folder).see(OLD)
    old = start("change", OLD).begun()
    old.process.kill()
    old.process.wait()
    Holds(folder).see(NEW)
    assert not old.has("made")


def test_what_the_same_rollout_sent_before_is_refused_when_it_comes_late(
    folder: Path, start: Callable[[str, str], Other]
) -> None:
    Holds(folder).see(f"{OLD}.9")
    for number in (9, 9, 10):  # the same message again is no other
        change(Holds(folder), f"{OLD}.{number}")
    for stale in (OLD, f"{OLD}.9"):
        late = start("change", stale)
        late.go()
        assert late.said().startswith("StaleHold: message ")
        assert not late.has("begun")
    with pytest.raises(StaleHold, match="message 2 of the rollout site1:1000 comes late, after 10"):
        Holds(folder).see(f"{OLD}.2")
    look_and_change(Holds(folder), f"{NEW}.1")  # each holder counts anew
    with pytest.raises(StaleHold, match="no longer holds"):
        change(Holds(folder), f"{OLD}.11")


def test_a_rollout_that_gave_a_change_up_waits_for_it_before_it_looks(
    folder: Path, start: Callable[[str, str], Other]
) -> None:
    Holds(folder).see(f"{OLD}.1")
    given_up = start("change", f"{OLD}.2").begun()
    with pytest.raises(Locked):
        Holds(folder, see_seconds=0.0).see(f"{OLD}.3")
    given_up.go()
    assert given_up.said() == "done"
    Holds(folder).see(f"{OLD}.3")


def test_an_older_observation_is_refused_too(folder: Path) -> None:
    Holds(folder).see(NEW)
    with pytest.raises(StaleHold, match="site1:2000 does; nothing was changed"):
        Holds(folder).see(OLD)
    Holds(folder).see(NEW)


def test_sites_do_not_disturb_each_other(folder: Path, start: Callable[[str, str], Other]) -> None:
    Holds(folder).see(NEW)
    start("change", NEW).begun()
    look_and_change(Holds(folder, see_seconds=0.0, change_seconds=0.0), "site2:1")
    Holds(folder, see_seconds=0.0).see("site2:2")


def test_without_a_hold_nothing_is_checked_or_written(folder: Path) -> None:
    Holds(folder).see(None)
    change(Holds(folder), None)
    assert not folder.exists()


# -- a change follows a look ---------------------------------------------------------------------


def test_a_change_without_a_look_of_its_holder_is_refused(folder: Path) -> None:
    with pytest.raises(StaleLook, match="site1:1000 last looked here never"):
        change(Holds(folder), f"{OLD}.1")
    Holds(folder).see(f"{OLD}.2")
    change(Holds(folder), f"{OLD}.3")
    with pytest.raises(StaleLook, match="site1:2000 last looked here never"):
        change(Holds(folder), f"{NEW}.1")
    with pytest.raises(StaleHold, match="no longer holds"):  # it was shown who does
        change(Holds(folder), f"{OLD}.4")


def test_a_change_long_after_the_look_is_refused_until_the_next_look(folder: Path) -> None:
    look_and_change(Holds(folder), f"{OLD}.1")
    age(folder, FRESH_SECONDS + 1)
    with pytest.raises(StaleLook, match=r"last looked here 2[12] s ago.*nothing was changed"):
        change(Holds(folder), f"{OLD}.3")
    look_and_change(Holds(folder), f"{OLD}.4")


def test_a_change_is_no_look(folder: Path) -> None:
    Holds(folder).see(f"{OLD}.1")
    looked = kept(folder)[1:]
    for seconds in (9, 9):
        age(folder, seconds)
        change(Holds(folder), f"{OLD}.{kept(folder)[0].partition('.')[2]}")
    assert int(looked[0]) - int(kept(folder)[1]) == 18
    age(folder, 9)
    with pytest.raises(StaleLook):
        change(Holds(folder), f"{OLD}.9")


def test_a_look_that_is_delivered_again_does_not_count(folder: Path) -> None:
    Holds(folder).see(f"{OLD}.1")
    age(folder, FRESH_SECONDS + 1)
    Holds(folder).see(f"{OLD}.1")
    with pytest.raises(StaleLook):
        change(Holds(folder), f"{OLD}.2")


def test_a_look_before_the_machine_started_does_not_count(folder: Path) -> None:
    Holds(folder).see(f"{OLD}.1")
    mark, looked, _ = kept(folder)
    (folder / ".site1.lock").write_text(f"{mark} {looked} {'0' * 36}\n")
    with pytest.raises(StaleLook, match="never"):
        change(Holds(folder), f"{OLD}.2")


@pytest.mark.parametrize("look", ["", " ", " 5", " -5 {boot}", " 5 {boot} ", " 1e3 {boot}"])
def test_a_look_that_cannot_be_read_does_not_count(folder: Path, look: str) -> None:
    Holds(folder).see(f"{OLD}.1")
    mark, _, boot = kept(folder)
    (folder / ".site1.lock").write_text(mark + look.format(boot=boot) + "\n")
    with pytest.raises(StaleLook, match="never"):
        change(Holds(folder), f"{OLD}.2")


def test_a_look_in_the_future_does_not_count(folder: Path) -> None:
    Holds(folder).see(f"{OLD}.1")
    age(folder, -1000)
    with pytest.raises(StaleLook):
        change(Holds(folder), f"{OLD}.2")


def test_it_is_judged_when_the_change_begins_not_when_it_came(
    folder: Path, start: Callable[[str, str], Other]
) -> None:
    Holds(folder).see(f"{OLD}.1")
    first = start("change", f"{OLD}.2").begun()
    second = start("change", f"{OLD}.3")
    age(folder, FRESH_SECONDS + 1)
    time.sleep(0.1)  # it waits for the lock
    first.go()
    assert first.said() == "done"
    assert second.said().startswith("StaleLook: ")
    assert not second.has("begun")


# -- what is on disk -----------------------------------------------------------------------------


def test_only_root_may_look_at_what_is_kept(folder: Path) -> None:
    umask = os.umask(0)
    try:
        Holds(folder).see(NEW)
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "site1").read_text() == "2000\n"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("text", ["", "\n", "12\x00", "-5\n", "1e9\n", "9" * 100, "²\n", "0\n"])
def test_a_file_of_something_else_stops_all_rollouts_until_a_person_has_looked(
    folder: Path, text: str
) -> None:
    Holds(folder).see(OLD)
    (folder / "site1").write_text(text)
    for use in (Holds(folder).see, lambda hold: change(Holds(folder), hold)):
        with pytest.raises(WebfarmError, match="expected the number of the newest rollout"):
            use(NEW)
    assert (folder / "site1").read_text() == text
    (folder / "site1").unlink()
    Holds(folder).see(NEW)


@pytest.mark.parametrize("text", ["", "torn", "\x00\x00", "999.5\n", "1000.99", "9" * 100 + ".1\n"])
def test_a_torn_number_is_forgotten_and_the_token_is_not(folder: Path, text: str) -> None:
    Holds(folder).see(f"{OLD}.7")
    (folder / ".site1.lock").write_text(text)
    look_and_change(Holds(folder), f"{OLD}.3")
    with pytest.raises(StaleHold, match="comes late, after 4"):
        change(Holds(folder), f"{OLD}.2")
    with pytest.raises(StaleHold):
        change(Holds(folder), "site1:999.8")


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    Holds(folder).see("site2:1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("5\n")
    (folder / "site1").symlink_to(elsewhere)
    (folder / ".site3.lock").symlink_to(elsewhere)
    for hold in ("site1:9", "site3:9"):
        with pytest.raises(WebfarmError, match="no rollout goes on without it"):
            change(Holds(folder), hold)
    assert elsewhere.read_text() == "5\n"


def test_a_token_that_cannot_be_kept_is_refused(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way")
    with pytest.raises(WebfarmError, match="no rollout goes on without it"):
        change(Holds(folder), NEW)


# -- what comes from outside ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "hold",
    [
        *("", ":", "site1", "site1:", "site1:0", "site1:-1", "site1:01", "site1: 1", "site1:1 "),
        *("site1:1\n", "site1:1e3", "site1:1.", "site1:1.-1", "site1:1.01", "site1:1.1.1x"),
        *(
            "site1:1.1\n",
            "site1:1. 1",
            "site1:1." + "9" * 13,
            "site1:" + "9" * 13,
            "site1:²",
            "site1:١",
        ),
        *(
            7,
            1.5,
            True,
            ["site1", 1],
            {"site1": 1},
            b"site1:1",
            ("site1", 1),
            "x" * 10_000,
            "x" * 10_000 + ":1",
        ),
    ],
)
def test_what_is_no_hold_is_refused(folder: Path, hold: Any) -> None:
    for use in (Holds(folder).see, lambda it: change(Holds(folder), it)):
        with pytest.raises(BadHold, match="nothing was changed"):
            use(hold)
    assert not folder.exists()


@pytest.mark.parametrize("site", ["", "..", "../etc", "/etc/passwd", "a b", "a;b", ".x", "fárm"])
def test_a_hostile_site_is_refused(folder: Path, site: str) -> None:
    with pytest.raises((BadName, BadHold)):
        Holds(folder).see(f"{site}:1")
    assert not folder.exists()
