"""The memory of a machine without an accelerator: what is free of it, and what tensors take.

A processor is not told when its memory is at an end: the process is killed. So one has to know before.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A container's limit and its use, by version 2 and version 1 of Linux' control groups.
_CONTAINER = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_bytes(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What is free of the machine's memory, or of its container's: an equal share for each process on this machine."""
    free = [psutil.virtual_memory().available]
    for limit, used in _CONTAINER:
        if (root / limit).is_file() and (root / used).is_file():
            limit, used = ((root / name).read_text().strip() for name in (limit, used))
            if limit.isdigit():  # or "max": there is none
                free.append(int(limit) - int(used))
    return max(0, min(free)) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is on, and live; `peak` is the most at once.

    No clock and no system is asked, so that the answer is the same each time; and a processor has no such counter.
    """

    def __init__(self):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if torch.is_tensor(tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:  # no view, no change in place
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._uncount, key).atexit = False

    def _uncount(self, key: int) -> None:
        self.now -= self.sizes.pop(key)
