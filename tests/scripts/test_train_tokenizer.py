from __future__ import annotations

import json
import re

import pytest

from vanilla_transformer.scripts.train_tokenizer import main
from vanilla_transformer.tokenization import VanillaTransformerTokenizer


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "train.jsonl"
    rows = [{"translation": {"en": f"The dog number {i}.", "de": f"Der Hund Nummer {i}, schön!"}} for i in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_vocabulary_from_json_lines(corpus, tmp_path, capsys):
    output = tmp_path / "tokenizer"
    flags = ["--train-file", corpus, "--vocab-size", "291", "--output-dir", str(output)]
    assert main([*flags, "--languages", "de", "ko", "--extra-tokens", "<speaker>", "--min-frequency", "3"]) == 0
    tokenizer = VanillaTransformerTokenizer.from_pretrained(output)
    assert len(tokenizer) == 291
    assert tokenizer.language_tags == [">>de<<", ">>ko<<"]
    printed = capsys.readouterr().out
    assert f"291 tokens, fingerprint {tokenizer.fingerprint}, learned in " in printed
    assert "the first 400 texts come back exactly" in printed
    # Both languages were read: the words of either are one token.
    for word in ("number", "Nummer"):
        assert len(tokenizer(word)["input_ids"]) == 2, word
    assert re.search(r"\d\.\d\d tokens per word", printed)


def test_tokens_per_word_is_the_ratio_of_the_sample(tmp_path, capsys):
    text = tmp_path / "t.txt"
    text.write_text("ab cd\n\nab\n")  # 3 words; min frequency 99: nothing is merged, each letter and space is a token
    assert (
        main(
            [
                "--train-file",
                str(text),
                "--vocab-size",
                "261",
                "--output-dir",
                str(tmp_path / "t"),
                "--min-frequency",
                "99",
            ]
        )
        == 0
    )
    # " ab cd" is 6 tokens, " ab" is 3; the empty line may be none or the one space in front.
    empty = len(VanillaTransformerTokenizer.from_pretrained(tmp_path / "t")("")["input_ids"]) - 1
    assert f"{(9 + empty) / 3:.2f} tokens per word; the first 3 texts" in capsys.readouterr().out


def test_several_files_of_several_formats_and_named_fields(corpus, tmp_path):
    plain = tmp_path / "more.txt"
    plain.write_text("zebra zebra zebra\n" * 500)
    assert main(["--train-file", corpus, str(plain), "--vocab-size", "290", "--output-dir", str(tmp_path / "t")]) == 0
    assert len(VanillaTransformerTokenizer.from_pretrained(tmp_path / "t")("zebra")["input_ids"]) == 2  # zebra </s>
    rows = tmp_path / "t.jsonl"
    rows.write_text('{"title": "zebra zebra"}\n' * 50)
    flags = ["--train-file", str(rows), "--vocab-size", "264", "--output-dir", str(tmp_path / "u")]
    assert main(flags) == 2
    assert main([*flags, "--text-fields", "title"]) == 0


def test_the_same_again_is_fine_but_another_is_refused_and_nothing_is_lost(corpus, tmp_path, capsys):
    output = tmp_path / "tokenizer"
    flags = ["--train-file", corpus, "--output-dir", str(output), "--vocab-size"]
    assert main([*flags, "280"]) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert main([*flags, "280"]) == 0
    assert "was there already" in capsys.readouterr().out
    assert main([*flags, "288"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    held = VanillaTransformerTokenizer.from_pretrained(output).fingerprint
    assert error.startswith("vanilla-transformer train-tokenizer: error: --output-dir") and held in error
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vocab-size", "5000"], "asked for 5000, the text allows"),
        (["--vocab-size", "100"], "ask for at least 261"),
        (["--vocab-size", "280", "--sentinels", "-1"], "sentinels=-1 must not be negative"),
        (["--vocab-size", "280", "--train-file", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--vocab-size", "280", "--text-fields", "body"], "train.jsonl:1: expected body; found: translation"),
    ],
)
def test_bad_input_is_one_line(corpus, tmp_path, capsys, flags, message):
    output = tmp_path / "tokenizer"
    assert main(["--train-file", corpus, "--output-dir", str(output), *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not output.exists()


def test_a_model_s_folder_and_a_file_are_refused(corpus, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert main(["--train-file", corpus, "--vocab-size", "280", "--output-dir", str(tmp_path)]) == 2
    assert "holds a model" in capsys.readouterr().err
    assert main(["--train-file", corpus, "--vocab-size", "280", "--output-dir", corpus]) == 2
    assert "is a file" in capsys.readouterr().err


def test_sentinels_are_tokens_in_their_order_before_other_extra_tokens(corpus, tmp_path):
    flags = ["--train-file", corpus, "--vocab-size", "280", "--output-dir", str(tmp_path / "t")]
    assert main([*flags, "--sentinels", "3", "--extra-tokens", "<speaker>", "--languages", "de"]) == 0
    tokenizer = VanillaTransformerTokenizer.from_pretrained(tmp_path / "t")
    added = [">>de<<", "<extra_id_0>", "<extra_id_1>", "<extra_id_2>", "<speaker>"]
    assert tokenizer.convert_ids_to_tokens(range(5, 10)) == added


def test_through_the_installed_program(corpus, tmp_path, run_command):
    done = run_command("train-tokenizer", "--train-file", corpus, "--vocab-size", "280", "--output-dir", tmp_path / "t")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t" / "tokenizer.json").exists()
