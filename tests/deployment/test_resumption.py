"""An output that is interrupted anywhere and resumed has the bytes of one that never was."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from vanilla_transformer.deployment.resumption import ResumableOutput

LINES = [f"line {n} ä" for n in range(10)]


def run(path, lines=LINES, stop_at: int | None = None, resume: bool = False, chunk: int = 3, **decides) -> list[str]:
    """Writes each line in capitals; the lines that were worked on. Interrupted before the line `stop_at`."""
    worked = []
    with ResumableOutput(str(path), {"beams": 4, **decides}, resume) as out:
        texts = out.rest(lines)
        number = out.lines
        while some := list(islice(texts, chunk)):
            for text in some:
                if number == stop_at:
                    raise KeyboardInterrupt
                worked.append(text)
                out.write(text.upper() + "\n")
                number += 1
            out.save(len(some))
    return worked


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("stop_at", range(3, 10))
def test_interrupted_anywhere_and_resumed(tmp_path, stop_at, capsys):
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=stop_at)
    assert path.read_text() == "old" and names(tmp_path) == ["out", "out.partial", "out.progress"]
    assert f"{stop_at // 3 * 3} lines so far are in {path}.partial: --resume goes on" in capsys.readouterr().err
    assert run(path, resume=True) == LINES[stop_at // 3 * 3 :]  # nothing that was whole is done again
    assert path.read_text(encoding="utf-8") == "".join(line.upper() + "\n" for line in LINES)
    assert names(tmp_path) == ["out"]


def test_interrupted_twice(tmp_path):
    path = tmp_path / "out"
    for stop, resume in ((4, False), (8, True)):
        with pytest.raises(KeyboardInterrupt):
            run(path, stop_at=stop, resume=resume)
    assert run(path, resume=True) == LINES[6:]
    assert path.read_text(encoding="utf-8") == "".join(line.upper() + "\n" for line in LINES)


def test_nothing_is_left_where_nothing_was_finished(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at=2)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "lines, decides, message",
    [
        (["other", *LINES[1:]], {}, "the 6 lines of input that it was made from have changed"),
        ([LINES[0] + LINES[1], "", *LINES[2:]], {}, "have changed"),
        (LINES[:5], {}, r"is of 6 lines of input, which now ends after 5"),
        (LINES, {"beams": 5}, r"begun with something else \(beams: 4 -> 5\)"),
        (LINES, {"more": True}, r"\(more: None -> True\)"),
    ],
)
def test_what_has_changed_is_refused_and_nothing_lost(tmp_path, lines, decides, message):
    path = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=7)
    with pytest.raises(ValueError, match=message):
        run(path, lines, resume=True, **decides)
    assert run(path, resume=True) == LINES[6:]


def test_lines_that_came_after_or_went_are_heeded(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=7)
    assert run(path, [*LINES, "new"], resume=True) == [*LINES[6:], "new"]
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=8)  # two lines more are in the file than are whole
    assert run(path, LINES[:6], resume=True) == []
    assert path.read_text(encoding="utf-8") == "".join(line.upper() + "\n" for line in LINES[:6])


def test_use_that_would_lose_something_is_refused(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(ValueError, match="nothing of it was saved in .*out.partial yet; leave out --resume"):
        run(path, resume=True)
    with pytest.raises(ValueError, match="is a folder"):
        run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=7)
    with pytest.raises(ValueError, match="a part of it is in .*out.partial; go on with --resume, or remove that file"):
        run(path)
    whole = (tmp_path / "out.partial").read_bytes()
    (tmp_path / "out.partial").write_bytes(whole[:20])
    with pytest.raises(ValueError, match=r"has 20 bytes of \d\d; remove it"):
        run(path, resume=True)
    (tmp_path / "out.partial").write_bytes(whole)
    (tmp_path / "out.progress").write_text("{")
    with pytest.raises(ValueError, match="out.progress: cannot be read; remove it"):
        run(path, resume=True)


def test_a_device_is_written_to_directly(pipe):
    assert run(pipe) == LINES
    assert pipe.is_fifo() and names(pipe.parent) == ["pipe"]
    with pytest.raises(ValueError, match="no ordinary file"):
        run(pipe, resume=True)


def test_the_state_is_small_and_plain(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", stop_at=7)
    state = json.loads((tmp_path / "out.progress").read_text())
    assert (state["lines"], state["decides"]) == (6, {"beams": 4})
    assert state["bytes"] == len("".join(line.upper() + "\n" for line in LINES[:6]).encode())
