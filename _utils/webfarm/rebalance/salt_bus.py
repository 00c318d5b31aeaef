"""The loop on a Salt master: its bus, its keys, its pillar, its metrics."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import salt.transport.base
import salt.utils.event
import salt.utils.metrics

from webfarm import files, signed
from webfarm.errors import WebfarmError
from webfarm.rebalance import service
from webfarm.rebalance.book import Book
from webfarm.rebalance.controller import Controller
from webfarm.rebalance.letters import Post
from webfarm.rebalance.mailbox import Mailbox
from webfarm.rollout import salt_master
from webfarm.signed import VECTOR
from webfarm.topology import Topology

log = logging.getLogger(__name__)

Opts = Mapping[str, Any]
RETRY_SECONDS = 10.0
FILE = "rebalance.sqlite"


def book_path(opts: Opts) -> Path:
    """Where the loop of this master keeps what it knows."""
    return Path(opts["cachedir"]) / "webfarm" / FILE


def run(opts: Opts, reload_seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
    """Run the loop of this master; only one does at a time.

    reload_seconds
        How often the pillar is looked at.
    """
    salt.utils.metrics.configure(dict(opts))
    path = book_path(opts)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if not _alone(stack, path.with_suffix(".lock"), stopped):
            return
        pillar = Pillar(opts, reload_seconds)
        topology = pillar.first(stopped)
        if topology is None:
            return
        book = stack.enter_context(Book(path))
        key, password = Path(opts["pki_dir"]) / "master.pem", opts.get("key_pass")
        controller = Controller(
            topology,
            Path(opts["pki_dir"]) / "minions",
            book,
            lambda body: signed.seal(body, key, VECTOR, password),
            time.time(),
            time.monotonic(),
            SaltMeter(),
        )
        mailbox = Mailbox()
        stack.enter_context(reading(opts, lambda: controller.post, mailbox))
        stack.enter_context(pillar.watched())
        fire = stack.enter_context(firing(opts))
        log.info("rebalance: %d farms", len(controller.farms))
        service.run(controller, mailbox, fire, stopped, pillar.changed)


def _alone(stack: contextlib.ExitStack, lock: Path, stopped: Callable[[], bool]) -> bool:
    """Wait until no other process of this master runs the loop; False when told to stop."""
    said = False
    while not stopped():
        try:
            stack.enter_context(files.locked(lock, 1.0, "the weights' loop of this master"))
            return True
        except files.Locked as error:
            if not said:
                log.warning("rebalance waits: %s", error)
            said = True
    return False


class Pillar:
    """The pillar ``webfarm``, compiled again now and then in a thread of its own."""

    def __init__(self, opts: Opts, seconds: float) -> None:
        self.opts, self.seconds = opts, seconds
        self.known: Topology | None = None
        self.new: Topology | None = None
        self.end = threading.Event()

    def first(self, stopped: Callable[[], bool]) -> Topology | None:
        """Wait for a valid pillar; None when told to stop."""
        said = ""
        while not stopped():
            try:
                self.known = salt_master.topology(self.opts)
                return self.known
            except WebfarmError as error:
                if str(error) != said:
                    said = str(error)
                    log.error("rebalance waits for the pillar: %s", error)
                self.end.wait(RETRY_SECONDS)
        return None

    def changed(self) -> Topology | None:
        """The pillar, once after each change."""
        new, self.new = self.new, None
        return new

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the pillar meanwhile."""
        thread = threading.Thread(target=self._watch, name="rebalance-pillar", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.end.set()
            thread.join(RETRY_SECONDS)

    def _watch(self) -> None:
        said = ""
        while not self.end.wait(self.seconds):
            try:
                found = salt_master.topology(self.opts)
            except Exception as error:  # renderers raise what they like
                if str(error) != said:
                    said = str(error)
                    log.error("rebalance goes on with the pillar of before: %s", error)
                continue
            said = ""
            if found != self.known:
                self.known = self.new = found
                log.info("rebalance: the pillar has changed")


@contextlib.contextmanager
def reading(opts: Opts, post: Callable[[], Post], mailbox: Mailbox) -> Iterator[None]:
    """Read the master's bus in a thread of its own and put what concerns the loop in the mailbox.

    The bus is read as fast as it comes, whatever is done with it: a subscriber that is slow makes
    Salt's event publisher keep what it could not send, without a bound (``ipc_write_buffer``).
    """
    reader = _Reader(opts, post, mailbox)
    thread = threading.Thread(target=reader.run, name="rebalance-bus", daemon=True)
    thread.start()
    try:
        reader.ready.wait(RETRY_SECONDS)
        yield
    finally:
        reader.stop()
        thread.join(RETRY_SECONDS)


class _Reader:
    def __init__(self, opts: Opts, post: Callable[[], Post], mailbox: Mailbox) -> None:
        self.opts, self.post, self.mailbox = opts, post, mailbox
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.task: asyncio.Task[None] | None = None

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.task = self.loop.create_task(self._read())
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self.task)
        self.loop.close()

    def stop(self) -> None:
        def cancel() -> None:
            if self.task is not None:
                self.task.cancel()

        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(cancel)

    async def _read(self) -> None:
        while True:
            client = salt.transport.base.ipc_publish_client("master", self.opts, self.loop)
            try:
                await client.connect()
                self.ready.set()
                while True:
                    raw = await client.recv()
                    if raw and (letter := self.post().letter(raw, time.time())) is not None:
                        self.mailbox.put(letter)
            except Exception:
                log.exception("rebalance: the master's bus could not be read; trying again")
                await asyncio.sleep(1)
            finally:
                client.close()


@contextlib.contextmanager
def firing(opts: Opts) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """Yields ``fire(tag, data)`` for the master's bus."""
    said = [0.0]
    with salt.utils.event.get_master_event(opts, opts["sock_dir"], listen=False) as bus:

        def fire(tag: str, data: dict[str, Any]) -> None:
            try:
                bus.fire_event(data, tag)
            except Exception as error:  # the kinds are many; the vector is sent again anyway
                if time.monotonic() - said[0] > 60:
                    said[0] = time.monotonic()
                    log.error("rebalance: the event %s could not be fired: %s", tag, error)

        yield fire


class SaltMeter:
    """Salt's OpenTelemetry metrics; they do nothing while ``metrics`` is off."""

    def count(self, name: str, number: int, **labels: str) -> None:
        """Add to a counter."""
        salt.utils.metrics.counter(name).add(number, attributes=labels)

    def record(self, name: str, value: float) -> None:
        """Add to a histogram, in milliseconds."""
        salt.utils.metrics.histogram(name, unit="ms").record(value)


def user() -> str:
    """Who types."""
    return os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid {os.getuid()}"
