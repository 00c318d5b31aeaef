"""The loop's numbers, as a collector gets them through Salt's own OpenTelemetry helpers."""

import json
import subprocess
import sys

from collector import collecting
from salt_world import ROOT

LOOP = """
import json, sys
import salt.utils.metrics
from rebalance_world import WS1, Keys, World
from pathlib import Path
from webfarm.rebalance.salt_bus import SaltMeter
folder, opts = sys.argv[1:]
salt.utils.metrics.configure(json.loads(opts))
world = World(Keys(Path(folder)))
world.controller.meter = SaltMeter()
world.settle(20)
world.report(WS1, critical=["php-fpm"])
world.report(WS1, requests=-1)
world.settle(20)
assert world.controller.counts["decisions"] > 1
print(json.dumps({**world.controller.counts, "accepted": world.controller.intake.accepted}))
salt.utils.metrics.shutdown()
"""


def test_reports_decisions_and_refusals_reach_a_collector(tmp_path) -> None:
    with collecting() as (collector, endpoint):
        metrics = {"enabled": True, "exporter": "otlp-http", "endpoint": endpoint}
        opts = {"__role": "master", "metrics": {**metrics, "export_interval_seconds": 60}}
        paths = [ROOT / "_utils", ROOT, ROOT / "tests", ROOT / "tests/unit"]
        done = subprocess.run(
            [sys.executable, "-c", LOOP, str(tmp_path / "keys"), json.dumps(opts)],
            env={"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    found = collector.values
    assert found["webfarm.rebalance.reports"][(("result", "fields"),)] == 1
    assert 0 < found["webfarm.rebalance.reports"][(("result", "accepted"),)] <= counted["accepted"]
    assert found["webfarm.rebalance.decisions"][()] == counted["decisions"]
    assert found["webfarm.rebalance.vectors"][()] == counted["vectors"]
    assert found["webfarm.rebalance.late"][()] == counted["ticks"]
    assert collector.units["webfarm.rebalance.late"] == "ms"
