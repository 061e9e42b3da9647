"""A thread that makes items ahead: the same items, errors where they belong, and an end."""

from __future__ import annotations

import threading
import time
from itertools import count

import pytest

from vanilla_transformer.training.prefetching import Prefetched


def test_the_items_in_their_order_and_then_the_end():
    made = Prefetched(range(20), 3)
    assert list(made) == list(range(20)) and list(made) == []
    made.close()


def test_no_more_than_it_should_wait():
    begun: list[int] = []

    def items():
        for number in count():
            begun.append(number)
            yield number

    made = Prefetched(items(), 2)
    assert next(made) == 0
    time.sleep(0.1)
    assert len(begun) <= 4  # one is used, two wait, one is in the making
    made.close()
    assert not made._thread.is_alive()


def test_an_error_comes_where_its_item_would_have_and_again():
    def items():
        yield 1
        raise ValueError("row 2 is misshapen")

    made = Prefetched(items(), 4)
    assert next(made) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="row 2 is misshapen"):
            next(made)
    made.close()


def test_whoever_waits_is_told_when_it_is_closed():
    asked, go = threading.Event(), threading.Event()

    def items():
        asked.set()
        go.wait(5)
        yield 1

    made = Prefetched(items(), 1)
    left: list[list[int]] = []
    waiting = threading.Thread(target=lambda: left.append(list(made)))
    waiting.start()
    assert asked.wait(5)
    closing = threading.Thread(target=made.close)
    closing.start()
    waiting.join(5)
    assert left == [[]]
    go.set()
    closing.join(5)
    assert not closing.is_alive()


def test_a_thread_that_is_gone_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(Prefetched, "_make", lambda self, items: None)
    with pytest.raises(RuntimeError, match="the thread that prepares the batches is gone; start again with --resume"):
        next(Prefetched([1], 1))
