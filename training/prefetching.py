"""Items that a thread makes while the ones before them are used: `for batch in Prefetched(batches, ahead=4)`.

Reading files, the tokenizer and copies to pinned memory leave Python to others while they work, so a thread is enough, and it
shares what a worker process would have to be sent. The items are the same, in the same order, as without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
_SECONDS_BETWEEN_LOOKS = 0.1


class _End:
    """What the thread puts last: it is finished, or has failed."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class Prefetched(Iterator[Item], Generic[Item]):
    """The items, of which up to `ahead` wait, made, and one more is in the making. The thread begins at once.

    What `items` raises is raised by `next`, in its place.

    Raises:
        RuntimeError: by `next`: the thread is gone without a word.
    """

    def __init__(self, items: Iterable[Item], ahead: int):
        self._made: Queue[Any] = Queue(ahead)
        self._closed = threading.Event()
        # If nobody closes it, it must not keep the program alive.
        self._thread = threading.Thread(target=self._make, args=(items,), name="prefetched", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        while not self._closed.is_set():
            alive = self._thread.is_alive()  # asked first: what it put before it ended is then there
            try:
                item = self._made.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except Empty:
                if not alive:
                    raise RuntimeError(
                        "the thread that prepares the batches is gone; start again with --resume, from the last checkpoint"
                    ) from None
                continue
            if isinstance(item, _End):
                self._made.put(item)  # for whoever asks again
                if item.error is not None:
                    raise item.error
                break
            return item
        raise StopIteration

    def close(self) -> None:
        """No more items, from whichever thread this is called; waits until the one in the making is made."""
        self._closed.set()
        # A thread in the middle of something when the interpreter ends may bring it down.
        self._thread.join()

    def _make(self, items: Iterable[Item]) -> None:
        end = _End()
        try:
            for item in items:
                if not self._put(item):
                    return
        except BaseException as error:  # whatever it is, the one who waits for an item must know
            end = _End(error)
        self._put(end)

    def _put(self, item: Any) -> bool:
        while not self._closed.is_set():
            try:
                self._made.put(item, timeout=_SECONDS_BETWEEN_LOOKS)
                return True
            except Full:
                pass
        return False
