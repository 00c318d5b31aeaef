"""The cluster through Salt: publish to a list of minions, collect what returns in time.

A minion that does not answer in time is a :class:`Reply` like any other. Salt's own ``cmd`` is not
used: it waits for minions that are down far beyond its timeout, and it prints.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from webfarm.rollout import views
from webfarm.rollout.cluster import held
from webfarm.rollout.lease import Hold
from webfarm.rollout.model import Reply, Seen
from webfarm.topology import Topology

PUBLISH_SECONDS = 15
GRACE_SECONDS = 2.0  # for a server that was silent the last time: the others do not wait for it
PROBE_SECONDS = 10.0  # how often a long job's minions are asked whether it still runs


_CLASS = re.compile(r"^webfarm(\.\w+)+: ")


class SaltCluster:
    """A :class:`webfarm.rollout.cluster.Cluster` over ``salt.client.LocalClient``, handed in.

    client
        Has ``pub`` and ``event.get_event`` as LocalClient has them.
    """

    def __init__(
        self,
        client: Any,
        topology: Topology,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.topology = topology
        self.monotonic = monotonic
        self.hold: Hold | None = None
        self.silent: set[str] = set()

    def observe(self, site: str, farm: str | None, servers: bool = True) -> Seen:
        """See :class:`webfarm.rollout.cluster.Cluster`; balancers and servers are asked at once."""
        plan = self.topology.site(site)
        asked = [("haproxy_runtime.farms", list(plan.balancers))]
        if servers:
            farms = plan.farms.values() if farm is None else [self.topology.farm(site, farm)]
            names = [name for one in farms for name in one.servers]
            asked.append(("webfarm_release.status", names))
        return self._observe(site, asked, {})

    def observe_members(
        self, site: str, servers: Sequence[str], arguments: Mapping[str, Any]
    ) -> Seen:
        """See :class:`webfarm.rollout.cluster.Cluster`."""
        asked = [("haproxy_runtime.farms", list(self.topology.site(site).balancers))]
        if servers:
            asked.append(("webfarm_os.status", list(servers)))
        return self._observe(site, asked, arguments)

    def _observe(
        self, site: str, asked: Sequence[tuple[str, list[str]]], arguments: Mapping[str, Any]
    ) -> Seen:
        """Ask balancers and servers at once; ``arguments`` are for the servers."""
        plan = self.topology.site(site)
        seconds = plan.policy.answer_seconds
        jobs = [
            self._job(site, function, targets, arguments if number else {})
            for number, (function, targets) in enumerate(asked)
        ]
        # servers that were silent before must not make every look at the others slow
        self._collect(jobs, seconds, patient=set(plan.balancers))
        self.silent = {
            name for job in jobs for name, reply in job.replies.items() if reply.ok is None
        } | (self.silent if len(asked) == 1 else set())
        found = {name: reply for job in jobs for name, reply in job.replies.items()}
        return Seen(
            {name: views.balancer(name, found[name]) for name in plan.balancers},
            {
                name: views.server(name, found[name], function)
                for function, targets in asked[1:]
                for name in targets
            },
        )

    def call(
        self,
        site: str,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
        deadline: float,
    ) -> Mapping[str, Reply]:
        """See :class:`webfarm.rollout.cluster.Cluster`."""
        job = self._job(site, function, list(targets), arguments)
        self._collect([job], deadline, patient=set(targets), probe=True)
        return job.replies

    def _job(
        self, site: str, function: str, targets: Sequence[str], arguments: Mapping[str, Any]
    ) -> "_Job":
        if self.hold:
            self.hold.confirm()
        self._beat()
        return _Job(self, function, targets, held(self.hold, site, function, arguments))

    def _beat(self) -> None:
        if self.hold:
            self.hold.beat()

    def _collect(
        self, jobs: "Sequence[_Job]", deadline: float, patient: set[str], probe: bool = False
    ) -> None:
        start = self.monotonic()
        next_probe = start + PROBE_SECONDS
        while any(job.missing for job in jobs):
            self._beat()
            now = self.monotonic()
            spent = now - start
            for job in jobs:
                if spent >= deadline:
                    job.give_up(f"no answer in {deadline:.0f} s")
                elif spent >= GRACE_SECONDS:
                    for name in self.silent - patient:
                        job.give_up(f"no answer in {GRACE_SECONDS:.0f} s, nor before", name)
            if probe and now >= next_probe:
                for job in jobs:
                    job.probe()
                next_probe = self.monotonic() + PROBE_SECONDS
            self._take(jobs, min(1.0, max(0.05, deadline - spent)))

    def _take(self, jobs: "Sequence[_Job]", wait: float) -> None:
        """Read one event from the master's bus and give it to its job."""
        if not any(job.missing for job in jobs):
            return
        event = self.client.event.get_event(
            wait=wait, tag="salt/job/", match_type="startswith", full=True
        )
        if not isinstance(event, Mapping) or not isinstance(event.get("data"), Mapping):
            return
        for job in jobs:
            job.take(str(event.get("tag", "")), event["data"])


