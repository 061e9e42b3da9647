"""What older versions wrote still loads and means the same.

`checkpoints/format_N/` holds a tiny model and its tokenizer as format version N was written, and what it said then. They are
never written again. A new format gets a folder of its own: `python tests/modeling/test_old_checkpoints.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.modeling.configuration_vanilla_transformer import FORMAT_VERSION
from vanilla_transformer.tokenization import learn_vocabulary

CHECKPOINTS = Path(__file__).with_name("checkpoints")
TEXTS = [">>de<< the cat sat", "A   dog, 42 times!", "한국어 ☃\n"]


def said_by(folder: Path) -> dict:
    """What a test compares: ids, outputs of beam search, and logits."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    target = torch.tensor([[1, 40, 50, 60]]).expand(len(TEXTS), -1)
    with torch.no_grad():
        logits = model(**batch, decoder_input_ids=target).logits
        outputs = model.generate(**batch, max_new_tokens=6)
    return {
        "fingerprint": tokenizer.fingerprint,
        "input_ids": batch["input_ids"].tolist(),
        "outputs": outputs.tolist(),
        "logits": logits[:, :, ::16].tolist(),
    }


@pytest.mark.parametrize("folder", sorted(CHECKPOINTS.glob("format_*")), ids=lambda folder: folder.name)
def test_an_old_checkpoint_says_what_it_said(folder):
    _, info = VanillaTransformerForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    expected = json.loads((folder / "expected.json").read_text())
    said = said_by(folder)
    torch.testing.assert_close(
        torch.tensor(said.pop("logits")), torch.tensor(expected.pop("logits")), atol=1e-5, rtol=0
    )
    assert said == expected


def test_every_format_is_kept():
    kept = {folder.name for folder in CHECKPOINTS.glob("format_*")}
    assert kept == {f"format_{version}" for version in range(1, FORMAT_VERSION + 1)}


def test_the_first_files_did_not_name_their_format(tmp_path):
    written = json.loads((CHECKPOINTS / "format_1" / "config.json").read_text())
    del written["format_version"], written["custom_pipelines"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = VanillaTransformerConfig.from_pretrained(tmp_path)
    assert config.format_version == 1
    VanillaTransformerForConditionalGeneration(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format_version"] == FORMAT_VERSION


def test_a_newer_format_is_refused(tmp_path):
    VanillaTransformerForConditionalGeneration(
        VanillaTransformerConfig.from_paper("base", vocab_size=9, d_ff=8, encoder_layers=1, decoder_layers=1)
    ).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["format_version"] == FORMAT_VERSION
    (tmp_path / "config.json").write_text(json.dumps({**written, "format_version": FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match=rf"format_version={FORMAT_VERSION + 1} is newer than .*upgrade"):
        VanillaTransformerConfig.from_pretrained(tmp_path)


def write(folder: Path) -> None:
    """The checkpoint of today's format. Nothing is at its first value, and little is at its default."""
    tokenizer = learn_vocabulary(["the cat sat", "한국어"] * 4, 270, languages=["de"], extra_tokens=["<turn>"])
    torch.manual_seed(2017)
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer),
        d_model=8,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        d_ff=12,
        max_position_embeddings=48,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    model = VanillaTransformerForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for code in folder.glob("*.py"):  # the code of this version is what is tested
        code.unlink()
    (folder / "expected.json").write_text(json.dumps(said_by(folder)))


if __name__ == "__main__":
    write(CHECKPOINTS / f"format_{FORMAT_VERSION}")
