"""Real traffic to a real TLS server: the referee finds what the server did, and nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from referee.__main__ import main
from referee.store import Folder

sys.path.insert(0, str(Path(__file__).parent))

from referee_shop import DOMAIN, Shop, certificate

LAB = Path(__file__).parents[2] / "lab"
REFEREE = (sys.executable, "-m", "referee")


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop's certificate and key."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def shop(pem: Path) -> Iterator[Shop]:
    """A running shop that behaves well."""
    with Shop(pem) as running:
        yield running


Play = Callable[..., dict[str, Any]]


@pytest.fixture
def play(shop: Shop, pem: Path, tmp_path: Path) -> Play:
    """Make so many requests and return the verdict's data; the exit code ``code`` is among it."""

    def run(*options: str, requests: int = 300, report: tuple[str, ...] = ()) -> dict[str, Any]:
        shop.last = requests
        # its answer is still to come, so the traffic runs and handles the signal
        shop.enough = lambda: os.kill(os.getpid(), signal.SIGTERM)
        where = ["--dir", str(tmp_path / "referee")]
        default = ["--address", f"127.0.0.1:{shop.port}", "--domain", DOMAIN, "--ca", str(pem)]
        mix = ["--rate", "150", "--sessions", "30", "--life", "10", "--slow-ms", "200"]
        code = main(["run", *where, *default, *mix, "--duration", "60", *options])
        assert code == 0
        out = subprocess.run(
            [*REFEREE, "report", "--json", *where, "--min-requests", "100", *report],
            cwd=LAB,
            stdout=subprocess.PIPE,
            check=False,
        )
        data: dict[str, Any] = json.loads(out.stdout)
        return data | {"code": out.returncode}

    return run


def kinds(data: dict[str, Any]) -> dict[str, int]:
    """All breaches by kind."""
    return {
        kind: count
        for finding in data["promises"].values()
        for kind, count in finding["kinds"].items()
    }


def test_a_shop_that_behaves_well_is_innocent(play: Play, shop: Shop) -> None:
    data = play()
    assert (data["code"], data["verdict"], kinds(data)) == (0, "innocent", {})
    assert data["requests"] == shop.requests >= 300
    assert data["methods"] == dict(shop.methods)
    assert set(shop.methods) == {"GET", "POST"}
    assert data["slow"] > 0
    assert data["new_connections"] == shop.connections < shop.requests
    assert data["clients"] > 30
    assert data["traffic"]["ended"]
    assert 75 < data["phases"]["all"]["rate"] < 300 or data["traffic"]["late"]


def every(number: int, fault: str) -> Callable[[int, str], str]:
    """Misbehave with each so-many-th request."""
    return lambda count, session: fault if count % number == 0 else ""


@pytest.mark.parametrize(
    ("fault", "promise", "kind"),
    [
        ("regress", "S1", "regression"),
        ("500", "S2", "500"),
        ("shed", "S2", "shed"),
        ("reset", "S2", "reset"),
        ("garbage", "S2", "malformed"),
        ("drop", "S3", "lost"),
    ],
)
def test_each_broken_promise_is_found_for_the_right_reason(
    play: Play, shop: Shop, fault: str, promise: str, kind: str
) -> None:
    done = 0

    def misbehave(number: int, session: str) -> str:
        nonlocal done
        if number % 37:
            return ""
        done += 1
        return fault

    shop.misbehave = misbehave
    data = play("--parallel", "0")
    assert (data["code"], data["broken"]) == (1, [promise])
    assert kinds(data) == {kind: done}
    assert done > 3
    example = data["promises"][promise]["examples"][0]
    assert example["kind"] == kind and example["answer"]["client"] == example["client"]


def test_a_rewound_counter_is_found_where_it_can_be_told_from_a_new_one(
    play: Play, shop: Shop
) -> None:
    rewound: list[str] = []

    def misbehave(number: int, session: str) -> str:
        if len(rewound) == 4 or session in rewound or shop.counts[session] < 4:
            return ""
        rewound.append(session)
        return "rewind"

    shop.misbehave = misbehave
    data = play("--parallel", "0")
    assert (data["code"], data["broken"], kinds(data)) == (1, ["S3"], {"rewound": 4})


