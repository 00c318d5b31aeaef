"""A collector of OpenTelemetry metrics on loopback, for what Salt's helpers export."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

Labels = tuple[tuple[str, str], ...]


class Collector:
    """The newest value of each metric, by name and labels: a sum, or a histogram's count."""

    def __init__(self) -> None:
        self.values: dict[str, dict[Labels, float]] = {}
        self.units: dict[str, str] = {}

    def take(self, body: bytes) -> None:
        """One export of one process."""
        request = ExportMetricsServiceRequest.FromString(body)
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self._metric(metric)

    def _metric(self, metric: Any) -> None:
        self.units[metric.name] = metric.unit
        found = self.values.setdefault(metric.name, {})
        for point in metric.sum.data_points:
            found[_labels(point)] = float(point.as_int or point.as_double)
        for point in metric.histogram.data_points:
            found[_labels(point)] = float(point.count)


def _labels(point: Any) -> Labels:
    return tuple(sorted((one.key, one.value.string_value) for one in point.attributes))


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector and its endpoint."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector, f"http://127.0.0.1:{server.server_port}/v1/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
