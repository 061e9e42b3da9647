"""`translate` as a process: interrupted, killed, its reader gone; and its memory over a hundred thousand lines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def begin(*arguments: str | Path, **options) -> subprocess.Popen:
    line = [sys.executable, "-m", "vanilla_transformer.scripts.translate", *map(str, arguments)]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True, **options)


def succeeds(process: subprocess.Popen) -> str:
    """What it says on standard error."""
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """2,000 different lines, some of them empty."""
    path = tmp_path_factory.mktemp("source") / "lines"
    words = "A man Two dogs run over the grass sleeps on a bench".split()
    lines = [
        " ".join(words[(n * k) % len(words)] for k in range(n % 7)) + (f" {n}" if n % 7 else "") for n in range(2000)
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def flags(tiny_model_dir, source) -> list[str]:
    wanted = ["--chunk-lines", "40", "--num-beams", "2", "--format", "tsv", "--device", "cpu"]
    return ["--model", str(tiny_model_dir), "--input", str(source), *wanted]


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "out"
    succeeds(begin(*flags, "--output", path))
    return path.read_bytes()


def stopped_on_the_way(process: subprocess.Popen, partial: Path, number: int, more_than: int) -> bool:
    """Whether it was still running when so many bytes were written."""
    while process.poll() is None:
        if partial.exists() and partial.stat().st_size > more_than:
            os.kill(process.pid, number)
            return True
        time.sleep(0.001)
    return False


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9), (signal.SIGTERM, -15)])
def test_stopped_again_and_again_is_never_stopped(number, code, flags, whole, tmp_path):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    stops = 0
    for _ in range(3):
        resume = ["--resume"] if partial.exists() else []
        before = partial.stat().st_size if resume else 0
        process = begin(*flags, "--output", out, *resume)
        stopped = stopped_on_the_way(process, partial, number, before + len(whole) // 8)
        said = process.communicate()[1]
        if stopped:
            stops += 1
            assert process.returncode == code, said
            assert not out.exists() and (tmp_path / "out.progress").exists()
            if code == 130:
                assert (
                    "lines so far are in" in said
                    and said.splitlines()[-1] == "vanilla-transformer translate: interrupted"
                )
    assert stops >= 2
    succeeds(begin(*flags, "--output", out, "--resume"))
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_reader_that_goes_away_is_no_error(flags):
    with begin(*flags, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "line\trank\tscore\tnormalized_score\ttranslation\n"
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == ""


def test_a_slow_writer_gets_its_lines_at_once(tiny_model_dir):
    """A program that asks line by line, through pipes, must not wait for a full chunk."""
    flags = ["--model", tiny_model_dir, "--chunk-lines", "1", "--device", "cpu"]
    with begin(*flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for text in ("A man", "", "run"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert process.stdout.readline().endswith("\n")
        process.stdin.close()
        assert process.wait() == 0


MEASURED = """
import resource, sys
from vanilla_transformer.scripts.translate import main
status = main(sys.argv[1:])
print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak(flags: list[str], lines: int, tmp_path: Path) -> int:
    """MB at most, over so many short lines that are all different."""
    source = tmp_path / f"{lines}.txt"
    with source.open("w") as file:
        file.writelines(f"a {n}\n" for n in range(lines))
    line = [sys.executable, "-c", MEASURED, *flags, "--input", str(source), "--output", str(tmp_path / "out")]
    run = subprocess.run(line, capture_output=True, text=True, check=True)
    assert (tmp_path / "out").read_bytes().count(b"\n") == lines
    status, megabytes = map(int, run.stdout.split())
    assert status == 0
    return megabytes


def test_memory_does_not_grow_with_the_lines(tiny_model_dir, tmp_path):
    flags = ["--model", str(tiny_model_dir), "--num-beams", "1", "--device", "cpu"]
    small, large = (peak(flags, lines, tmp_path) for lines in (2_000, 20_000))
    print(f"peak: {small} MB over 2,000 lines, {large} MB over 20,000")
    assert large < small + 40, (small, large)


def test_a_line_of_ten_thousand_words(tiny_model_dir, tmp_path):
    words = " ".join(["A man sleeps on a bench."] * 1667)
    (tmp_path / "source").write_text(f"run\n{words}\nrun\n")
    out = tmp_path / "out"
    said = succeeds(
        begin("--model", tiny_model_dir, "--input", tmp_path / "source", "--output", out, "--num-beams", "1")
    )
    first, middle, last = out.read_text(encoding="utf-8").split("\n")[:-1]
    assert first == last and len(middle.split()) > 1000
    assert "1 lines longer than the model's 24 tokens, translated in pieces" in said