def test_a_session_whose_answer_was_lost_is_not_called_lost(play: Play, shop: Shop) -> None:
    shop.misbehave = every(11, "reset")
    data = play("--parallel", "0")
    assert data["broken"] == ["S2"]
    assert not data["promises"]["S3"]["breaches"]


def test_resets_that_were_declared_are_no_losses(play: Play, shop: Shop) -> None:
    shop.misbehave = every(37, "drop")
    data = play("--parallel", "0", report=("--allow-resets", "1000"))
    assert (data["code"], kinds(data)) == (0, {})
    assert data["resets"] == shop.returning // 37 > 3


def test_an_upgrade_under_traffic_is_no_regression(play: Play, shop: Shop) -> None:
    def upgrade(number: int, session: str) -> str:
        shop.release = "2026.11.2" if number > 100 else "2026.11.1"
        return ""

    shop.misbehave = upgrade
    data = play("--parallel", "0.5")
    assert (data["code"], kinds(data)) == (0, {})
    assert set(data["farms"]["site1/farm1"]["releases"]) == {"2026.11.1", "2026.11.2"}


def test_the_next_address_is_tried_when_one_refuses(play: Play) -> None:
    data = play("--address", "127.0.0.1:9")
    assert (data["code"], kinds(data)) == (0, {})


def test_nobody_at_home_is_a_failure_to_connect(pem: Path, tmp_path: Path) -> None:
    where = ["--dir", str(tmp_path)]
    target = ["--address", "127.0.0.1:9", "--domain", DOMAIN, "--ca", str(pem)]
    assert main(["run", *where, *target, "--rate", "50", "--duration", "0.5"]) == 0
    assert main(["report", *where]) == 1
    assert {entry.kind for entry in Folder(tmp_path).entries() if hasattr(entry, "kind")} == {
        "connect"
    }


def test_a_certificate_for_another_name_is_a_failure_of_tls(play: Play) -> None:
    data = play("--domain", "other.example", "--duration", "1", report=("--min-requests", "10"))
    assert (data["broken"], set(kinds(data))) == (["S2"], {"tls"})


def test_an_answer_that_does_not_come_is_a_timeout(play: Play, shop: Shop) -> None:
    shop.misbehave = every(37, "stall")
    data = play("--timeout", "0.5")
    assert (data["broken"], set(kinds(data))) == (["S2"], {"timeout"})


def test_it_runs_in_the_background_and_ends_when_all_is_answered(
    shop: Shop, pem: Path, tmp_path: Path
) -> None:
    def referee(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*REFEREE, words[0], "--dir", str(tmp_path), *words[1:]],
            cwd=LAB,
            capture_output=True,
            text=True,
            check=False,
        )

    target = ("--address", f"127.0.0.1:{shop.port}", "--domain", DOMAIN, "--ca", str(pem))
    mix = ("--rate", "100", "--sessions", "60", "--slow", "0.1", "--slow-ms", "1500")
    assert referee("status").returncode == 1
    started = referee("start", *target, *mix)
    assert started.returncode == 0, started.stderr
    try:
        assert referee("status").returncode == 0
        assert "runs already" in referee("start", *target).stderr
        assert referee("mark", "upgrade-start").returncode == 0
        shop_had = shop.requests
        _until(lambda: shop.requests > shop_had + 60)
        assert referee("mark", "upgrade-end").returncode == 0
        # what was answered comes to the log twice a second
        _until(lambda: referee("report", "--min-requests", "1").returncode == 0)
    finally:
        assert referee("stop").returncode == 0
    report = referee("report", "--min-requests", "50", "--json")
    data = json.loads(report.stdout)
    assert report.returncode == 0, report.stdout
    assert data["requests"] == shop.requests
    assert data["phases"]["upgrade"]["requests"] > 30
    assert data["traffic"]["ended"]
    assert referee("status").returncode == 1


def test_a_start_that_cannot_work_says_why(tmp_path: Path) -> None:
    target = ["--domain", DOMAIN, "--address", "127.0.0.1", "--ca", str(tmp_path / "none.pem")]
    assert main(["start", "--dir", str(tmp_path), *target]) == 3


@pytest.mark.parametrize("name", ["", "a b", "x;y", "ü", "-x", "a" * 65])
def test_a_mark_is_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit):
        main(["mark", "--dir", str(tmp_path), name])


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()
        time.sleep(0.05)
