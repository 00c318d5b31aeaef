"""The parameters of the weights' law: the pillar's ``webfarm:sites:SITE:weights``."""

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from webfarm.shape import Model, Share

Seconds = Annotated[float, Field(ge=0.1, le=86400)]
Step = Annotated[float, Field(gt=1, le=10)]


class Law(Model):
    """How the weights of a site's farms follow what their servers report.

    The formula is in :mod:`webfarm.weights`. Sources: *facts* are simulations and measurements of
    leastconn farms with 20 servers; others are the systems that use such a value.

    on
        False: every weight is its base, nothing is drained.
    tick
        Seconds from one decision on a farm to the next (facts: 4 s; a shorter one only adds noise).
    half_life_down, half_life_up
        Seconds in which half of a change of an estimate is believed, to the worse and to the better
        (facts: 3 and 12 s: bad news must not wait, good news may be luck; Finagle's peak-EWMA is
        as lopsided).
    gamma
        The exponent that turns a ratio of capacities into a ratio of weights (facts: 0.5 with
        leastconn, which follows speed by itself; 1 with roundrobin). It is the loop's gain where
        service times grow with load: above 0.5 a delay of a tick may make weights swing.
    floor, ceiling
        The smallest and the largest weight, as parts of the base (facts).
    step_down, step_up
        By how much a weight may be divided, and multiplied, in a tick (facts).
    deadband, home
        Differences up to ``deadband``, as a share of the current weight, are left alone (facts). A
        target that is within ``home`` of the base is the base, so that noise does not keep a server
        away from it. Measured: two equal servers on a busy machine differ by a third in speed.
    min_load, min_requests
        How much a server must have done before its speed is believed: this part of its php-fpm
        processes busy, or so many requests. Less is added up until it is enough. When the times of
        requests differ more than at random, more are needed to move the estimate as much.
    psi_weight
        How much a stall counts (pressure of cpu, memory or io, the worst): where something waits
        for the part p of the time, a server counts as 1 + psi_weight * p / (1 - p) times as slow.
    error_rate, error_factor
        An outlier's share of 5xx is above this, and above this many times the farm's median
        (Envoy and AWS compare with the others too: an error that all have is not one server's).
    eject_share
        At most this share of a farm is drained for errors at a time, but always one may be
        (Envoy 10 %; facts 20 %).
    eject_seconds, eject_longest
        The n-th ejection in a row lasts n times the former, at most the latter (Envoy). They are
        no more in a row after ``eject_longest`` seconds in service.
    ramp_seconds
        A server that comes back goes from ``floor`` to its full weight in no less (Envoy's slow
        start; AWS' slow return).
    stale_seconds
        A server whose last report is older is left as it is.
    expiry_seconds
        An estimate that is older counts no more: the weight goes back to its base (gRPC A58: 180).
    blind_share, blind_seconds, decay
        When more than this share of the servers is silent, nothing moves for so many seconds, and
        then all weights go back to their bases, this share of the way with each tick.
    """

    model_config = ConfigDict(strict=True)

    on: bool = True
    tick: Annotated[float, Field(ge=1, le=60)] = 4
    half_life_down: Seconds = 3
    half_life_up: Seconds = 12
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.5
    floor: Annotated[float, Field(ge=0.01, lt=1)] = 0.1
    ceiling: Annotated[float, Field(gt=1, le=10)] = 2.0
    step_down: Step = 1.6
    step_up: Step = 1.25
    deadband: Annotated[float, Field(ge=0, le=0.5)] = 0.06
    home: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    min_load: Share = 0.05
    min_requests: Annotated[int, Field(ge=1, le=100_000)] = 10
    psi_weight: Annotated[float, Field(ge=0, le=10)] = 1 / 3
    error_rate: Annotated[float, Field(gt=0, le=1)] = 0.2
    error_factor: Annotated[float, Field(ge=1, le=1000)] = 3.0
    eject_share: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    eject_seconds: Seconds = 30
    eject_longest: Seconds = 300
    ramp_seconds: Seconds = 30
    stale_seconds: Seconds = 10
    expiry_seconds: Seconds = 180
    blind_share: Share = 0.5
    blind_seconds: Seconds = 30
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _in_order(self) -> "Law":
        if self.eject_longest < self.eject_seconds:
            raise ValueError("`eject_longest` must not be less than `eject_seconds`")
        if self.expiry_seconds < self.stale_seconds:
            raise ValueError("`expiry_seconds` must not be less than `stale_seconds`")
        return self
