from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, wait

import pytest

from vanilla_transformer.deployment.request_batching import ClosedError, QueueFullError, RequestBatches
from vanilla_transformer.modeling import Translation


class Words:
    def __call__(self, texts):
        return {"input_ids": [text.split() for text in texts]}


class Echo:
    """Stands for a translator: a text's translation is itself in capitals. It can be held, and remembers each call."""

    def __init__(self):
        self.tokenizer = Words()
        self.calls: list[tuple[list[str], dict]] = []
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.go.set()

    def translate(self, texts, *, split_long, max_tokens, **options):
        assert split_long
        self.calls.append((texts, options))
        self.begun.release()
        assert self.go.wait(5)
        if "wrong" in texts:
            raise ValueError(f"text {texts.index('wrong') + 1}: is wrong")
        return [Translation(text.upper(), -1.0, -1.0, text.split(), cut=text == "long") for text in texts]


@pytest.fixture
def echo() -> Echo:
    return Echo()


def hold(echo: Echo, batches: RequestBatches):
    """A request that keeps the translator busy until `echo.go.set()`."""
    echo.go.clear()
    future = batches.submit(["held"], {})
    assert echo.begun.acquire(timeout=5)
    return future


def texts_of(future) -> list[str]:
    return [translation.text for translation in future.result(timeout=5)]


def test_what_waits_goes_together_and_every_request_gets_its_own(echo):
    told = []
    with RequestBatches(echo, report=told.append) as batches:
        hold(echo, batches)
        futures = [batches.submit([f"a{n}", "long"][: n % 3], {"num_beams": 2}) for n in range(6)]
        assert batches.waiting == 6 and batches.unfinished == 7
        echo.go.set()
        assert [texts_of(future) for future in futures] == [[], ["A1"], ["A2", "LONG"], [], ["A4"], ["A5", "LONG"]]
    assert [texts for texts, _ in echo.calls] == [["held"], ["a1", "a2", "long", "a4", "a5", "long"]]
    batch = told[1]
    assert (batch.requests, batch.texts, batch.source_tokens, batch.output_tokens, batch.cut) == (6, 6, 6, 6, 2)


def test_only_equal_options_go_together_the_oldest_first(echo):
    with RequestBatches(echo) as batches:
        hold(echo, batches)
        asked = [("a", {"num_beams": 1}), ("b", {"num_beams": 2}), ("c", {"num_beams": 1}), ("d", {})]
        futures = [batches.submit([text], options) for text, options in asked]
        echo.go.set()
        wait(futures, timeout=5)
    assert echo.calls[1:] == [(["a", "c"], {"num_beams": 1}), (["b"], {"num_beams": 2}), (["d"], {})]


def test_samples_and_functions_are_alone(echo):
    with RequestBatches(echo) as batches:
        hold(echo, batches)
        futures = [batches.submit([text], {"do_sample": True}) for text in "ab"]
        functions = [batches.call(lambda translator, n=n: (translator, n)) for n in range(2)]
        echo.go.set()
        wait(futures, timeout=5)
        assert [function.result(5) for function in functions] == [(echo, 0), (echo, 1)]
    assert [texts for texts, _ in echo.calls] == [["held"], ["a"], ["b"]]


def test_a_batch_has_at_most_so_many_tokens_unless_one_request_has_more(echo):
    with RequestBatches(echo, max_batch_tokens=4) as batches:
        hold(echo, batches)
        futures = [batches.submit([text], {}) for text in ("1 2", "1 2", "1", "1 2 3 4 5 6", "1")]
        echo.go.set()
        wait(futures, timeout=5)
    assert [texts for texts, _ in echo.calls[1:]] == [["1 2", "1 2"], ["1"], ["1 2 3 4 5 6"], ["1"]]


def test_the_first_waits_for_others_until_there_is_enough(echo):
    with RequestBatches(echo, max_wait_ms=60_000, max_batch_tokens=2) as batches:
        first = batches.submit(["a"], {})
        time.sleep(0.02)
        second = batches.submit(["b"], {})
        assert texts_of(first) == ["A"] and texts_of(second) == ["B"]
    assert [texts for texts, _ in echo.calls] == [["a", "b"]]


def test_the_first_waits_no_longer_than_it_is_told(echo):
    with RequestBatches(echo, max_wait_ms=100) as batches:
        begin = time.monotonic()
        assert texts_of(batches.submit(["a"], {})) == ["A"]
        assert 0.1 <= time.monotonic() - begin < 5


