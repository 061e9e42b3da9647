"""A search with real processes: Ctrl-C, SIGKILL, two commands on one study, and a bad trial that is stopped while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# Six that learn and two that cannot; this seed puts these two last, when there are the five complete ones that a median needs.
SEARCH = (
    "--search learning_rate=1e-6,2e-6,2e-3,4e-3,6e-3,8e-3,1e-2,2e-2 --sampler grid --sampler-seed 2 --jobs 2".split()
)
RUN = "--max-steps 60 --max-tokens 200 --eval-steps 10 --best-metric loss --warmup-steps 4 --seed 3".split()


@pytest.fixture
def begin(toy: Path, tiny_sizes: list[str], tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """`begin(log, "--resume")`: the command, in a process group of its own, as a shell starts it."""
    data = ["--train-file", f"{toy}/train.jsonl", "--validation-file", f"{toy}/validation.jsonl", "--source-lang", "en"]
    data += ["--target-lang", "de", "--tokenizer", f"{toy}/tokenizer", *tiny_sizes, *RUN, *SEARCH]

    def start(log: Path, *more: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "vanilla_transformer.scripts.search_hyperparameters", *data, *more]
        # A relative folder, because Optuna's own lock could not be taken from a dead process there.
        with log.open("ab") as file:
            return subprocess.Popen(
                [*line, "--output-dir", "search"], cwd=tmp_path, stdout=file, stderr=file, start_new_session=True
            )

    return start


def in_group(group: int) -> list[int]:
    """Processes that live in it, so much as they are known to the system."""
    lines = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    found = [line.split() for line in lines.splitlines()]
    return [int(pid) for pid, own, state in found if int(own) == group and not state.startswith("Z")]


def wait_until(condition: Callable[[], object], log: Path, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, log.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.05)


def rows(folder: Path) -> list[dict]:
    file = folder / "trials.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def test_interrupted_killed_and_helped_a_search_makes_each_trial_once(begin, tmp_path):
    search, log, helper_log = tmp_path / "search", tmp_path / "log.txt", tmp_path / "helper.txt"

    # Ctrl-C, which a terminal sends to all processes of the group, while two trials run.
    first = begin(log)
    wait_until(lambda: len(list(search.glob("trials/*/metrics.jsonl"))) == 2, log)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(300) == 130
    wait_until(lambda: not in_group(first.pid), log, 60)
    said = log.read_text(encoding="utf-8")
    assert "of 8 trials are done; continue with the same flags and --resume" in said and "Traceback" not in said
    assert not list(search.glob("trials/*.claim")), "what was broken off is free for others"
    done = rows(search)

    # SIGKILL, while a trial runs and at least one more is done.
    second = begin(log, "--resume")

    def half_made() -> set[str]:
        return {path.stem for path in search.glob("trials/*.claim")} - {row["folder"] for row in rows(search)}

    wait_until(lambda: len(rows(search)) > len(done) and half_made(), log)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    wait_until(lambda: not in_group(second.pid), log, 60)
    killed = rows(search)
    assert half_made(), "a trial that ran is not done"

    # Two commands go on with one study.
    both = [begin(log, "--resume"), begin(helper_log, "--resume")]
    assert [process.wait(900) for process in both] == [0, 0], log.read_text()[-2000:] + helper_log.read_text()[-2000:]
    found = rows(search)
    assert [row["trial"] for row in found] == list(range(1, 9))
    assert len({row["flags"]["learning_rate"] for row in found}) == 8
    assert all(row in found for row in killed), "what was done stays as it was"
    assert " of 8: " in helper_log.read_text(encoding="utf-8"), "the second command has made none"

    pruned = {row["flags"]["learning_rate"] for row in found if row["state"] == "pruned"}
    assert pruned >= {1e-6, 2e-6} and 2e-2 not in pruned, pruned
    for row in found:
        folder = search / "trials" / row["folder"]
        reported = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        if row["state"] == "pruned":
            assert max(reported) < 60
            assert "pruned at update" in (folder / "log.txt").read_text(encoding="utf-8").splitlines()[-1]
        else:
            assert max(reported) == 60
    best = min((row for row in found if row["state"] == "complete"), key=lambda row: row["score"])
    assert best["flags"]["learning_rate"] >= 6e-3
    assert len(list(search.glob("trials/*/model.safetensors"))) == 1
    assert (search / "importances.png").read_bytes()[:4] == b"\x89PNG"
