"""The steps that a wave's members are asked to do themselves, while they are out of service."""

from webfarm.rollout.model import Step, listed
from webfarm.rollout.preflight import percent
from webfarm.rollout.waves.situation import BACK, WaveSituation

SNAPSHOT_SECONDS = 120.0
RESTART_SECONDS = 120.0


def preflight(now: WaveSituation, members: list[str]) -> Step:
    """Room for a snapshot, and packages that are still what was certified; changes nothing."""
    policy = now.site.policy
    return Step(
        "preflight",
        tuple(members),
        f"without them the site keeps {percent(now.site_keeps(members))}, "
        f"{percent(policy.min_capacity)} are required",
        max(120.0, policy.answer_seconds),
        "webfarm_snapshot.space",
    )


def step(now: WaveSituation, group: list[str]) -> Step | None:
    """The next thing to do on members whose work is not done."""
    working = [name for name in group if not now.worked(name)]
    if not working:
        return None
    back = [name for name in working if now.way(name) == BACK]
    return _back(now, back) if back else _forward(now, working)


def _forward(now: WaveSituation, working: list[str]) -> Step:
    bare = [
        name
        for name in working
        if now.snapshots(name) and not now.installed(name) and not now.has_snapshot(name)
    ]
    if bare:
        return Step(
            "snapshot",
            tuple(bare),
            "the way back, before anything is changed",
            SNAPSHOT_SECONDS,
            "webfarm_snapshot.take",
        )
    lacking = [name for name in working if not now.installed(name)]
    if lacking:
        none = [name for name in lacking if not now.snapshots(name)]
        said = f"no snapshot of {listed(none)}: there is no provider" if none else "snapshots taken"
        return install(now, lacking, said)
    rebooting = [name for name in working if now.reboots(name)]
    if rebooting:
        return _reboot(now, rebooting, "the packages need it")
    return Step(
        "restart",
        tuple(working),
        "our services run from the new files",
        RESTART_SECONDS,
        "webfarm_os.restart",
    )


def install(now: WaveSituation, lacking: list[str], said: str) -> Step:
    """Exactly what was certified."""
    return Step(
        "install",
        tuple(lacking),
        f"{listed(sorted(set().union(*map(now.lacks, lacking))))}; {said}",
        now.site.policy.install_seconds,
        "webfarm_packages.install",
    )


def _back(now: WaveSituation, working: list[str]) -> Step:
    unset = [name for name in working if f"restored {name}" not in now.memory.done]
    if unset:
        return Step(
            "restore",
            tuple(unset),
            "the next boot is from the snapshot of before",
            SNAPSHOT_SECONDS,
            "webfarm_snapshot.restore",
        )
    return _reboot(now, working, "into the snapshot of before")


def _reboot(now: WaveSituation, members: list[str], why: str) -> Step:
    return Step(
        "reboot",
        tuple(members),
        f"{why}; a new boot id proves it",
        now.site.policy.reboot_seconds,
        "webfarm_os.reboot",
    )
