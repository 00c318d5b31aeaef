"""Letters between the thread that reads the bus and the one that decides; bounded by coalescing.

When letters come faster than they are opened, each sender's newest stay and its oldest go: a report
speaks of now, so the newest one says all that the loop has to know. Nobody's flood displaces
anybody else's letters, and senders take turns.
"""

import threading
from collections import deque
from dataclasses import dataclass

PER_SENDER = 16
MAX_LETTER = 8_192
MAX_ANSWER = 524_288
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Letter:
    """An event of the bus as it came.

    sender
        Who it claims to be from, or ``?`` for everybody whom the pillar does not name.
    payload
        MessagePack; None: longer than is taken, and ``size`` says how long.
    came
        The master's clock when it was read.
    """

    sender: str
    tag: str
    payload: bytes | None
    size: int
    came: float


class Mailbox:
    """A queue for each sender, of at most ``per_sender`` letters; from any thread."""

    def __init__(self, per_sender: int = PER_SENDER, max_bytes: int = MAX_BYTES) -> None:
        self.per_sender, self.max_bytes = per_sender, max_bytes
        self.put_count = 0
        self.coalesced = 0
        self.bytes = 0
        self._boxes: dict[str, deque[Letter]] = {}
        self._came = threading.Condition()

    def put(self, letter: Letter) -> None:
        """Take a letter in; the sender's oldest go when there is no more room."""
        held = len(letter.payload or b"")
        with self._came:
            self.put_count += 1
            box = self._boxes.setdefault(letter.sender, deque())
            while box and (len(box) >= self.per_sender or self.bytes + held > self.max_bytes):
                self.bytes -= len(box.popleft().payload or b"")
                self.coalesced += 1
            box.append(letter)
            self.bytes += held
            self._came.notify()

    def take(self, most: int = 256) -> list[Letter]:
        """Up to ``most`` letters: one of each sender in turn, each sender's in their order."""
        taken: list[Letter] = []
        with self._came:
            while self._boxes and len(taken) < most:
                for sender in list(self._boxes)[: most - len(taken)]:
                    box = self._boxes.pop(sender)
                    taken.append(box.popleft())
                    self.bytes -= len(taken[-1].payload or b"")
                    if box:
                        self._boxes[sender] = box  # behind the others
        return taken

    def wait(self, seconds: float) -> None:
        """Until a letter is there, at most so long."""
        with self._came:
            if not self._boxes:
                self._came.wait(max(0.0, seconds))
