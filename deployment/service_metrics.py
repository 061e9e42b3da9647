"""What the service counts, as Prometheus reads it at /metrics.

Requests by status code, how long they took, how long the queue is, how large batches become, tokens in and out.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from vanilla_transformer.deployment.request_batching import Batch

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServiceMetrics:
    """A registry of its own: two services in one process do not add up.

    Attributes:
        media_type: of `text`.
    """

    media_type = CONTENT_TYPE_LATEST

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "vanilla_transformer"}
        self._requests = Counter("requests", "Requests to /translate, by the status code of the answer.", ["code"], **own)
        self._seconds = Histogram("request_seconds", "From a request's arrival to its answer.", buckets=SECONDS, **own)
        self._batch_seconds = Histogram("batch_seconds", "One call of the translator.", buckets=SECONDS, **own)
        self._batch_requests = Histogram("batch_requests", "Requests translated together.", buckets=SIZES, **own)
        self._batch_texts = Histogram("batch_texts", "Texts translated together.", buckets=SIZES, **own)
        self._source_tokens = Counter("source_tokens", "Tokens of translated texts.", **own)
        self._output_tokens = Counter("output_tokens", "Tokens of translations.", **own)
        self._cut = Counter("cut_outputs", "Translations that reached their bound without an end.", **own)
        self._queue = Gauge("queue_length", "Requests that wait for the translator.", **own)
        for code in (200, 413, 422, 499, 500, 503, 504):
            self._requests.labels(code)  # there from the start: a rate needs a zero to begin with

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Ask `length` whenever somebody reads the metrics."""
        self._queue.set_function(length)

    def add_request(self, code: int, seconds: float) -> None:
        self._requests.labels(code).inc()
        self._seconds.observe(seconds)

    def add_batch(self, batch: Batch) -> None:
        self._batch_seconds.observe(batch.seconds)
        self._batch_requests.observe(batch.requests)
        self._batch_texts.observe(batch.texts)
        self._source_tokens.inc(batch.source_tokens)
        self._output_tokens.inc(batch.output_tokens)
        self._cut.inc(batch.cut)

    def text(self) -> bytes:
        return generate_latest(self.registry)
