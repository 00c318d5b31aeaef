"""Letters are bounded by coalescing, senders take turns, ticks come before a flood of letters."""

import pytest
from rebalance_world import WS1, WS2, Keys, World
from webfarm.rebalance import service
from webfarm.rebalance.mailbox import Letter, Mailbox


def letter(sender: str, number: int = 0, size: int = 10) -> Letter:
    return Letter(sender, str(number), bytes(size), size, 0.0)


def test_each_senders_letters_stay_in_order_and_senders_take_turns() -> None:
    mailbox = Mailbox()
    for number in range(3):
        for sender in ("a", "b"):
            mailbox.put(letter(sender, number))
    mailbox.put(letter("c"))
    taken = [(one.sender, one.tag) for one in mailbox.take()]
    assert taken[:3] == [("a", "0"), ("b", "0"), ("c", "0")]
    assert [tag for sender, tag in taken if sender == "a"] == ["0", "1", "2"]
    assert mailbox.take() == []


def test_of_a_flood_the_senders_newest_stay_and_all_is_accounted_for() -> None:
    mailbox = Mailbox(per_sender=4)
    mailbox.put(letter("quiet"))
    for number in range(1000):
        mailbox.put(letter("loud", number))
    taken = mailbox.take()
    assert [one.tag for one in taken if one.sender == "loud"] == ["996", "997", "998", "999"]
    assert [one.sender for one in taken].count("quiet") == 1
    assert mailbox.put_count == len(taken) + mailbox.coalesced == 1001
    assert mailbox.bytes == 0


def test_memory_is_bounded_however_large_the_letters_are() -> None:
    mailbox = Mailbox(max_bytes=1000)
    for number in range(100):
        mailbox.put(letter("a", number, 300))
    assert mailbox.bytes <= 1000
    assert mailbox.take()[-1].tag == "99"


def test_few_letters_are_taken_at_a_time() -> None:
    mailbox = Mailbox()
    for sender in range(40):
        for number in range(10):
            mailbox.put(letter(str(sender), number))
    assert len(mailbox.take(256)) == 256
    assert len(mailbox.take(256)) == 144


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("pki"))


def test_ticks_come_while_letters_pour_in(keys: Keys) -> None:
    """The service with a clock that a turn moves, and a box that is never empty."""
    world = World(keys)
    for server in (WS1, WS2):
        world.report(server)
    fired: list[str] = []
    turns = iter(range(40))

    class Full(Mailbox):
        def take(self, most: int = 256) -> list[Letter]:
            tag = f"salt/beacon/{WS1}/webfarm_health/"
            return [Letter(WS1, tag, b"no report", 9, world.now)] * most

        def wait(self, seconds: float) -> None:
            assert seconds <= service.IDLE_SECONDS

    def clock() -> float:
        return world.now

    def stopped() -> bool:
        world.now += 0.5
        return next(turns, None) is None

    service.run(
        world.controller, Full(), lambda tag, _: fired.append(tag), stopped,
        wall=clock, monotonic=clock,
    )  # fmt: skip
    assert world.controller.counts["ticks"] >= 4 * 4
    # the first two with its ticks, then once a second because no balancer answers
    assert sum(tag.startswith("webfarm/weights/site1") for tag in fired) >= 12
    assert world.controller.counts["late"] == 0


def test_a_new_pillar_is_taken_up_between_letters(keys: Keys) -> None:
    from rebalance_world import pillar
    from webfarm import topology

    world = World(keys)
    new = [topology.parse(pillar(3))]
    turns = iter(range(3))
    service.run(
        world.controller,
        Mailbox(),
        lambda tag, data: None,
        lambda: next(turns, None) is None,
        lambda: new.pop() if new else None,
        wall=lambda: world.now,
        monotonic=lambda: world.now,
    )
    assert "site1-farm1-ws3" in world.controller.intake.servers
