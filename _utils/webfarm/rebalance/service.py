"""The engine's loop: letters, ticks and events, until it is told to stop."""

import time
from collections.abc import Callable
from typing import Any

from webfarm.rebalance.controller import Controller
from webfarm.rebalance.mailbox import Mailbox
from webfarm.topology import Topology

IDLE_SECONDS = 0.5
"""So often it looks whether it shall stop, and whether the pillar has changed."""


def run(
    controller: Controller,
    mailbox: Mailbox,
    fire: Callable[[str, dict[str, Any]], None],
    stopped: Callable[[], bool],
    new_topology: Callable[[], Topology | None] = lambda: None,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Run until ``stopped``.

    fire
        Takes a tag and data.
    new_topology
        The pillar, once after each change of it, else None.
    """
    while not stopped():
        changed = new_topology()
        if changed is not None:
            controller.plan(changed, wall(), monotonic())
        # few at a time: a tick never waits for all the letters of a flood
        for letter in mailbox.take():
            for tag, data in controller.hear(letter):
                fire(tag, data)
        controller.counts["heard"] = mailbox.put_count
        controller.counts["coalesced"] = mailbox.coalesced
        for tag, data in controller.turn(wall(), monotonic()):
            fire(tag, data)
        mailbox.wait(min(IDLE_SECONDS, controller.wait(monotonic())))