def test_a_mistake_is_told_to_its_own_request_alone_with_its_own_position(echo):
    with RequestBatches(echo) as batches:
        hold(echo, batches)
        right, wrong, also_right = (batches.submit(texts, {}) for texts in (["a", "b"], ["c", "wrong"], ["d"]))
        echo.go.set()
        assert (texts_of(right), texts_of(also_right)) == (["A", "B"], ["D"])
        with pytest.raises(ValueError, match="^text 2: is wrong$"):
            wrong.result(5)
        assert texts_of(batches.submit(["e"], {})) == ["E"], "the thread lives on"


def test_a_full_queue_refuses_and_has_room_again_when_a_client_goes_away(echo):
    with RequestBatches(echo, max_queue=2) as batches:
        held = hold(echo, batches)
        first, second = (batches.submit([text], {}) for text in "ab")
        with pytest.raises(QueueFullError, match=r"2 requests are waiting \(--max-queue 2\)"):
            batches.submit(["c"], {})
        assert first.cancel() and batches.waiting == 1
        third = batches.submit(["c"], {})
        assert not held.cancel(), "it has begun"
        echo.go.set()
        assert texts_of(second) == ["B"] and texts_of(third) == ["C"]
        with pytest.raises(CancelledError):
            first.result(5)
    assert echo.calls[1:] == [(["b", "c"], {})], "what was cancelled was not computed"


def test_what_is_cancelled_at_the_last_moment_is_not_computed_either(echo, monkeypatch):
    with RequestBatches(echo) as batches:
        monkeypatch.setattr(batches, "_forget", lambda job: None)  # taken from the queue before it could be removed
        hold(echo, batches)
        late, other = (batches.submit([text], {}) for text in "ab")
        assert late.cancel()
        echo.go.set()
        assert texts_of(other) == ["B"]
        assert texts_of(batches.submit(["c"], {})) == ["C"], "the thread lives on"
    assert [texts for texts, _ in echo.calls] == [["held"], ["b"], ["c"]]


def test_closing_finishes_what_was_taken_and_takes_no_more(echo):
    batches = RequestBatches(echo)
    held = hold(echo, batches)
    waiting = batches.submit(["a"], {})
    batches.stop_taking()
    assert not batches.alive
    with pytest.raises(ClosedError):
        batches.submit(["b"], {})
    echo.go.set()
    assert batches.close(5) == 0
    assert texts_of(held) == ["HELD"] and texts_of(waiting) == ["A"]


def test_closing_ends_the_waiting_for_others(echo):
    batches = RequestBatches(echo, max_wait_ms=60_000)
    waiting = batches.submit(["a"], {})
    assert batches.close(5) == 0
    assert texts_of(waiting) == ["A"]


def test_closing_in_a_hurry_counts_what_is_given_up(echo):
    batches = RequestBatches(echo)
    hold(echo, batches)
    waiting = batches.submit(["a"], {})
    assert batches.close(0) == 2
    assert waiting.cancelled()
    echo.go.set()
    assert batches.close(5) == 0


def test_no_text_and_no_answer_stays_behind(echo):
    import gc
    import weakref

    class Text(str):
        __slots__ = ("__weakref__",)

    with RequestBatches(echo) as batches:
        text = Text("a")
        gone = weakref.ref(text)
        batches.submit([text], {}).result(5)
        echo.calls.clear()
        del text
        end = time.monotonic() + 5
        while gone() is not None and time.monotonic() < end:  # the thread has told the answer a moment before it lets go
            gc.collect()
            time.sleep(0.01)
        assert gone() is None, "though no other request has come"


def test_the_real_translator_gives_the_same_alone_and_together(tiny_translator):
    texts = ["A man sleeps.", "", "Two dogs run over the grass. " * 8, "Ein Mann"]
    expected = tiny_translator.translate(texts, split_long=True, n_best=2)
    held = threading.Event()
    with RequestBatches(tiny_translator) as batches:
        batches.call(lambda translator: held.wait(5))
        futures = [batches.submit([text], {"n_best": 2}) for text in texts]
        held.set()
        for future, alone in zip(futures, expected, strict=True):
            (made,) = future.result(20)
            assert [t.text for t in made.n_best] == [t.text for t in alone.n_best]
            assert made.pieces == alone.pieces and made.score == pytest.approx(alone.score, abs=1e-4)


def test_texts_are_measured_with_a_tokenizer_of_their_own(tiny_translator):
    """A fast tokenizer that two threads use fails now and then."""
    with RequestBatches(tiny_translator) as batches:
        assert batches._tokenizer is not tiny_translator.tokenizer
        assert batches.submit(["A man"], {}).result(20)
