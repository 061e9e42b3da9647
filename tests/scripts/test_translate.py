"""`translate`: a line in gives a line out, whatever it holds."""

from __future__ import annotations

import io
import sys

import pytest

from vanilla_transformer.modeling import Translator
from vanilla_transformer.scripts import translate
from vanilla_transformer.scripts.translate import main, one_line, written_whole

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
    import shutil

    from vanilla_transformer.tokenization import learn_vocabulary

    folder = shutil.copytree(tiny_model_dir, tmp_path / "mixed")
    learn_vocabulary(["a b c"] * 2, 262).save_pretrained(folder)
    assert main(["--model", str(folder)]) == 2
    assert "the model was made with tokenizer" in capsys.readouterr().err


def test_a_file_appears_when_it_is_whole(tmp_path, capsys):
    target = tmp_path / "out"
    target.write_text("old\n")
    with pytest.raises(KeyboardInterrupt), written_whole(str(target)) as out:
        out.write("new\n")
        raise KeyboardInterrupt
    assert target.read_text() == "old\n"
    assert (tmp_path / "out.partial").read_text() == "new\n"
    assert f"so far are in {tmp_path / 'out.partial'}" in capsys.readouterr().err
    with pytest.raises(ValueError), written_whole(str(target)) as out:
        raise ValueError
    assert not (tmp_path / "out.partial").exists()
    with written_whole("/dev/null") as out:  # nothing may be renamed onto a device
        out.write("x")


def test_a_line_end_in_an_output_does_not_make_two_lines():
    assert one_line("a\nb\r\nc\u2028d") == "a b c\u2028d"


def test_a_person_gets_each_line_at_once(tiny_model_dir, stdin, monkeypatch, capsys):
    stdin(b"A man\nrun\n")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked = []
    monkeypatch.setattr(
        translate.Translator, "stream", lambda self, lines, **options: asked.append(options) or iter(())
    )
    assert main(["--model", str(tiny_model_dir)]) == 0
    assert asked[0]["chunk_size"] == 1
