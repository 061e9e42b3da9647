"""The demo: its pieces quickly, and (slow) the whole story with a few updates through the real commands."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vanilla_transformer.scripts import demo, demo_chapters, demo_reload
from vanilla_transformer.scripts.command_line import parse_arguments
from vanilla_transformer.scripts.demo import prepare_directory, summarise, write_marker
from vanilla_transformer.scripts.demo_chapters import ChapterError, Story, ask_for_text, read_bleu, ten_of
from vanilla_transformer.training.arguments import DataArguments, ModelArguments, RunArguments, TaskArguments
from vanilla_transformer.training.objectives import NoiseArguments
from vanilla_transformer.training.spoken_numbers import make_corpus


def test_a_new_directory_gets_the_marker(tmp_path: Path) -> None:
    prepare_directory(tmp_path / "runs" / "demo")
    assert [path.name for path in (tmp_path / "runs" / "demo").iterdir()] == ["demo.json"]


def test_an_old_demo_is_replaced(tmp_path: Path) -> None:
    write_marker(tmp_path, {"exact_match": 0.5})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old.jsonl").write_text("old", encoding="utf-8")
    (tmp_path / "model.safetensors").write_text("old", encoding="utf-8")
    prepare_directory(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]
    assert json.loads((tmp_path / "demo.json").read_text(encoding="utf-8")) == {"made_by": "vanilla-transformer demo"}


def test_what_an_old_demo_links_to_is_not_deleted(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.txt").write_text("mine", encoding="utf-8")
    folder = tmp_path / "demo"
    prepare_directory(folder)
    (folder / "link").symlink_to(elsewhere)
    prepare_directory(folder)
    assert not (folder / "link").exists()
    assert (elsewhere / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("marker", [None, "{}", "[]", "no json", '{"made_by": "somebody"}'])
def test_a_directory_that_is_no_demo_is_never_touched(
    tmp_path: Path, marker: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    if marker is not None:
        (tmp_path / "demo.json").write_text(marker, encoding="utf-8")
    assert demo.main(["--output-dir", str(tmp_path)]) == 2
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years of work"
    error = capsys.readouterr().err
    assert "that no demo made" in error and error.count("\n") == 1


def test_a_file_as_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file; name a directory"):
        prepare_directory(tmp_path / "file")


def test_text_without_tag_is_read_in_all_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_for_text(" 1,204\n") == [">>en<< 1,204", ">>de<< 1.204", ">>ko<< 1,204"]
    assert ask_for_text(">>ko<< 14:05") == [">>ko<< 14:05"]
    assert ask_for_text("1\n2") == [">>en<< 1 2", ">>de<< 1 2", ">>ko<< 1 2"]
    monkeypatch.setattr("sys.stdin", io.StringIO("7\n"))  # not a terminal: nothing is asked
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail("asked although nobody is there"))
    assert ask_for_text(None) == [">>en<< 31,415", ">>de<< 31.415", ">>ko<< 31,415"]


def test_a_terminal_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr("builtins.input", lambda prompt: ">>de<< 14:05")
    assert ask_for_text(None) == [">>de<< 14:05"]
    assert ask_for_text("8") == [">>en<< 8", ">>de<< 8", ">>ko<< 8"]  # --text asks nothing
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    assert ask_for_text(None)[0] == ">>en<< 31,415"

    def end_of_input(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end_of_input)
    assert ask_for_text(None)[0] == ">>en<< 31,415"


def test_ten_lines_take_kinds_and_languages_in_turn() -> None:
    rows = make_corpus(1, 1, 1, 30)["test"]
    sources = [row["translation"]["digits"] for row in ten_of(rows)]
    assert [source[2:4] for source in sources] == ["en", "de", "ko", "de", "ko", "en", "ko", "en", "de", "en"]
    kinds = ["time" if ":" in source else "date" if "-" in source else "integer" for source in sources]
    assert kinds == ["integer", "date", "time"] * 3 + ["integer"]
    assert len(set(sources)) == 10
    assert len(ten_of(rows[:9])) == 3


def test_bleu_is_found_in_the_report() -> None:
    report = '$ vanilla-transformer score-translations\n{\n  "bleu": {"score": 98.5, "signature": "x"}\n}\nbye\n'
    assert read_bleu(report) == 98.5
    with pytest.raises(ChapterError, match="no scores"):
        read_bleu("nothing")


def test_summary_names_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summarise(Story(seconds={"Make the data": 1.25, "Translate": 2.0}), tmp_path, 0.985, 99.25, 600)
    printed = capsys.readouterr().out
    assert "98.5% of 600" in printed and "99.2\n" in printed
    assert "3.2 s  in all" in printed and str(tmp_path / "attention") in printed


def test_recipes_are_understood_by_their_commands() -> None:
    types = (ModelArguments, DataArguments, RunArguments)
    pretrain = parse_arguments("pretrain", "", NoiseArguments, *types, argv=["--config", "demo_pretrain"])
    finetune = parse_arguments("finetune", "", TaskArguments, *types, argv=["--config", "demo_finetune"])
    assert (pretrain[1].d_model, pretrain[3].learning_rate) == (128, 1.5e-3)
    assert (finetune[2].source_lang, finetune[2].target_lang) == ("digits", "spoken")


def test_recipes_hold_a_comment_at_every_line() -> None:
    folder = Path(demo.__file__).with_name("recipes")
    for name in ("demo_pretrain", "demo_finetune"):
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(text)["accumulation_steps"] == 2
        lines = [line for line in text.splitlines() if line]
        assert all("#" in line for line in lines), "every setting says why"


def test_the_new_process_cannot_import_this_package(tmp_path: Path) -> None:
    program = (
        "import sys, runpy\n"
        f"reload = runpy.run_path({str(Path(demo_reload.__file__))!r})\n"
        "sys.meta_path.insert(0, reload['Barred']())\n"
        "import json\n"
        "try:\n    import vanilla_transformer.modeling\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    line = [sys.executable, "-I", "-c", program]
    process = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert process.stdout == "vanilla_transformer is barred: the model must load without it\n", process.stderr


def fake_story(monkeypatch: pytest.MonkeyPatch, wrong: int) -> None:
    """The demo with its commands replaced: `wrong` of the 90 held-out lines come back changed."""
    right = {row["translation"]["digits"]: row["translation"]["spoken"] for row in make_corpus(1, 20, 9, 90)["test"]}

    def run(name: str, *flags: object) -> None:
        if name == "score-translations":
            print('{"bleu": {"score": 99.0, "signature": "none"}}')

    monkeypatch.setattr(demo_chapters, "run_command", run)
    monkeypatch.setattr(
        demo_chapters,
        "translate_reloaded",
        lambda folder, lines: [right[line] + "!" * (place < wrong) for place, line in enumerate(lines)],
    )
    monkeypatch.setattr(
        demo_chapters, "translate_file", lambda folder, name, lines: [right.get(line, "?") for line in lines]
    )


@pytest.mark.parametrize(("wrong", "status"), [(0, 0), (2, 0), (3, 1)])
def test_fewer_than_97_percent_fail(
    wrong: int,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_story(monkeypatch, wrong)
    argv = ["--output-dir", str(tmp_path / "demo"), "--text", "7", "--train-rows", "20"]
    assert demo.main([*argv, "--validation-rows", "9", "--test-rows", "90"]) == status
    captured = capsys.readouterr()
    assert ("FAILED: 96.7% of the held-out lines are exactly right" in captured.err) == (status == 1)
    assert ("The demo succeeded." in captured.out) == (status == 0)
    assert [f"{number}/8 " in captured.out for number in range(1, 9)] == [True] * 8
    results = json.loads((tmp_path / "demo" / "demo.json").read_text(encoding="utf-8"))
    assert results["exact_match"] == pytest.approx(1 - wrong / 90)
    assert results["bleu"] == 99.0 and len(results["seconds"]) == 8


def test_a_failing_command_ends_the_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, *flags: object) -> None:
        if name == "pretrain":
            raise ChapterError("`vanilla-transformer pretrain` ended with status 2")

    monkeypatch.setattr(demo_chapters, "run_command", run)
    argv = [
        "--output-dir",
        str(tmp_path / "demo"),
        "--train-rows",
        "5",
        "--validation-rows",
        "3",
        "--test-rows",
        "3",
    ]
    assert demo.main(argv) == 1
    assert "FAILED in chapter 3: `vanilla-transformer pretrain` ended with status 2" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_story_with_a_few_updates(tmp_path: Path, run_command: Callable[..., subprocess.CompletedProcess]):
    """Through the installed program. It must fail honestly: so few updates teach nothing."""
    folder = tmp_path / "demo"
    flags = ["--train-rows", "1500", "--validation-rows", "9", "--test-rows", "30", "--vocab-size", "400"]
    flags += ["--pretrain-steps", "3", "--finetune-steps", "4"]
    for _ in range(2):  # and again over itself
        process = run_command("demo", "--output-dir", folder, *flags, input="")
        assert process.returncode == 1, process.stderr
        assert "FAILED: 0.0% of the held-out lines are exactly right" in process.stderr
        assert "Traceback" not in process.stderr
        for number in range(1, 9):
            assert f"\n{number}/8 " in process.stdout
    for name in ("config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl", "demo.json"):
        assert (folder / name).is_file(), name
    assert list((folder / "attention").glob("*.html")) and list((folder / "attention").glob("*.png"))
