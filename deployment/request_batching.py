"""Requests that come at the same time are translated together: one queue, one thread, one model.

A batch of 64 sentences takes far less than 64 times as long as one sentence. So while the model works, requests wait;
then all that ask for the same (equal options) go into one call of `Translator.translate`, the oldest first. Under
light load a request waits for nobody but `max_wait_ms`.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from vanilla_transformer.modeling import Translation


class QueueFullError(Exception):
    """As many requests wait as may."""


class ClosedError(Exception):
    """The service stops: nothing more is taken."""


@dataclass(eq=False)
class _Job:
    """One request: texts with options, or a function that wants the translator for itself."""

    texts: list[str]
    options: dict[str, Any]
    tokens: int
    function: Callable[[Any], Any] | None = None
    future: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    @property
    def alone(self) -> bool:
        # A sample's seed counts its text's place in the call: among others' texts it could not be repeated.
        return self.function is not None or bool(self.options.get("do_sample"))

    def joins(self, first: _Job) -> bool:
        return self is first or not (self.alone or first.alone) and self.options == first.options


@dataclass(frozen=True)
class Batch:
    """What one call of the translator was about, for who counts such things."""

    requests: int
    texts: int
    source_tokens: int
    output_tokens: int
    cut: int
    seconds: float


class RequestBatches:
    """The one thread that uses the translator, and the queue before it. Close it, or use it as a context.

        >>> with RequestBatches(translator) as batches:
        ...     batches.submit(["A man sleeps."], {"num_beams": 4}).result()[0].text

    Args:
        translator: a `Translator`, or whatever has its `translate` and `tokenizer`. Nobody else may use it meanwhile.
        max_queue: requests that may wait, besides those that are being translated.
        max_batch_tokens: source tokens of several requests that go into one call; a larger request has its own.
        max_wait_ms: how long the oldest request waits for others, in milliseconds, while the thread has nothing to do.
        report: called after each call of the translator, on its thread.
    """

    def __init__(
        self,
        translator,
        *,
        max_queue: int = 64,
        max_batch_tokens: int = 4096,
        max_wait_ms: float = 5,
        report: Callable[[Batch], None] = lambda batch: None,
    ):
        self.translator = translator
        self.max_queue, self.max_batch_tokens, self.max_wait_ms = max_queue, max_batch_tokens, max_wait_ms
        self._report = report
        # Texts are measured when they come. A fast tokenizer refuses ("Already borrowed") to serve two threads at once.
        self._tokenizer = copy.deepcopy(translator.tokenizer)
        self._waiting: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._changed = threading.Condition(threading.RLock())
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="translation", daemon=True)
        self._thread.start()

    def __enter__(self) -> RequestBatches:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def unfinished(self) -> int:
        """Requests in the queue or in the translator."""
        with self._changed:
            return len(self._waiting) + len(self._running)

    @property
    def alive(self) -> bool:
        """Whether requests are taken and will be answered."""
        return self._thread.is_alive() and not self._closing

    def submit(self, texts: Sequence[str], options: dict[str, Any]) -> Future[list[Translation]]:
        """Queue texts; the future has one `Translation` for each. Cancelled before its turn, it costs nothing.

        Args:
            options: of `Translator.translate`. What it refuses is raised by `future.result()`, in this request alone.

        Raises:
            QueueFullError, ClosedError: not taken.
        """
        return self._put(lambda: _Job(list(texts), options, self._count(texts)))

    def call(self, function: Callable[[Any], Any]) -> Future:
        """Queue `function(translator)`, to run between two batches. Raises as `submit` does."""
        return self._put(lambda: _Job([], {}, 0, function))

    def stop_taking(self) -> None:
        """From now on `submit` and `call` raise ClosedError. What was taken is still done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self, seconds: float | None = None) -> int:
        """Take no more, finish what was taken, at most so long. Returns how many requests were given up."""
        self.stop_taking()
        self._thread.join(seconds)
        with self._changed:
            left = [*self._running, *self._waiting]
            self._waiting.clear()
        for job in left:
            job.future.cancel()
        return len(left)

    def _put(self, make: Callable[[], _Job]) -> Future:
        with self._changed:
            if self._closing:
                raise ClosedError("the service stops")
            if len(self._waiting) >= self.max_queue:
                raise QueueFullError(f"{len(self._waiting)} requests are waiting (--max-queue {self.max_queue})")
            job = make()
            self._waiting.append(job)
            self._changed.notify_all()
        job.future.add_done_callback(lambda future: self._forget(job) if future.cancelled() else None)
        return job.future

    def _forget(self, job: _Job) -> None:
        """Its client went away: its place in the queue is free at once."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def _count(self, texts: Sequence[str]) -> int:
        return sum(map(len, self._tokenizer(list(texts))["input_ids"])) if texts else 0

    def _work(self) -> None:
        while batch := self._next_batch():
            begun = [job for job in batch if job.future.set_running_or_notify_cancel()]
            if begun:
                self._run(begun)
            with self._changed:
                self._running = []
            del batch, begun  # or the last texts and answers would stay in memory until the next come

    def _next_batch(self) -> list[_Job]:
        """Waits for requests. An empty list: closed, and all are done."""
        with self._changed:
            while True:
                if self._waiting:
                    batch, full = self._together()
                    patience = self._waiting[0].arrived + self.max_wait_ms / 1000 - time.monotonic()
                    if full or patience <= 0 or self._closing:
                        for job in batch:
                            self._waiting.remove(job)
                        self._running = batch
                        return batch
                    self._changed.wait(patience)
                elif self._closing:
                    return []
                else:
                    self._changed.wait()

    def _together(self) -> tuple[list[_Job], bool]:
        """The oldest request and those behind it that ask for the same; whether more have no room."""
        first, tokens, batch = self._waiting[0], 0, []
        for job in self._waiting:
            if job.joins(first):
                if batch and tokens + job.tokens > self.max_batch_tokens:
                    return batch, True
                batch.append(job)
                tokens += job.tokens
        return batch, first.alone or tokens >= self.max_batch_tokens or len(self._waiting) >= self.max_queue

    def _run(self, batch: list[_Job]) -> None:
        begin = time.perf_counter()
        try:
            results = self._results(batch)
        except Exception as error:  # whatever it is, the thread must live on for the others
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:  # one of them is to blame, and only that one shall hear of it
                for job in batch:
                    self._run([job])
            return
        if batch[0].function is None:
            self._report(_told(batch, results, time.perf_counter() - begin))
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(result)

    def _results(self, batch: list[_Job]) -> list[Any]:
        """One for each request."""
        if batch[0].function is not None:
            return [batch[0].function(self.translator)]
        texts = [text for job in batch for text in job.texts]
        # Texts longer than the model allows are translated in pieces, as `translate` does.
        options = {"split_long": True, "max_tokens": self.max_batch_tokens} | batch[0].options
        translations = iter(self.translator.translate(texts, **options))
        results = [[next(translations) for _ in job.texts] for job in batch]
        assert next(translations, None) is None, "more translations than texts"
        return results


def _told(batch: list[_Job], results: list[list[Translation]], seconds: float) -> Batch:
    made = [translation for result in results for translation in result]
    return Batch(
        requests=len(batch),
        texts=len(made),
        source_tokens=sum(job.tokens for job in batch),
        output_tokens=sum(len(translation.token_ids) for translation in made),
        cut=sum(translation.cut for translation in made),
        seconds=seconds,
    )
