from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from vanilla_transformer.modeling import VanillaTransformerForConditionalGeneration
from vanilla_transformer.scripts.draw_attention import main
from vanilla_transformer.training.explanation import attention_maps

FILES = ["encoder-self-attention.png", "decoder-self-attention.png", "cross-attention.png", "attention.html"]


@pytest.fixture(scope="module")
def folder(make_translator, tmp_path_factory):
    """A model that has learned nothing, and its tokenizer."""
    translator = make_translator(["drei Häuser", "두 시"], 275, std=None, max_position_embeddings=12)
    path = tmp_path_factory.mktemp("model")
    translator.model.save_pretrained(path)
    translator.tokenizer.save_pretrained(path)
    return path


def test_the_program_prints_the_translation_and_writes_the_files(folder, tmp_path, run_command):
    output = tmp_path / "made" / "here"
    flags = ["--model", folder, "--text", "drei", "--output-dir", output, "--num-beams", "2"]
    run = run_command("draw-attention", *flags)
    assert run.returncode == 0, run.stderr
    model = VanillaTransformerForConditionalGeneration.from_pretrained(folder)
    expected = attention_maps(model, AutoTokenizer.from_pretrained(folder), "drei", num_beams=2)
    wrote = [f"wrote {output / name}" for name in FILES]
    assert run.stdout == "\n".join([expected.output, *wrote, ""])
    assert run.stderr == "the output was cut after 11 tokens, without </s>\n"  # no progress bar, no warning
    assert sorted(path.name for path in output.iterdir()) == sorted(FILES)
    assert all((output / name).read_bytes().startswith(b"\x89PNG") for name in FILES[:3])


def test_one_layer_and_a_language(folder, tmp_path, capsys):
    arguments = ["--model", str(folder), "--text", "drei", "--output-dir", str(tmp_path)]
    assert main([*arguments, "--layer", "2", "--target-lang", "de"]) == 0
    captured = capsys.readouterr()
    assert not (tmp_path / FILES[0]).exists() and (tmp_path / FILES[2]).exists()
    assert "encoder-self-attention.png: not drawn" in captured.err
    assert '">>de<<"' in (tmp_path / FILES[3]).read_text(encoding="utf-8").replace("\\u003c", "<")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--text": "  "}, "--text is empty"),
        ({"--text": "x y z " * 9}, "more than max_position_embeddings=12"),
        ({"--model": "no/such/folder"}, "no/such/folder"),
        ({"--model": "./nowhere"}, "./nowhere: no such folder"),
        ({"--target-lang": "fr"}, "language 'fr' has no tag in this tokenizer; known: de"),
        ({"--layer": "3"}, "--layer 3: the model has the layers 1 to 2"),
        ({"--num-beams": "0"}, "--num-beams 0: at least 1"),
    ],
)
def test_mistakes_are_answered_in_one_line(change, message, folder, tmp_path, capsys):
    flags = {"--model": str(folder), "--text": "drei", "--output-dir": str(tmp_path / "out"), **change}
    assert main([word for pair in flags.items() for word in pair]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vanilla-transformer draw-attention: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()