class _Job:
    """One published function: what its targets returned, and who is missing."""

    def __init__(
        self,
        cluster: SaltCluster,
        function: str,
        targets: Sequence[str],
        arguments: Mapping[str, Any],
    ) -> None:
        self.client = cluster.client
        self.function = function
        self.replies: dict[str, Reply] = {}
        self.missing = set(targets)
        self.running: set[str] | None = None
        self.probes: str = ""
        self.jid, accepted, error = self._publish(function, sorted(targets), arguments)
        for name in targets:
            if error:
                self.give_up(error, name)
            elif name not in accepted:
                self.give_up("the master has accepted no key of this minion", name)

    def _publish(
        self, function: str, targets: Sequence[str], arguments: Mapping[str, Any]
    ) -> tuple[str, set[str], str]:
        packed = [{"__kwarg__": True, **arguments}] if arguments else []
        try:
            sent = self.client.pub(
                list(targets),
                function,
                packed,
                tgt_type="list",
                timeout=PUBLISH_SECONDS,
                listen=True,
            )
        except Exception as error:  # the kinds are many; each means that nobody was asked
            why = str(error) or type(error).__name__
            return "", set(), f"the master could not publish {function}: {why}"
        if not isinstance(sent, Mapping) or not sent.get("jid"):
            return "", set(), "the master has accepted no key of this minion"
        return str(sent["jid"]), set(sent.get("minions") or ()), ""

    def take(self, tag: str, data: Mapping[str, Any]) -> None:
        """An event of the bus; only the first return of a target that is missing counts."""
        name = data.get("id")
        if tag == f"salt/job/{self.jid}/ret/{name}" and name in self.missing:
            self.missing.discard(str(name))
            self.replies[str(name)] = _reply(self.function, data)
        elif (
            self.probes
            and tag == f"salt/job/{self.probes}/ret/{name}"
            and self.running is not None
            and data.get("return")
        ):
            self.running.add(str(name))

    def give_up(self, why: str, name: str | None = None) -> None:
        """No answer is an answer."""
        for target in [name] if name is not None else sorted(self.missing):
            if target in self.missing:
                self.missing.discard(target)
                self.replies[target] = Reply(None, error=why)

    def probe(self) -> None:
        """Ask who is missing whether the job runs; who did not say so since the last is lost."""
        if self.running is not None:
            for name in sorted(self.missing - self.running):
                self.give_up("stopped running the job without an answer", name)
        self.running = set()
        if self.missing:
            self.probes, _, _ = self._publish(
                "saltutil.find_job", sorted(self.missing), {"jid": self.jid}
            )


def _reply(function: str, data: Mapping[str, Any]) -> Reply:
    value = data.get("return")
    if data.get("success") is False or data.get("retcode", 0) != 0:
        text = value if isinstance(value, str) else f"{function} failed: {value!r:.300}"
        text = text.removeprefix("ERROR: ").strip()
        if "Traceback" in text:  # what happened stands below the last indented line
            lines = text.splitlines()
            frames = [n for n, line in enumerate(lines) if line.startswith("  ")]
            text = _CLASS.sub("", "\n".join(lines[max(frames, default=0) + 1 :]) or lines[-1])
        return Reply(False, value, text[:1000])
    return Reply(True, value)
