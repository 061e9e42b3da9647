from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from vanilla_transformer.scripts import flags
from vanilla_transformer.scripts.command_line import parse_arguments


@dataclass
class Data:
    train_file: list[str] = field(metadata={"help": "files to read"})
    source_lang: str | None = field(default=None, metadata={"help": "language of the source"})


@dataclass
class Training:
    max_steps: int = field(default=100, metadata={"help": "updates, at least 1 % of them warm-up"})
    log_steps: int = field(default=1, metadata={"help": "updates between two reports"})
    learning_rate: float = field(default=0.5, metadata={"help": "peak"})
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata={"help": "of the matrix products"})
    resume: bool = field(default=False, metadata={"help": "go on where the run stopped"})
    early_stop: bool = field(default=True, metadata={"help": "stop when it gets no better"})
    patience: int | None = field(default=None, metadata={"help": "evaluations"})

    def __post_init__(self):
        if self.max_steps < 1:
            raise ValueError(f"max_steps: {self.max_steps} is below 1")


def parse(*argv: str) -> tuple[Any, ...]:
    return parse_arguments("finetune", "Trains.", Data, Training, argv=list(argv))


def config(folder: Path, text: str) -> str:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def refusal(capsys, *argv: str) -> str:
    """The one line with which `argv` is refused, without its prefix and its pointer to --help."""
    with pytest.raises(SystemExit) as exit:
        parse(*argv)
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    prefix, suffix = "vanilla-transformer finetune: error: ", " (see --help)\n"
    assert captured.err.startswith(prefix) and captured.err.endswith(suffix)
    return captured.err.removeprefix(prefix).removesuffix(suffix)


def test_flags_become_typed_fields_with_dashes_or_underscores():
    data, training = parse(
        "--train-file", "a", "b", "--max_steps", "7", "--learning-rate=5e-4", "--patience", "3"
    )
    assert data == Data(train_file=["a", "b"])
    assert training == Training(max_steps=7, learning_rate=5e-4, patience=3)


@pytest.mark.parametrize(
    "argv, resume, early_stop",
    [
        ([], False, True),
        (["--resume", "--no-early-stop"], True, False),
        (["--resume", "yes", "--early-stop", "false"], True, False),
        (["--no_early_stop", "--early_stop"], False, True),
        (["--resume", "--no-resume"], False, True),
    ],
)
def test_yes_or_no_fields(argv, resume, early_stop):
    _, training = parse("--train-file", "a", *argv)
    assert (training.resume, training.early_stop) == (resume, early_stop)


def test_help_shows_every_field_its_text_and_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit:
        parse("--help")
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in [
        "--train-file TRAIN_FILE [TRAIN_FILE ...] files to read (required)",
        "--source-lang SOURCE_LANG language of the source (default: not set)",
        "--max-steps MAX_STEPS updates, at least 1 % of them warm-up (default: 100)",
        "--log-steps LOG_STEPS updates between two reports (default: 1)",
        "--learning-rate LEARNING_RATE peak (default: 0.5)",
        "--precision {fp32,bf16} of the matrix products (default: fp32)",
        "--resume, --no-resume go on where the run stopped (default: no)",
        "stop when it gets no better (default: yes)",
    ]:
        assert expected in text
    assert text.count("stop when it gets no better") == 1
    assert "--max_steps" not in text


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    file = config(
        tmp_path, "train-file: [a, b]\nmax_steps: 7\nlearning_rate: 5e-4\nresume: true\npatience: 4\n"
    )
    data, training = parse("--config", file, "--max-steps", "9", "--no-resume")
    assert data.train_file == ["a", "b"]
    assert training == Training(max_steps=9, learning_rate=5e-4, resume=False, patience=4)


def test_a_single_file_needs_no_brackets_and_null_is_not_set(tmp_path):
    data, training = parse(
        "--config", config(tmp_path, "train_file: a\nsource_lang: null\nlearning_rate: 1\n")
    )
    assert data == Data(train_file=["a"], source_lang=None)
    assert training.learning_rate == 1.0 and isinstance(training.learning_rate, float)


