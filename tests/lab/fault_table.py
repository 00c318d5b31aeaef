"""A table of faults: each strikes at a step of a farm's upgrade, which is then finished.

`lab/faults` prints it; the tests take some of its rows.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field

from lab_words import Lab
from runner import Ended, Runner, command
from shop import Shop

RESUMES = 3
GRACE_SECONDS = 10.0  # after a repair, until the balancers have noticed


def _never(shop: Shop, farm: str) -> bool:
    return False


def _always(shop: Shop, farm: str) -> bool:
    return True


def _while_serving(shop: Shop, farm: str) -> bool:
    return shop.state(farm) != {"closed"}


@dataclass(frozen=True)
class Fault:
    """What breaks, and how it is mended.

    steps
        When it strikes unless others are asked for; empty: at every step.
    signal
        What the runner itself gets.
    inflict, mend
        Words of `lab/lab fault`; NODE stands for the node that :attr:`node` names.
    seconds
        How long it lasts; None: until the runner has ended.
    loses
        Asked as soon as it has struck: whether it takes requests of the farm away by itself,
        whatever a rollout does.
    """

    name: str
    what: str
    steps: tuple[str, ...] = ()
    signal: int = 0
    node: Callable[[Shop, str], str] = lambda shop, farm: "master"
    inflict: tuple[str, ...] = ()
    mend: tuple[str, ...] = ()
    seconds: float | None = 0.0
    loses: Callable[[Shop, str], bool] = _never


def _balancer(shop: Shop, farm: str) -> str:
    return shop.balancers[-1]


def _server(shop: Shop, farm: str) -> str:
    return shop.farms[farm][-1]


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("kill-runner", "SIGKILL for the runner", signal=signal.SIGKILL),
        Fault(
            "reboot-master",
            "the master's machine reboots",
            ("switch",),
            inflict=("reboot", "NODE"),
        ),
        Fault(
            "kill-haproxy",
            "SIGKILL for a balancer's HAProxy, then started",
            ("close", "ready"),
            node=_balancer,
            inflict=("kill", "NODE", "haproxy"),
            mend=("start", "NODE", "haproxy"),
            loses=_always,
        ),
        Fault(
            "kill-balancer",
            "a balancer without power for 15 s",
            ("ready",),
            node=_balancer,
            inflict=("kill", "NODE"),
            mend=("start", "NODE"),
            seconds=15,
            loses=_always,
        ),
        Fault(
            "kill-server",
            "a server of the farm without power until the end",
            ("switch",),
            node=_server,
            inflict=("kill", "NODE"),
            mend=("start", "NODE"),
            seconds=None,
            loses=_while_serving,
        ),
        Fault(
            "stop-minion-server",
            "a server's minion stopped until the end",
            ("switch",),
            node=_server,
            inflict=("stop", "NODE", "salt-minion"),
            mend=("start", "NODE", "salt-minion"),
            seconds=None,
        ),
        Fault(
            "stop-minion-balancer",
            "a balancer's minion stopped for 30 s",
            ("close",),
            node=_balancer,
            inflict=("stop", "NODE", "salt-minion"),
            mend=("start", "NODE", "salt-minion"),
            seconds=30,
        ),
        Fault(
            "cut-balancer",
            "a balancer's network cut for 30 s",
            ("close", "ready"),
            node=_balancer,
            inflict=("cut", "NODE"),
            mend=("heal", "NODE"),
            seconds=30,
            loses=_always,
        ),
    )
}


@dataclass(frozen=True)
class Row:
    """What came of one fault at one step.

    seconds
        From the fault until the farm was in service on the new release, whole.
    s1, s2, s3
        Breaches; requests that the fault took away by itself are not in ``s2`` but in ``lost``.
    """

    fault: str
    step: str
    happened: str
    seconds: float
    s1: int
    s2: int
    s3: int
    lost: int
    result: str
    kept: bool
    failures: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        verdict = f"{self.s1:>3} {self.s2:>3} {self.s3:>3} {self.lost or '-':>5}"
        return (
            f"{self.fault:<21}{self.step:<10}{self.seconds:>6.1f} s {verdict}  "
            f"{'kept' if self.kept else 'BROKEN':<7} {self.happened}; {self.result}"
        )


HEAD = (
    f"{'fault':<21}{'step':<10}{'finished':>8} {'S1':>3} {'S2':>3} {'S3':>3} {'lost':>5}  "
    f"{'':<7} what happened"
)


def strike(shop: Shop, fault: Fault, step: str) -> Row:
    """Upgrade a farm, let the fault strike at the step, finish; the site's traffic must run."""
    farm, release = shop.next_farm(), shop.following()
    name = f"{fault.name}-{step}-{release}"
    began = time.time()
    with shop.phase(name):
        runner = Runner(shop.lab, "upgrade.farm", shop.site, farm, f"release={release}")
        runner.at(step, fault.signal)
        struck = time.time()
        happened, mended, loses = _let_it_happen(shop, fault, farm, runner)
        happened, why = _finish(shop, farm, release, happened)
        seconds = time.time() - struck
        shop.answers(150)
    found = shop.judge("--promises=S1,S3")["promises"]
    s1, s3 = (found[promise]["phases"].get(name, 0) for promise in ("S1", "S3"))
    failed = shop.failed(began)
    lost = [
        answer
        for answer in failed
        if loses and answer.answered >= struck and answer.sent <= mended + GRACE_SECONDS
    ]
    s2 = len(failed) - len(lost)
    result = why or f"{farm} is open on {release} everywhere, all servers UP"
    return Row(
        fault.name,
        step,
        happened,
        round(seconds, 1),
        s1,
        s2,
        s3,
        len(lost),
        result,
        not why and s1 == s2 == s3 == 0,
        tuple(f"{answer.kind} {answer.why}".strip() for answer in failed if answer not in lost),
    )


