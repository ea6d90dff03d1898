"""What `/metrics` tells, in Prometheus' text format."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # a line more for each figure, of the time when it was first seen

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)


class Metrics:
    """The service's figures, apart from those of any other service in the process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        self.requests = Counter("vnet_requests", "Requests answered", ["path", "status"], registry=self.registry)
        self.seconds = Histogram("vnet_request_seconds", "From a request's headers to its answer", ["path"],
                                 buckets=_BUCKETS, registry=self.registry)
        self.stages = Histogram("vnet_stage_seconds", "Stages of a volume: read, preprocess, wait (for the network), "
                                "network, postprocess, write", ["stage"], buckets=_BUCKETS, registry=self.registry)
        self.taken = Gauge("vnet_places_taken", "Requests that have a place", registry=self.registry)
        self.places = Gauge("vnet_places", "Requests that may have a place at a time", registry=self.registry)
        self.gone = Counter("vnet_clients_gone", "Clients that left before their answer", registry=self.registry)

    def text(self) -> bytes:
        """Return all figures in the text format."""
        return generate_latest(self.registry)
