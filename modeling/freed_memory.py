"""Memory that is freed, and taken again by the next batch."""

import torch

LARGEST_THAT_COUNTS = 2**25 - 2**16  # bytes; glibc heeds blocks below 32 MiB, its own headers included


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MiB of freed memory, where it would have given it back to the system.

    The system clears every page that it hands out, and a batch takes what the one before has freed: of a beam search that
    took a sixth of the time (docs/experiments.md). glibc adapts to a program, up to this, when a large block is freed; here
    one is, once for all. With another allocator, or where the environment sets glibc's thresholds, nothing changes.
    """
    torch.empty(LARGEST_THAT_COUNTS, dtype=torch.uint8)
