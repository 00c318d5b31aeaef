"""Simulated time: one heap of events, one random generator, and actors that take turns.

An actor (a `salt-run`, the test itself) is a thread, but only one of them runs at any moment: who
sleeps lets events happen until somebody is due, and hands the turn over. So real code with loops
and sleeps runs interleaved with other real code, and the same seed gives the same run.
"""

import heapq
import random
import threading
from collections.abc import Callable

START = 1_795_000_000.0  # seconds since the epoch


class Killed(BaseException):
    """The process was killed; not an Exception, nothing may handle it."""


class Actor:
    """One thread of control; ``frozen_until`` is when a suspended one goes on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turn = threading.Semaphore(0)
        self.ticket = 0
        self.killed = False
        self.frozen_until = 0.0
        self.over = False
        self.waits: Actor | None = None


class Timeline:
    """See the module; ``now`` is the true time, that no clock of the cluster can change."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = START
        self.trace: list[str] = []
        self.main = Actor("test")
        self.current = self.main
        self.actors: list[Actor] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._due: Actor | None = None
        self._failure: BaseException | None = None
        self._closing = False
        self.after_event: Callable[[], None] = lambda: None

    def log(self, text: str) -> None:
        """One line of the trace that a failure shows."""
        self.trace.append(f"{self.now - START:8.2f} {text}")

    def at(self, delay: float, what: Callable[[], None]) -> None:
        """Let ``what`` happen ``delay`` seconds from now."""
        self._count += 1
        heapq.heappush(self._events, (self.now + max(0.0, delay), self._count, what))

    def sleep(self, seconds: float) -> None:
        """Let time pass for the current actor; a promise broken meanwhile ends the test."""
        me = self.current
        if me.killed:
            raise Killed
        me.ticket += 1
        ticket = me.ticket
        self.at(seconds, lambda: self._wake(me, ticket))
        self._rest(me)

    def join(self, actor: Actor, longest: float) -> bool:
        """Wait until ``actor`` has ended; false when that takes longer than ``longest``."""
        end = self.now + longest
        actor.waits = self.current
        while not actor.over and self.now < end:
            self.sleep(end - self.now)
        return actor.over

    def wake(self, actor: Actor) -> None:
        """End the sleep of ``actor`` now."""
        ticket = actor.ticket
        self.at(0, lambda: self._wake(actor, ticket))

    def start(self, name: str, work: Callable[[], None]) -> Actor:
        """A new actor that begins at once; an error that it does not handle ends the test."""
        actor = Actor(name)

        def body() -> None:
            actor.turn.acquire()
            try:
                if not actor.killed:
                    work()
            except Killed:
                pass
            except BaseException as error:
                if not actor.killed:
                    self._failure = self._failure or error
            actor.over = True
            self.actors.remove(actor)
            if actor.waits is not None:
                self.wake(actor.waits)
            self._hand_over(self.main if self._closing else self._next())

        threading.Thread(target=body, daemon=True, name=name).start()
        self.actors.append(actor)
        self.at(0, lambda: self._wake(actor, 0))
        return actor

    def end(self, actor: Actor) -> None:
        """SIGKILL: it does nothing more, not even clean up."""
        if not actor.over:
            actor.killed = True
            actor.frozen_until = 0.0
            self.wake(actor)

    def freeze(self, actor: Actor, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after ``seconds``."""
        actor.frozen_until = self.now + seconds

    def close(self) -> None:
        """End all actors; the test's thread calls it when it is done."""
        self._closing = True
        for actor in list(self.actors):
            actor.killed = True
            actor.turn.release()
            self.main.turn.acquire()
        self.current = self.main

    # -- turns ------------------------------------------------------------------------------------

    def _wake(self, actor: Actor, ticket: int) -> None:
        if actor.over or actor.ticket != ticket:
            return
        if self.now < actor.frozen_until:
            self.at(actor.frozen_until - self.now, lambda: self._wake(actor, ticket))
            return
        self._due = actor

    def _next(self) -> Actor:
        """Let events happen until an actor is due; the test is, when a promise was broken."""
        while self._failure is None:
            if not self._events:
                self._failure = RuntimeError("nothing will ever happen again")
                break
            self.now, _, what = heapq.heappop(self._events)
            try:
                what()
                self.after_event()
            except Exception as error:
                self._failure = error
                break
            if self._due is not None:
                actor, self._due = self._due, None
                return actor
        return self.main

    def _rest(self, me: Actor) -> None:
        actor = self._next()
        if actor is not me:
            self._hand_over(actor)
            me.turn.acquire()
            self.current = me
        if me.killed:
            raise Killed
        if me is self.main and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _hand_over(self, actor: Actor) -> None:
        self.current = actor
        actor.turn.release()