def _let_it_happen(shop: Shop, fault: Fault, farm: str, runner: Runner) -> tuple[str, float, bool]:
    """From the fault to its repair and the runner's end.

    What happened, when it was mended, and whether it takes requests away.
    """
    node = fault.node(shop, farm)

    def do(words: Sequence[str]) -> None:
        if words:
            shop.lab("fault", *(node if word == "NODE" else word for word in words))

    do(fault.inflict)
    loses = fault.loses(shop, farm)
    if fault.seconds is not None:
        time.sleep(fault.seconds)
        do(fault.mend)
        mended = time.time()
        ended = runner.wait()
    else:
        ended = runner.wait()
        do(fault.mend)
        mended = time.time()
    return f"{fault.what}: {_shown(ended)}", mended, loses


def _shown(ended: Ended) -> str:
    if ended.data is None:
        return "the run was cut off"
    return f"the run went on to `{ended.data.get('state', ended.data['result'])}`"


def _finish(shop: Shop, farm: str, release: str, happened: str) -> tuple[str, str]:
    """Resume until nothing is left to be done; what happened, and why it is not whole."""
    resumes = 0
    ended: Ended | None = None
    while (left := shop.unfinished()) and resumes < RESUMES:
        resumes += 1
        shop.connected()
        ended = command(shop.lab, "upgrade.resume", str(left[0]))
    if resumes:
        happened += f"; `upgrade.resume` {resumes} time{'s' if resumes > 1 else ''}"
    if shop.unfinished():
        return happened, f"the run does not finish: {ended}"
    try:
        shop.healthy()
    except AssertionError:
        return happened, f"not every server came back: {shop.quarantine()}"
    if shop.releases()[farm] != release or shop.state(farm) != {"open"}:
        return happened, f"{farm} is {shop.state(farm)} on {shop.releases()[farm]}: {ended}"
    return happened, ""


def rows(shop: Shop, wanted: Iterable[tuple[Fault, str]]) -> Iterator[Row]:
    """Strike after strike under one traffic; a fault that cannot be finished ends the table."""
    with shop.traffic():
        for fault, step in wanted:
            yield strike(shop, fault, step)


def steps(shop: Shop) -> list[str]:
    """The steps of a farm's upgrade, as the plan has them."""
    plan = shop.lab.run("upgrade.plan", shop.site, shop.next_farm(), f"release={shop.following()}")
    names = [step["step"].split()[1] for step in plan["farms"][0]["steps"]]
    return list(dict.fromkeys(["stage", *names]))


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; 0 when every promise held."""
    options = _options(words)
    lab = Lab()
    if not lab.up:
        print("lab/faults: there is no lab; build one with: lab/lab up", file=sys.stderr)
        return 2
    shop = Shop(lab, options.site)
    with shop.governed(drain_seconds=2):
        shop.level()
        there = steps(shop)
        asked = there if options.step == ["all"] else options.step
        unknown = set(asked) - set(there)
        if unknown:
            print(f"lab/faults: no step {', '.join(unknown)}: {', '.join(there)}", file=sys.stderr)
            return 2
        wanted = [
            (FAULTS[name], step)
            for name in options.fault
            for step in asked or FAULTS[name].steps or there
        ]
        found: list[Row] = []
        print(HEAD, file=sys.stderr if options.json else sys.stdout, flush=True)
        for row in rows(shop, wanted):
            found.append(row)
            print(row, file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
    return 0 if all(row.kept for row in found) else 1


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    listed = "\n".join(
        f"  {fault.name:<21}{fault.what} (at {', '.join(fault.steps) or 'every step'})"
        for fault in FAULTS.values()
    )
    parser = argparse.ArgumentParser(
        "lab/faults",
        description="Upgrade farms of the lab under traffic, a fault at a step of each; print what "
        f"came of it.\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def names(text: str) -> list[str]:
        return text.split(",")

    def faults(text: str) -> list[str]:
        unknown = set(names(text)) - set(FAULTS)
        if unknown:
            raise argparse.ArgumentTypeError(f"no fault {', '.join(unknown)}")
        return names(text)

    parser.add_argument("--fault", type=faults, default=list(FAULTS), metavar="NAME,…")
    parser.add_argument(
        "--step", type=names, default=[], metavar="NAME,…", help="these instead; `all`: every step"
    )
    parser.add_argument("--site", default="site1")
    parser.add_argument("--json", action="store_true", help="the rows as data on stdout")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
