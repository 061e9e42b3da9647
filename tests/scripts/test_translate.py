"""`translate`: a line in gives a line out, whatever it holds."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import types

import pytest
import torch
from sacrebleu.metrics.chrf import CHRF

from vanilla_transformer.deployment.line_output import one_line
from vanilla_transformer.modeling import Translator
from vanilla_transformer.scripts import translate
from vanilla_transformer.scripts.translate import main
from vanilla_transformer.scripts.translation_flags import Decoding

LINES = [
    "A man sleeps.",
    "",
    "  \t",
    "one\u2028two\x85three\x0cfour",  # separators, but not "\n"
    "😀😀",
    "\x00\x01\x7f",
    "Two dogs run. " * 40,  # far more than the model allows
    "run",
]


@pytest.fixture
def stdin(monkeypatch):
    def feed(content: bytes):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))

    return feed


@pytest.fixture(scope="module")
def expected(tiny_model_dir) -> list[str]:
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    made = [translator.translate(line, split_long=True)[0] for line in LINES]
    assert [t.pieces for t in made[:3]] == [1, 0, 0] and made[6].pieces > 1
    return [one_line(t.text) for t in made]


def test_the_program_from_pipe_to_pipe(tiny_model_dir, run_command, expected):
    run = run_command("translate", "--model", tiny_model_dir, "--device", "cpu", input="\n".join(LINES))
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n") == [*expected, ""]
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("8 lines in ")
    assert "outputs cut at their bound" in run.stderr
    assert "1 lines longer than the model's 24 tokens, translated in pieces" in run.stderr


def test_from_file_to_file_in_small_chunks(tiny_model_dir, tmp_path, expected, capsys):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(("\r\n".join(LINES) + "\r\n").encode())
    target.write_text("old")
    arguments = ["--model", str(tiny_model_dir), "--input", str(source), "--output", str(target)]
    assert main([*arguments, "--chunk-lines", "2", "--max-tokens", "8"]) == 0
    assert target.read_text(encoding="utf-8").split("\n") == [*expected, ""]
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def test_n_best_with_scores(tiny_model_dir, stdin, capsys):
    stdin(b"A man\n\nrun\n")
    arguments = ["--model", str(tiny_model_dir), "--num-beams", "3", "--n-best", "2", "--scores"]
    assert main([*arguments, "--length-penalty", "1", "--length-penalty-kind", "hf", "--target-lang", "de"]) == 0
    rows = [line.split("\t", 2) for line in capsys.readouterr().out.split("\n")[:-1]]
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    options = {"num_beams": 3, "n_best": 2, "length_penalty": 1.0, "length_penalty_kind": "hf", "target_lang": "de"}
    made = [t for best in translator.translate(["A man", "", "run"], **options) for t in best.n_best]
    assert [text for _, _, text in rows] == [one_line(t.text) for t in made]
    assert [float(score) for score, _, _ in rows] == pytest.approx([t.score for t in made], abs=1e-3)
    assert [float(score) for _, score, _ in rows] == pytest.approx(
        [t.score / max(1, len(t.token_ids)) for t in made], abs=1e-3
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "MISSING"], "MISSING: no such folder"),
        (["--model", "EMPTY"], "EMPTY: no model in this folder"),
        (["--model", "MODEL", "--input", "MISSING"], "MISSING: no such file"),
        (["--model", "MODEL", "--target-lang", "fr"], "language 'fr' has no tag in this tokenizer; known: de"),
        (["--model", "MODEL", "--n-best", "5"], "n_best=5 is more than num_beams=4"),
        (["--model", "MODEL", "--length-penalty", "nan"], "length_penalty=nan must be a finite number"),
        (["--model", "MODEL", "--output", "EMPTY"], "EMPTY: is a folder"),
        (["--model", "MODEL"], "standard input, line 2: invalid UTF-8 (byte 0xFF)"),
        ([], "the following arguments are required: --model"),
    ],
)
def test_bad_use_is_one_line_and_exit_2(arguments, message, tiny_model_dir, tmp_path, stdin, capsys):
    names = {"MISSING": tmp_path / "missing", "EMPTY": tmp_path / "empty", "MODEL": tiny_model_dir}
    names["EMPTY"].mkdir()
    for name, path in names.items():
        message = message.replace(name, str(path))
    stdin(b"fine\n\xff\n")
    assert main([str(names.get(argument, argument)) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("vanilla-transformer translate: error: ")


def test_another_models_tokenizer_is_refused(tiny_model_dir, tmp_path, capsys):
    from vanilla_transformer.tokenization import learn_vocabulary

    folder = shutil.copytree(tiny_model_dir, tmp_path / "mixed")
    learn_vocabulary(["a b c"] * 2, 262).save_pretrained(folder)
    assert main(["--model", str(folder)]) == 2
    assert "the model was made with tokenizer" in capsys.readouterr().err


def test_a_person_gets_each_line_at_once(tiny_model_dir, stdin, monkeypatch, capsys):
    stdin(b"A man\nrun\n")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked = []
    stream = Translator.stream

    def watched(self, texts, **options):
        asked.append(list(texts))
        return stream(self, asked[-1], **options)

    monkeypatch.setattr(Translator, "stream", watched)
    assert main(["--model", str(tiny_model_dir)]) == 0
    assert asked == [[], ["A man"], ["run"]]  # the first looks at the options only


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.split("\n")[:-1]]


def test_json_with_sentences_n_best_and_alignments(tiny_model_dir, stdin, capsys):
    pytest.importorskip("sentencex", reason="sentencex is not installed (the extra `sentences`)")
    stdin("  Mr. Dog ran.  A man.\n\nrun\u2028\n".encode())
    arguments = [
        "--model",
        str(tiny_model_dir),
        "--split-sentences",
        "--format",
        "jsonl",
        "--n-best",
        "2",
        "--num-beams",
        "2",
    ]
    assert main([*arguments, "--alignments"]) == 0
    first, empty, third = rows_of(capsys.readouterr().out)
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    one, two, run = translator.translate(["Mr. Dog ran.", "A man.", "run"], num_beams=2, n_best=2)
    assert (first["line"], first["pieces"], empty["line"], empty["pieces"]) == (1, 2, 2, 0)
    assert [best["translation"] for best in first["n_best"]] == [
        f"  {a.text}  {b.text}" for a, b in zip(one.n_best, two.n_best, strict=True)
    ]
    assert first["score"] == pytest.approx(one.score + two.score, abs=1e-4) and first["cut"] == (one.cut or two.cut)
    assert third["translation"] == run.text + "\u2028"
    assert empty["translation"] == empty["alignment"] == ""
    links = [tuple(map(int, link.split("-"))) for link in first["alignment"].split()]
    words = len("  Mr. Dog ran.  A man.".split()), len(first["translation"].split())
    assert links and all(source < words[0] and target < words[1] for source, target in links)


def test_a_table(tiny_model_dir, stdin, capsys):
    stdin(b"A man\nrun\n")
    assert main(["--model", str(tiny_model_dir), "--format", "tsv", "--chunk-lines", "1"]) == 0
    heading, *rows = capsys.readouterr().out.split("\n")[:-1]
    assert heading == "line\trank\tscore\tnormalized_score\ttranslation"
    made = Translator.from_pretrained(tiny_model_dir, device="cpu").translate(["A man", "run"])
    assert [row.split("\t")[:2] for row in rows] == [["1", "1"], ["2", "1"]]
    assert [row.split("\t", 4)[4] for row in rows] == [re.sub(r"[\t\r\n]+", " ", t.text) for t in made]


@pytest.fixture
def interrupted(tiny_model_dir, tmp_path, monkeypatch):
    """`interrupted(calls)`: a run, stopped in the chunk after so many. Returns its flags."""
    (tmp_path / "source").write_text(
        "".join(f"{line}\n" for line in ["A man", "Two dogs", "", "run", "sleeps", "grass", "a"])
    )
    flags = ["--model", str(tiny_model_dir), "--input", str(tmp_path / "source"), "--output", str(tmp_path / "out")]
    flags += ["--chunk-lines", "2", "--format", "tsv"]

    def run(chunks: int) -> list[str]:
        work, done = translate.LineTranslator.translate, []

        def break_off(self, lines):
            if len(done) == chunks:
                raise KeyboardInterrupt
            done.append(lines)
            return work(self, lines)

        with monkeypatch.context() as broken:
            broken.setattr(translate.LineTranslator, "translate", break_off)
            assert main(flags) == 130
        return flags

    return run


def test_interrupted_and_resumed_is_never_interrupted(interrupted, tmp_path, capsys):
    flags = interrupted(2)
    assert "4 lines so far are in " in capsys.readouterr().err
    assert main(flags) == 2 and "go on with --resume, or remove that file" in capsys.readouterr().err
    assert main([*flags, "--resume"]) == 0
    assert capsys.readouterr().err.startswith("3 lines in ")
    resumed = (tmp_path / "out").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    assert main(flags) == 0
    assert (tmp_path / "out").read_bytes() == resumed and resumed.count(b"\n") == 8


def test_what_is_resumed_must_be_the_same(interrupted, tiny_model_dir, tmp_path, capsys):
    flags = interrupted(2)
    assert main([*flags, "--resume", "--num-beams", "2"]) == 2
    assert "begun with something else (num_beams: None -> 2)" in capsys.readouterr().err
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    (other / "generation_config.json").write_text("{}")
    assert main([*flags, "--resume", "--model", str(other)]) == 2
    assert "begun with something else (model: " in capsys.readouterr().err
    source = tmp_path / "source"
    source.write_text(source.read_text().replace("dogs", "cats"))
    assert main([*flags, "--resume"]) == 2
    assert "the 4 lines of input that it was made from have changed" in capsys.readouterr().err
    source.write_text(source.read_text().replace("cats", "dogs"))
    assert main([*flags, "--resume"]) == 0


def test_the_other_engine_and_what_it_is_asked(tiny_model_dir, stdin, monkeypatch, capsys):
    asked = []

    def load(model, device, compute_type):
        asked.append((model, device, compute_type))
        return Translator.from_pretrained(model, device="cpu")

    module = types.ModuleType("stand-in")
    vars(module)["load_ctranslate2_translator"] = load
    monkeypatch.setitem(sys.modules, "vanilla_transformer.deployment.ctranslate2_translator", module)
    stdin(b"run\n")
    flags = ["--model", str(tiny_model_dir), "--engine", "ctranslate2"]
    assert main([*flags, "--device", "cpu", "--compute-type", "int8"]) == 0
    assert asked == [(str(tiny_model_dir), "cpu", "int8")]
    assert capsys.readouterr().out == one_line(Translator.from_pretrained(tiny_model_dir, device="cpu")("run")) + "\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--engine", "ctranslate2", "--alignments", "--format", "tsv"],
            "--alignments needs one model and --engine vanilla",
        ),
        (["--engine", "ctranslate2", "--model", "a", "b"], "--engine ctranslate2 takes one --model"),
        (["--compute-type", "int8"], "--compute-type int8 is for --engine ctranslate2"),
        (["--alignments"], "--alignments needs a place to stand: --format tsv or jsonl"),
        (["--scores", "--format", "tsv"], "--scores is for --format text"),
        (["--resume"], "--resume goes on with a file: name it with --output"),
        (["--mbr", "0"], "mbr=0 must be at least 1"),
        (["--mbr", "2", "--n-best", "3"], "n_best=3 is more than mbr=2"),
        (["--mbr", "4", "--num-beams", "4"], "num_beams=4 and sampling are two ways to write an output"),
        (["--temperature", "0.5"], "temperature=0.5 has no effect without --sample"),
        (["--chunk-lines", "0"], "chunk_lines=0 must be at least 1"),
        (["--banned-words", "/no/such/file"], "/no/such/file: no such file"),
        (["--input-format", "jsonl"], "standard input, line 1: broken JSON"),
    ],
)
def test_more_bad_use_is_one_line_and_exit_2(arguments, message, tiny_model_dir, stdin, capsys):
    stdin(b"fine\n")
    assert main(["--model", str(tiny_model_dir), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def test_minimum_bayes_risk_takes_what_brute_force_takes(tiny_model_dir, stdin, capsys):
    stdin(b"A man\n\nrun\n")
    flags = ["--model", str(tiny_model_dir), "--mbr", "9", "--seed", "5", "--temperature", "0.5", "--format", "jsonl"]
    assert main(flags) == 0
    rows = rows_of(capsys.readouterr().out)
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    drawing = {"do_sample": True, "n_best": 9, "seed": 5, "temperature": 0.5}
    for row, drawn in zip(rows, translator.translate(["A man", "", "run"], **drawing), strict=True):
        texts = [sample.text for sample in drawn.n_best]
        means = [sum(CHRF().sentence_score(h, [r]).score for r in texts) / len(texts) for h in texts]
        chosen = drawn.n_best[means.index(max(means))]
        assert row["translation"] == chosen.text
        assert row["utility"]["chrf"] == pytest.approx(max(means)) and row["score"] == pytest.approx(
            chosen.score, abs=1e-4
        )
        assert not row["translation"] or min(means) < max(means)


def test_samples_are_drawn_by_their_seed(tiny_model_dir, stdin, capsys):
    outputs = []
    for seed, chunk in (("1", "2"), ("1", "2"), ("2", "2"), ("1", "3")):
        stdin(b"A man\nrun\nTwo dogs\nrun\n")
        flags = ["--model", str(tiny_model_dir), "--sample", "--seed", seed, "--chunk-lines", chunk, "--n-best", "3"]
        assert main(flags) == 0
        outputs.append(capsys.readouterr().out.split("\n"))
    assert outputs[0] == outputs[1] != outputs[2]
    assert outputs[0][3:6] != outputs[0][9:12]  # the same line elsewhere draws its own


def test_constraints_line_by_line(tiny_model_dir, stdin, tmp_path, capsys):
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    free = translator("A man")
    stdin(b'{"source": "A man", "prefix": "Ein Mann"}\n\n{"source": "A man", "banned": ["man"]}\n{"source": "A man"}\n')
    assert main(["--model", str(tiny_model_dir), "--input-format", "jsonl"]) == 0
    begun, empty, banned, last = capsys.readouterr().out.split("\n")[:-1]
    assert begun.startswith("Ein Mann") and empty == "" and last == one_line(free)
    assert banned == one_line(translator("A man", banned=["man"]))
    rows = ["", '{"source": "run"}', '{"source": "A man"}', f'{{"source": "run", "required": ["{"man " * 40}"]}}']
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    assert main(["--model", str(tiny_model_dir), "--input-format", "jsonl", "--input", str(tmp_path / "in.jsonl")]) == 2
    assert f"error: {tmp_path / 'in.jsonl'}:4: the required phrases have " in capsys.readouterr().err
    (tmp_path / "banned").write_text("man\n\n  two words \n")
    assert Decoding(banned_words=str(tmp_path / "banned")).options()["banned"] == ["man", "two words"]


def test_an_ensemble(tiny_model_dir, stdin, tmp_path, capsys):
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    translator = Translator.from_pretrained(tiny_model_dir, device="cpu")
    with torch.no_grad():
        translator.model.lm_head.weight += torch.randn(translator.model.lm_head.weight.shape) * 0.3
    translator.model.save_pretrained(other)
    both = Translator.from_pretrained([tiny_model_dir, other], device="cpu")
    stdin(b"A man\n")
    assert main(["--model", str(tiny_model_dir), str(other), "--scores"]) == 0
    score, _, text = capsys.readouterr().out.rstrip("\n").split("\t", 2)
    [expected] = both.translate(["A man"])
    assert text == one_line(expected.text) and float(score) == pytest.approx(expected.score, abs=1e-3)
    [alone] = Translator.from_pretrained(tiny_model_dir, device="cpu").translate(["A man"])
    assert expected.score != pytest.approx(alone.score, abs=1e-3)
