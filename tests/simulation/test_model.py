"""Every interleaving of a small cluster: see :mod:`.model` for what is in it and what is not."""

from typing import Any

from tests.conftest import EXAMPLE

from .drive import pillar_of
from .explore import Summary, explore
from .model import model_of


def exhaustive() -> Summary:
    """The whole model."""
    return explore(model_of(pillar_of(EXAMPLE, 3, soak_seconds=0)))


def test_every_state_of_the_small_model_keeps_the_promises(record_property: Any) -> None:
    summary = exhaustive()
    record_property("simulation", f"{'exhaustive model':<42}{summary}")
    assert summary.states > 50_000
    assert summary.ends > 100