def test_of_several_files_the_later_wins(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("train_file: a\nmax_steps: 1\nlearning_rate: 2.0\n")
    second.write_text("max_steps: 3\n")
    _, training = parse("--config", str(first), "--config", str(second))
    assert (training.max_steps, training.learning_rate) == (3, 2.0)


@pytest.mark.parametrize(
    "text, line",
    [
        ("max_step: 7", "no field is called 'max_step'; did you mean max_steps?"),
        ("help: 7", "no field is called 'help'"),
        ("max_steps: many", "max_steps must be a whole number, and is 'many'"),
        ("max_steps: 1.5", "max_steps must be a whole number, and is 1.5"),
        ("max_steps: true", "max_steps must be a whole number, and is True"),
        ("max_steps: null", "max_steps must be a whole number, and is None"),
        ("learning_rate: [1]", "learning_rate must be a number, and is [1]"),
        ("precision: fp8", "precision must be one of fp32, bf16, and is 'fp8'"),
        ("resume: 1", "resume must be true or false, and is 1"),
        (
            "source_lang: no",
            "source_lang must be text (in quotes, where YAML would read something else), and is False",
        ),
        (
            "train_file: [a, 3]",
            "train_file must be text (in quotes, where YAML would read something else), and is ['a', 3]",
        ),
        (
            "max_steps: 1\nmax-steps: 2",
            "max_steps is given twice, once with dashes and once with underscores",
        ),
        ("- a\n- b", "must hold lines such as `max_steps: 1000`, and holds one list"),
    ],
)
def test_a_wrong_file_is_refused_with_field_and_value(text, line, tmp_path, capsys):
    file = config(tmp_path, text)
    assert refusal(capsys, "--config", file, "--train-file", "a") == f"{file}: {line}"


def test_broken_yaml_is_refused_with_its_line(tmp_path, capsys):
    file = config(tmp_path, "max_steps: 1\nlearning_rate: [1\n")
    assert refusal(capsys, "--config", file).startswith(f"{file}, line 3: ")
    file = config(tmp_path, "max_steps: 1\nresume: true\nmax_steps: 2\n")
    assert refusal(capsys, "--config", file) == f"{file}, line 3: max_steps is given twice"


def test_a_recipe_is_found_by_its_name_and_missing_ones_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(flags.resources, "files", lambda package: tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "multi30k_tiny.yaml").write_text("max_steps: 11\n")
    assert flags.recipe_names() == ["multi30k_tiny"]
    assert parse("--config", "multi30k_tiny", "--train-file", "a")[1].max_steps == 11
    wrong = refusal(capsys, "--config", "multi30k_tony")
    assert (
        wrong
        == "multi30k_tony: no such file, and no shipped recipe is called so; did you mean multi30k_tiny?"
    )


@pytest.mark.parametrize(
    "argv, line",
    [
        ([], "the following arguments are required: --train-file"),
        (
            ["--train-file", "a", "--lerning-rate", "1"],
            "no flag is called --lerning-rate; did you mean --learning-rate?",
        ),
        (["--train-file", "a", "--max", "1"], "no flag is called --max"),
        (["stray", "--train-file", "a"], "unexpected argument 'stray': every value follows its flag"),
        (["--train-file", "a", "--max-steps", "x"], "argument --max-steps: invalid int value: 'x'"),
        (["--train-file", "a", "--no-resume", "yes"], "--no-resume takes no value"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(argv, line, capsys):
    assert refusal(capsys, *argv).startswith(line)


def test_a_dataclasss_own_check_reaches_the_caller():
    with pytest.raises(ValueError, match="max_steps: 0 is below 1"):
        parse("--train-file", "a", "--max-steps", "0")


def test_a_field_without_help_is_our_mistake():
    @dataclass
    class Undocumented:
        steps: int = 1

    with pytest.raises(AssertionError, match="steps"):
        flags.FlagParser([Undocumented], prog="x", description="y")
