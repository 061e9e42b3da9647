"""`search-hyperparameters` and `--seeds` through their real entry points: bad input, and processes that train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vanilla_transformer.scripts import finetune, flags, search_hyperparameters

Line = Callable[..., list[str]]


@pytest.fixture
def line(toy: Path, tiny_sizes: list[str], tmp_path: Path, fresh_accelerator: Callable[[], None]) -> Line:
    def make(folder: str, *more: str) -> list[str]:
        fresh_accelerator()
        files = ["--train-file", f"{toy}/train.jsonl", "--validation-file", f"{toy}/validation.jsonl"]
        data = [*files, "--source-lang", "en", "--target-lang", "de", "--tokenizer", f"{toy}/tokenizer"]
        steps = ["--max-steps", "2", "--max-tokens", "128", "--best-metric", "loss", "--warmup-steps", "1"]
        return [*tiny_sizes, *data, *steps, "--output-dir", str(tmp_path / folder), *more]

    return make


def refused(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    assert search_hyperparameters.main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("vanilla-transformer search-hyperparameters: error: "), error
    return error


@pytest.mark.parametrize(
    "more, said",
    [
        ([], "nothing is searched: give --search, or a --config with search:"),
        (["--search", "drop_out=0.1"], "search: no flag is called drop_out; did you mean dropout?"),
        (
            ["--search", "max_steps=2,4"],
            "max_steps is both searched (2,4) and fixed, by the command line; leave out one",
        ),
        (["--search", "dropout=0.1,0.2", "--dropout=0.3"], "dropout is both searched (0.1,0.2) and fixed"),
        (["--search", "dropout=0.1..1.5"], "search: dropout=0.1..1.5: "),
        (
            ["--search", "adam_beta1=0.1..0.2", "--config", "CONFIG"],
            "adam_beta1 is both searched (0.1..0.2) and fixed, by ",
        ),
        (["--config", "BAD"], "bad.yaml: search: dropout=0.3..0.1 is empty"),
        (["--search", "dropout=0.1,0.2", "--tokenizer", "./missing"], "./missing: no such folder, so no tokenizer"),
        (["--search", "dropout=0.1,0.2", "--train-file", "no.jsonl"], "no.jsonl: "),
    ],
)
def test_bad_use_is_answered_by_one_line_before_anything_trains(line: Line, capsys, tmp_path, more, said):
    (tmp_path / "config.yaml").write_text("adam_beta1: 0.9\n")
    (tmp_path / "bad.yaml").write_text("search: {dropout: {low: 0.3, high: 0.1}}\n")
    names = {"CONFIG": str(tmp_path / "config.yaml"), "BAD": str(tmp_path / "bad.yaml")}
    assert said in refused(capsys, line("run", *(names.get(word, word) for word in more)))
    assert not (tmp_path / "run").exists()


def test_the_recipe_searches_the_published_ranges():
    parser = search_hyperparameters._SearchParser(
        [search_hyperparameters.SearchArguments, *search_hyperparameters.PARTS], "search", ""
    )
    own, *_ = parser.parse(["--config", "search_tiny", "--search", "dropout=0.5,0.6", "--search", "adam_beta1=0.9"])
    assert own.trials == 60 and own.search == ["dropout=0.5,0.6", "adam_beta1=0.9"]
    space = {name: str(values) for name, values in parser.space.items()}
    assert space["noam_factor"] == "0.3..3.0:log" and space["adam_beta2"] == "0.97..0.99"
    assert space["dropout"] == "0.5,0.6" and space["adam_beta1"] == "0.9", "the command line overrides the file"
    text = (Path(flags.__file__).parent / "recipes" / "search_tiny.yaml").read_text(encoding="utf-8")
    assert not [line for line in text.splitlines() if line and "#" not in line and line != "search:"]


@pytest.mark.slow  # seven seconds
def test_a_search_of_real_runs_whose_best_can_be_made_again(line: Line, toy, tmp_path, capsys, fresh_accelerator):
    """Three processes that train: of the first the loss is no number, the others differ."""
    more = ["--sampler", "grid", "--search", "learning_rate=1e30,1e-3,1e-1", "--test-file", f"{toy}/validation.jsonl"]
    assert search_hyperparameters.main(line("search", *more)) == 0
    out = capsys.readouterr().out
    rows = [json.loads(text) for text in (tmp_path / "search" / "trials.jsonl").read_text().splitlines()]
    state = {row["flags"]["learning_rate"]: row for row in rows}
    assert state[1e30]["state"] == "failed" and " at update 2" in state[1e30]["reason"]
    assert state[1e-1]["state"] == state[1e-3]["state"] == "complete" and state[1e-1]["score"] != state[1e-3]["score"]
    assert "Importances need 4 complete trials, and there are 2." in out and "Test part, scored with" in out
    assert (tmp_path / "search" / "importances.png").is_file()
    best = min((row for row in rows if row["score"]), key=lambda row: row["score"])
    assert f"Best: trial {best['trial']}, loss {best['score']} of the validation part" in out
    file = tmp_path / "search" / "best.yaml"
    assert yaml.safe_load(file.read_text())["learning_rate"] == best["flags"]["learning_rate"]
    fresh_accelerator()
    assert finetune.main(["--config", str(file), "--test-num-beams", "1"]) == 0
    again = [json.loads(text) for text in (tmp_path / "search" / "best" / "metrics.jsonl").read_text().splitlines()]
    assert again[0]["loss"] == best["score"]
    assert "holds a search already" in refused(capsys, line("search", *more))


def test_seeds(line: Line, tmp_path, capsys):
    assert finetune.main(line("seeds", "--seeds", "2", "--seed", "5")) == 0
    found = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert sorted(found["runs"]) == ["5", "6"] and found["summary"]["validation"]["loss"]["n"] == 2
    assert found["runs"]["5"]["validation"]["loss"] != found["runs"]["6"]["validation"]["loss"]
    assert found["chosen_by"] in capsys.readouterr().out
    assert finetune.main(line("seeds", "--seeds", "2", "--seed", "5", "--resume")) == 0
    assert "Seed 5: is complete" in capsys.readouterr().out
    assert finetune.main(line("other", "--seeds", "0")) == 2
    assert "seeds=0 must be at least 1" in capsys.readouterr().err
