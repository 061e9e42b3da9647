"""What every test finds: no network, its own caches, one thread, and where the real data lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before anything imports these libraries, which read their environment once; subprocesses inherit it.
_caches = tempfile.mkdtemp(prefix="vanilla-transformer-tests-")
os.environ["HF_HOME"] = _caches  # datasets' and remote code's caches: a stale one could hide a failure
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may need the network
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tensors are tiny: a second thread only costs
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns after every fork otherwise

_root = Path(__file__).resolve().parents[1]


def pytest_unconfigure() -> None:
    shutil.rmtree(_caches, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data: $VANILLA_TRANSFORMER_DATA, or shared/data beside the checkout. Skips without it."""
    named = os.environ.get("VANILLA_TRANSFORMER_DATA")
    folder = Path(named) if named else _root.parent / "shared" / "data"
    if not folder.is_dir():
        if named:
            pytest.fail(f"VANILLA_TRANSFORMER_DATA={named} is not a folder")
        pytest.skip("the real data is not here: set VANILLA_TRANSFORMER_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository. Skips where the tests run alone, against an installed wheel."""
    if not (_root / "modeling").is_dir():
        pytest.skip("the tests run without the checkout")
    return _root


RunCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def run_command() -> RunCommand:
    """Runs the installed program: `run_command("translate", "--model", folder, input="Hello").stdout`."""
    program = Path(sysconfig.get_path("scripts")) / "vanilla-transformer"

    def run(*arguments: str | Path, input: str | None = None, **options) -> subprocess.CompletedProcess[str]:
        line = [str(program), *map(str, arguments)] if program.exists() else _as_module(arguments)
        return subprocess.run(line, input=input, capture_output=True, text=True, encoding="utf-8", **options)

    return run


def _as_module(arguments: tuple[str | Path, ...]) -> list[str]:
    return [sys.executable, "-m", "vanilla_transformer.scripts.command_line", *map(str, arguments)]
