"""What a batch frees is there for the next one."""

import ctypes
import os
import subprocess
import sys

import pytest

from vanilla_transformer.modeling import freed_memory

# Prints how much of a block of 30 MiB the allocator takes from the system directly, to give it back when it is freed.
PROGRAM = """
import ctypes, runpy, sys, torch

if sys.argv[1] == "keep":
    runpy.run_path(sys.argv[2])["keep_freed_memory"]()  # the file alone: the package would import transformers

class Usage(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd".split() + list("abcde")]

usage = ctypes.CDLL(None).mallinfo2
usage.restype = Usage
before = usage().hblkhd
block = torch.empty(30 * 2**20, dtype=torch.uint8)
print(usage().hblkhd - before)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33 or newer"
)
def test_large_blocks_are_not_given_back_to_the_system():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    from_the_system = {}
    for way in ("keep", "as it is"):
        line = [sys.executable, "-c", PROGRAM, way, freed_memory.__file__]
        from_the_system[way] = int(subprocess.run(line, env=environment, check=True, capture_output=True).stdout)
    assert from_the_system["keep"] == 0 and from_the_system["as it is"] > 30 * 2**20
