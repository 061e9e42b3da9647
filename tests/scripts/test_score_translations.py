"""`score-translations`: a model, given translations, forced scores."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch

from vanilla_transformer.deployment.line_output import one_line
from vanilla_transformer.modeling import Translator
from vanilla_transformer.scripts.score_translations import main

SOURCES = ["Der Hund biss den Mann.", "Es war nicht unerwartet.", "Der Mann biss ihn zuerst."]
REFERENCES = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
HYPOTHESES = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
LANGUAGES = ["--source-lang", "de", "--target-lang", "en"]


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def test_file(tmp_path) -> list[str]:
    """As arguments, with the languages."""
    pair = f"{write(tmp_path / 'test.de', SOURCES)},{write(tmp_path / 'test.en', REFERENCES)}"
    return ["--test-file", pair, *LANGUAGES]


def json_of(capsys) -> dict:
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_given_translations_golden(test_file, tmp_path, capsys):
    hypotheses = write(tmp_path / "out.en", HYPOTHESES)
    assert main([*test_file, "--hypotheses", hypotheses, "--json"]) == 0
    result = json_of(capsys)
    assert result["bleu"]["score"] == pytest.approx(45.0675, abs=5e-5)  # of the program `sacrebleu`
    assert result["chrf"]["score"] == pytest.approx(50.0431, abs=5e-5)
    assert result["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert result["exact_match"] == pytest.approx(100 / 3)
    assert result["sentences"] == 3 and "cut" not in result

    assert main([*test_file, "--hypotheses", hypotheses, "--tokenize", "none", "--lowercase", "--json"]) == 0
    result = json_of(capsys)
    assert result["bleu"]["score"] == pytest.approx(44.4281, abs=5e-5)
    assert "case:lc|eff:no|tok:none" in result["bleu"]["signature"]

    assert main([*test_file, "--hypotheses", hypotheses]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["BLEU", "45.07"] and lines[1].split()[:2] == ["chrF", "50.04"]
    assert lines[2] == "exact   33.33 % of 3 sentences"


def test_a_models_own_translations_are_exactly_right(tiny_model_dir, tmp_path, run_command):
    """Through the real program: one JSON object on standard output, whatever else there is to say."""
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    sources = [*SOURCES, "", "word " * 30]
    made = translator.translate(sources, num_beams=2, split_long=True)
    pairs = [{"translation": {"de": s, "en": t.text}} for s, t in zip(sources, made, strict=True)]
    test = write(tmp_path / "test.jsonl", [json.dumps(pair) for pair in pairs])
    output = tmp_path / "out.en"
    run = run_command(
        *("score-translations", "--model", tiny_model_dir, "--test-file", test, *LANGUAGES),
        *("--num-beams", 2, "--json", "--output", output, "--device", "cpu"),
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["exact_match"] == 100.0
    assert result["cut"] == sum(t.cut for t in made) > 0
    assert (result["sentences"], result["split"], result["num_beams"]) == (5, 1, 2)
    assert result["sentences_per_second"] > 0
    assert output.read_text(encoding="utf-8").split("\n") == [*(one_line(t.text) for t in made), ""]


def test_the_tag_is_put_in_front_when_asked_for(tiny_model_dir, tmp_path, capsys):
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    made = translator(["A man", "Two dogs run"], target_lang="de")
    assert made != translator(["A man", "Two dogs run"])
    pairs = [{"en": s, "de": t} for s, t in zip(["A man", "Two dogs run"], made, strict=True)]
    test = write(tmp_path / "test.jsonl", map(json.dumps, pairs))
    languages = ["--source-lang", "en", "--target-lang", "de"]
    arguments = ["--model", str(tiny_model_dir), "--test-file", test, *languages, "--json"]
    assert main([*arguments, "--target-tag"]) == 0
    assert json_of(capsys)["exact_match"] == 100.0
    assert main(arguments) == 0
    assert json_of(capsys)["exact_match"] < 100.0


def test_forced_scores(tiny_model_dir, test_file, tmp_path, capsys):
    output = tmp_path / "scores"
    assert main([*test_file, "--model", str(tiny_model_dir), "--force", "--json", "--output", str(output)]) == 0
    result = json_of(capsys)
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    translator.model.config.label_smoothing = 0.0
    totals = []
    for source, reference in zip(SOURCES, REFERENCES, strict=True):
        batch = translator.tokenizer(source, text_target=reference, return_tensors="pt")
        with torch.no_grad():
            totals.append(-translator.model(**batch).loss.item() * batch["labels"].numel())
    assert [pair["log_probability"] for pair in result["pairs"]] == pytest.approx(totals, abs=1e-3)
    tokens = sum(len(ids) for ids in translator.tokenizer(REFERENCES)["input_ids"])
    assert result["tokens"] == tokens == sum(pair["tokens"] for pair in result["pairs"])
    assert result["perplexity"] == pytest.approx(math.exp(-sum(totals) / tokens), rel=1e-4)
    assert [float(line.split("\t")[0]) for line in output.read_text().splitlines()] == pytest.approx(totals, abs=1e-3)

    assert main([*test_file, "--model", str(tiny_model_dir), "--force"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[3].startswith(f"3 pairs, {tokens} target tokens (</s> counted): ")


def test_forced_scores_of_every_token(tiny_model_dir, test_file, tmp_path, capsys):
    output = tmp_path / "scores.jsonl"
    assert main([*test_file, "--model", str(tiny_model_dir), "--force", "--json", "--output", str(output)]) == 0
    pairs = json_of(capsys)["pairs"]
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    for number, (row, pair, log_probs, reference) in enumerate(
        zip(rows, pairs, translator.score(SOURCES, REFERENCES), REFERENCES, strict=True), start=1
    ):
        assert row["pair"] == number
        assert [value for _, value in row["tokens"]] == pytest.approx(log_probs, abs=1e-5)
        assert row["tokens"][-1][0] == "</s>"
        assert "".join(token for token, _ in row["tokens"][:-1]).replace("␣", " ").strip() == reference
        assert row["log_probability"] == pytest.approx(sum(log_probs), abs=1e-4) == pair["log_probability"]
        assert (
            row["perplexity"]
            == pytest.approx(math.exp(-sum(log_probs) / len(log_probs)), rel=1e-4)
            == pair["perplexity"]
        )


def test_comet_is_reported_where_it_is_installed(test_file, tmp_path, monkeypatch, capsys):
    hypotheses = write(tmp_path / "out.en", HYPOTHESES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = [*test_file, "--hypotheses", hypotheses, "--comet", "Unbabel/x"]
    assert main(arguments) == 2
    assert "COMET is not installed in the environment of" in capsys.readouterr().err
    assert main([*test_file, "--model", "m", "--force", "--comet", "Unbabel/x"]) == 2
    assert "--comet judges translations, and --force makes none" in capsys.readouterr().err
    (tmp_path / "comet.py").write_text(
        "from types import SimpleNamespace as S\n"
        "download_model = lambda name: name\n"
        "answer = lambda rows: S(scores=[0.5] * len(rows), system_score=len(rows[1]['mt']))\n"
        "load_from_checkpoint = lambda path: S(predict=answer)\n"
    )
    assert main([*arguments, "--json"]) == 0
    assert json_of(capsys)["comet"] == {"score": float(len(HYPOTHESES[1])), "model": "Unbabel/x"}
    assert main([*arguments, "--comet-python", sys.executable]) == 0
    assert "COMET  21.0000   Unbabel/x" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--hypotheses", "TWO"], "TWO has 2 lines but the test file has 3 pairs"),
        (["--hypotheses", "TWO", "--model", "x"], "leave out --model and --force"),
        (["--hypotheses", "TWO", "--force"], "leave out --model and --force"),
        ([], "give --model to translate the test file with, or --hypotheses to score"),
        (["--model", "NOTHING"], "NOTHING: no such folder"),
        (["--hypotheses", "TWO", "--tokenize", "14a"], "tokenize='14a' must be one of none, "),
    ],
)
def test_bad_use_is_one_line_and_exit_2(arguments, message, test_file, tmp_path, capsys):
    names = {"TWO": write(tmp_path / "two", HYPOTHESES[:2]), "NOTHING": str(tmp_path / "nothing")}
    for name, path in names.items():
        message = message.replace(name, path)
    assert main([*test_file, *(names.get(argument, argument) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def test_the_languages_must_be_named(test_file, tmp_path, capsys):
    hypotheses = write(tmp_path / "out", HYPOTHESES)
    assert main([*test_file[:2], "--hypotheses", hypotheses]) == 2
    assert "give --source-lang and --target-lang" in capsys.readouterr().err
