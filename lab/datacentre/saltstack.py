"""Salt in the lab: first configuration of master and minions, and what is run through it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import credentials, machine
from .places import REPO, root
from .source import INCOMING, PILLAR, SOURCE
from .terminal import LabError, say, wait_until
from .topology import Node, Topology

MASTER = f"""\
# 16 and more minions share a few cores in the lab: give their answers time.
timeout: 20
gather_job_timeout: 20
worker_threads: 4
file_roots:
  base:
    - /{SOURCE}/salt
    - /{SOURCE}
pillar_roots:
  base:
    - /{PILLAR}
reactor:
  - salt/minion/*/start:
    - salt://reactor/minion_start.sls
  - webfarm/weights/*:
    - salt://reactor/weights.sls
"""

MINION = """\
master: {master}
"""

PATIENCE = 5  # seconds for a question that is asked again anyway
ATTEMPTS = 3
SYNC_BATCH = 8
SYNC_SECONDS = 120
HIGHSTATE_BATCH = 4
HIGHSTATE_SECONDS = 600


def _enable(node: Node, unit: str) -> None:
    wants = root(node.name) / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")


def prepare(topology: Topology) -> None:
    """Write what master and minions need for their first contact; the rest is the highstate's."""
    master = topology.of_role("master")[0]
    etc = root(master.name) / "etc/salt"
    (etc / "master.d").mkdir(parents=True, exist_ok=True)
    (etc / "master.d/webfarm.conf").write_text(MASTER)
    _enable(master, "salt-master.service")
    for node in topology.nodes:
        if not node.minion:
            continue
        own = root(node.name) / "etc/salt"
        own.mkdir(parents=True, exist_ok=True)
        (own / "minion").write_text(MINION.format(master=master.address))
        (own / "minion_id").write_text(f"{node.name}\n")
        _configure(node, own / "minion.d/webfarm.conf")
        credentials.minion_key(own / "pki/minion", etc / "pki/master/minions" / node.name)
        _enable(node, "salt-minion.service")


def _configure(node: Node, path: Path) -> None:
    """Write what the state `minion` would, so that its highstate need not restart the minion."""
    import jinja2  # here: no other word of the lab needs it, and it takes its time

    here = dataclasses.asdict(node) | {"role": "store" if node.role == "master" else node.role}
    source = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPO / "salt"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    source.filters["json"] = json.dumps
    text = source.get_template("minion/files/webfarm.conf.jinja").render(
        salt={"webfarm_topology.node": lambda: here}
    )
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o640)


class Salt:
    """The master's command line."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.master = topology.of_role("master")[0].name
        self.minions = tuple(node.name for node in topology.nodes if node.minion)

    def command(self, *words: str, check: bool = True, timeout: float = 900) -> str:
        return machine.execute(self.master, words, check=check, timeout=timeout).stdout

    def run(self, function: str, *arguments: str) -> Any:
        """A runner's result."""
        text = self.command("salt-run", "--out=json", "--log-level=error", function, *arguments)
        try:
            return json.loads(text)
        except ValueError as error:
            raise LabError(f"salt-run {function} gave no JSON:\n{text[-2000:]}") from error

    def call(
        self, targets: Sequence[str], function: str, *arguments: str, timeout: int = 60
    ) -> dict[str, Any]:
        """Minion -> result, for those that answered."""
        text = self.command(
            *("salt", "--out=json", "--static", "--log-level=error", f"--timeout={timeout}"),
            *("-L", ",".join(targets), function, *arguments),
            check=False,
            timeout=timeout * 4 + 600,
        )
        try:
            answers: dict[str, Any] = json.loads(text or "{}")
        except ValueError as error:
            raise LabError(f"salt {function} gave no JSON:\n{text[-2000:]}") from error
        return answers

    def wait_for_master(self) -> None:
        active = ["systemctl", "is-active", "salt-master"]
        wait_until(
            lambda: machine.execute(self.master, active, check=False).stdout.strip() == "active",
            300,
            f"the salt-master (lab/lab exec {self.master} -- journalctl -u salt-master)",
        )

    def wait_for_minions(self, seconds: float = 600) -> None:
        """Return when every minion answers."""
        patience = f"timeout={PATIENCE}", f"gather_job_timeout={PATIENCE}"
        deadline = time.monotonic() + seconds
        while missing := set(self.minions) - set(self.run("manage.up", *patience)):
            if time.monotonic() > deadline:
                raise LabError(
                    f"no answer to test.ping from {', '.join(sorted(missing))}; see: "
                    f"lab/lab exec {sorted(missing)[0]} -- journalctl -u salt-minion"
                )

    def wait_for_modules(self, seconds: float = 600) -> None:
        """Return when every minion has the modules, which the reactor brings it when it starts."""
        self.run("saltutil.sync_all")
        deadline = time.monotonic() + seconds
        missing = list(self.minions)
        while missing:
            answers = self.call(missing, "webfarm_topology.check")
            missing = [minion for minion in missing if answers.get(minion) is not True]
            if missing and time.monotonic() > deadline:
                raise LabError(
                    f"no modules on {', '.join(missing)}: {answers.get(missing[0], 'no answer')}; "
                    f"see: lab/lab exec {self.master} -- journalctl -u salt-master"
                )

    def sync(self) -> None:
        """Bring the modules to the master and to every minion."""
        self.run("saltutil.sync_all")
        for begin in range(0, len(self.minions), SYNC_BATCH):
            missing = self.minions[begin : begin + SYNC_BATCH]
            for _ in range(ATTEMPTS):
                answers = self.call(missing, "saltutil.sync_all", timeout=SYNC_SECONDS)
                missing = tuple(m for m in missing if not isinstance(answers.get(m), dict))
                if not missing:
                    break
            else:
                said = {minion: answers.get(minion, "no answer") for minion in missing}
                raise LabError(f"saltutil.sync_all failed: {said}")

    def release(self, php: Sequence[str], webapps: Sequence[str]) -> None:
        """Take the trees that were brought to the master into the release store."""
        known = self.run("store.list") or {}
        for kind, versions in (("php", php), ("webapp", webapps)):
            for version in versions:
                if version not in (known.get(kind) or []):
                    # In quotes: Salt reads a bare 1 on its command line as a number.
                    self.run("store.add", kind, f'"{version}"', f"/{INCOMING}/{kind}/{version}")

    def highstate(self, nodes: Sequence[Node]) -> int:
        """Apply the highstate in batches; the number of changed states.

        Raises :class:`LabError` with every failed state of the first batch that fails.
        """
        changed = 0
        names = [node.name for node in nodes]
        for begin in range(0, len(names), HIGHSTATE_BATCH):
            batch = names[begin : begin + HIGHSTATE_BATCH]
            answers = self._highstate(batch)
            failures: dict[str, list[str]] = {}
            for name in batch:
                done, wrong = _judge(name, answers.get(name))
                changed += done
                for text in wrong:
                    failures.setdefault(text, []).append(name)
            if failures:
                lines = [f"  {', '.join(where)}: {text}" for text, where in failures.items()]
                raise LabError("\n".join(["the highstate failed:", *lines]))
        return changed

    def _highstate(self, batch: Sequence[str]) -> dict[str, Any]:
        """Results by minion; one that gave none (a lost answer, a minion just restarted) is asked
        again."""
        answers: dict[str, Any] = {}
        missing = list(batch)
        for _ in range(ATTEMPTS):
            given = self.call(missing, "state.apply", "queue=True", timeout=HIGHSTATE_SECONDS)
            answers.update({minion: given[minion] for minion in missing if given.get(minion)})
            missing = [
                minion for minion in batch if not isinstance(answers.get(minion), dict | list)
            ]
            if not missing:
                break
        return answers


def _judge(name: str, result: Any) -> tuple[int, list[str]]:
    """The number of changed states, and what failed by itself (not for want of another)."""
    if not isinstance(result, dict):
        say(f"            {name}: no states applied")
        return 0, [str(result or "no answer")]
    states = {identity: state for identity, state in result.items() if isinstance(state, dict)}
    failed = [identity for identity, state in states.items() if state.get("result") is False]
    changed = sum(bool(state.get("changes")) for state in states.values())
    took = sum(float(state.get("duration") or 0) for state in states.values()) / 1000
    say(
        f"            {name}: {len(states)} states in {took:.1f} s, "
        f"{changed} changed, {len(failed)} failed"
    )
    wrong = []
    for identity in failed:
        comment = str(states[identity].get("comment", "")).strip()
        if not comment.startswith("One or more requisite failed"):
            kind, label, _, function = identity.split("_|-")
            wrong.append(f"{label} ({kind}.{function}): {comment}")
    return changed, wrong
