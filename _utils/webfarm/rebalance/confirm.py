"""What a balancer says that it has applied, and whether it was the balancer that said it.

A job's return on the master's bus proves nothing: a minion may fire ``salt/job/JID/ret/OTHER`` in a
list of events, and every minion sees the jobs of all. So a balancer seals its answer with its own
key, and only that counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webfarm import signed
from webfarm.signed import APPLIED, Forged

FUNCTION = "haproxy_runtime.apply_weights"
MAX_BYTES = 262_144  # 512 servers of a farm: some 40 KiB
CLOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Confirmation:
    """What a balancer has of a farm's vector.

    epoch
        The last that it took.
    at
        Its clock, and so the order of its answers.
    applied
        For each server ``{"weight": …, "state": …}``, read back from HAProxy.
    left_alone
        Servers that a hand or a rollout has taken out, with the reason.
    kept_ready
        Servers that are not drained although the vector says so, with the reason.
    left
        Why the farm as a whole is left alone; empty: it is not.
    refused
        Why the vector was not taken; empty: it was.
    """

    epoch: int
    at: float
    applied: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)
    kept_ready: Mapping[str, str] = field(default_factory=dict)
    left: str = ""
    refused: str = ""


def proven(
    result: Mapping[str, Any], balancer: str, private_key: Path, now: float
) -> dict[str, Any]:
    """One ``result`` of ``apply_weights`` with a ``proof`` that this balancer said it."""
    body = {**result, "v": 1, "id": balancer, "at": now}
    return {**result, "proof": signed.seal(body, private_key, APPLIED)}


def results(returned: object) -> list[object]:
    """What ``apply_weights`` returned, one by one; nothing for a vector that could not be taken."""
    if not isinstance(returned, list):
        raise Forged("shape", f"an answer that is {type(returned).__name__}")
    return [one for one in returned if not (isinstance(one, Mapping) and one.keys() == {"error"})]


def read(
    balancer: str, returned: object, public_key: Path, now: float
) -> tuple[str, str, Confirmation]:
    """Site, farm and what the balancer has of it; :class:`Forged` when that is not proven."""
    proof = returned.get("proof") if isinstance(returned, Mapping) else None
    body = signed.open_(proof, public_key, APPLIED, MAX_BYTES)
    if body.get("id") != balancer:
        raise Forged("identity", f"an answer of {body.get('id')!a:.80}")
    at, epoch = body.get("at"), body.get("epoch")
    if not isinstance(at, float) or abs(at - now) > CLOCK_SECONDS:
        raise Forged("clock", f"an answer of another time; is the clock of {balancer} right?")
    site, farm = body.get("site"), body.get("farm")
    applied = _texts(body.get("applied"), Mapping)
    left_alone = _texts(body.get("left_alone"), str)
    kept_ready = _texts(body.get("kept_ready"), str)
    if not (
        type(epoch) is int
        and epoch >= 0
        and isinstance(site, str)
        and isinstance(farm, str)
        and applied is not None
        and left_alone is not None
        and kept_ready is not None
    ):
        raise Forged("fields", "an answer without site, farm or epoch, or with odd servers")
    left, refused = (str(body.get(key) or "")[:300] for key in ("left", "refused"))
    return site, farm, Confirmation(epoch, at, applied, left_alone, kept_ready, left, refused)


def _texts(value: object, kind: type) -> dict[str, Any] | None:
    if value is None:
        return {}
    if isinstance(value, Mapping) and all(isinstance(one, kind) for one in value.values()):
        return dict(value)
    return None
