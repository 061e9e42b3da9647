"""SIGKILL, which no program can answer: at random moments, and while a checkpoint is being written."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUN = "--max-steps 300 --max-tokens 200 --eval-steps 100 --save-steps 10 --keep-checkpoints 3 --best-metric loss".split()
RUN += "--warmup-steps 20 --learning-rate 1e-3 --dropout 0.1 --seed 3".split()


def begin(line: list[str], log: Path) -> subprocess.Popen:
    program = [sys.executable, "-m", "vanilla_transformer.scripts.finetune", *line]
    with log.open("a") as file:
        return subprocess.Popen(program, stdout=file, stderr=subprocess.STDOUT)


def kill_when(process: subprocess.Popen, moment: Callable[[], bool]) -> bool:
    """Whether it was still running when the moment came."""
    while process.poll() is None:
        if moment():
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005)
    return False


def newest(run: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*")), default=0)


def test_killed_again_and_again_is_never_killed_bit_for_bit(toy: Path, tiny_sizes: list[str], tmp_path: Path) -> None:
    data = ["--train-file", f"{toy}/train.jsonl", "--validation-file", f"{toy}/validation.jsonl", "--source-lang", "en"]
    data += ["--target-lang", "de", "--tokenizer", f"{toy}/tokenizer", "--task", "translation", *tiny_sizes, *RUN]
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log.txt"
    process = begin([*data, "--output-dir", str(whole)], log)
    assert process.wait() == 0, log.read_text()[-2000:]

    rng = random.Random(1)
    kills = 0
    for attempt in range(12):
        line = [*data, "--output-dir", str(killed), *(["--resume"] if newest(killed) else [])]
        before = newest(killed)
        wanted = before + 10 * rng.randint(1, 3)
        process = begin(line, log)

        def moment(before: int = before, wanted: int = wanted, is_saving: bool = attempt % 2 == 1) -> bool:
            if is_saving:
                return newest(killed) > before and any((killed / "checkpoints").glob(".unfinished-*"))
            return newest(killed) >= wanted and rng.random() < 0.02

        if not kill_when(process, moment):
            break
        kills += 1
    assert kills >= 4, f"only {kills} kills: {log.read_text()[-2000:]}"
    process = begin([*data, "--output-dir", str(killed), "--resume"], log)
    assert process.wait() == 0, log.read_text()[-2000:]

    for name in ("model.safetensors", "optimizer.safetensors", "random_state_0.safetensors"):
        ours, theirs = (load_file(run / "checkpoints" / "step-300" / name) for run in (killed, whole))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert not list((killed / "checkpoints").glob(".unfinished-*"))
