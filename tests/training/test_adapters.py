from __future__ import annotations

import pytest
import torch

from vanilla_transformer.modeling import VanillaTransformerForConditionalGeneration
from vanilla_transformer.training.adapters import without_adapters

pytest.importorskip("peft")
FLAGS = {"lora_rank": 2, "max_steps": 6, "warmup_steps": 1, "dropout": 0.1, "learning_rate": 1e-2}


def test_only_the_low_rank_changes_learn_and_what_is_published_needs_no_peft(training):
    run = training(**FLAGS)
    before = {name: value.clone() for name, value in run.plain.state_dict().items()}
    assert sum("lora_A" in name for name in before) == 2 * 3, "q and v of three attentions"
    run.run()
    changed = {name for name, value in run.plain.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all("lora_" in name for name in changed)
    published = VanillaTransformerForConditionalGeneration.from_pretrained(run.folder.path).eval()
    own = run.plain.eval()
    batch = {"input_ids": torch.tensor([[7, 8, 9, 2]]), "decoder_input_ids": torch.tensor([[1, 11, 12]])}
    with torch.no_grad():
        torch.testing.assert_close(published(**batch).logits, own(**batch).logits)
        start = training("start", max_steps=1).plain.eval()
        assert not torch.allclose(published(**batch).logits, start(**batch).logits, atol=1e-4), "nothing was learned"


def test_merging_leaves_the_model_that_trains_as_it_is(training):
    run = training(**FLAGS)
    names = list(run.plain.state_dict())
    merged = without_adapters(run.plain)
    assert list(run.plain.state_dict()) == names and not any("lora" in name for name in merged.state_dict())
    plain = training("plain").plain
    assert without_adapters(plain) is plain


def test_a_run_with_adapters_resumes_bit_for_bit(training, saved_state):
    flags = FLAGS | {"lora_dropout": 0.2, "save_steps": 3}
    training("whole", **flags).run()
    training("part", **(flags | {"max_steps": 3})).run()
    run = training("part", resume=True, **flags)
    run.run()
    whole = run.folder.path.parent / "whole" / "checkpoints" / "step-6"
    assert saved_state(whole) == saved_state(run.folder.checkpoints / "step-6")


def test_no_such_layer(training):
    with pytest.raises(ValueError, match="lora_targets=nonsense"):
        training(**(FLAGS | {"lora_targets": ["nonsense"]}))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["out_proj", "fc1"]])
def test_a_new_head_learns_beside_the_low_rank_changes(finetuning, targets):
    from transformers import AutoModelForSequenceClassification

    run = finetuning("sequence-classification", lora_rank=4, lora_targets=targets, learning_rate=2e-2)
    before = {name: value.clone() for name, value in run.plain.state_dict().items()}
    run.run()
    changed = {name for name, value in run.plain.state_dict().items() if not torch.equal(value, before[name])}
    heads = {name for name in before if name.startswith("classification_head.")}
    assert len(heads) == 4 and not any("lora" in name or "base_layer" in name for name in heads), "the head is whole"
    assert heads < changed and all("lora_" in name for name in changed - heads)
    assert {"lora_A", "lora_B"} <= {part for name in changed - heads for part in name.split(".")}
    assert run.folder.metrics()[0]["accuracy"] == 100.0
    published = AutoModelForSequenceClassification.from_pretrained(run.folder.path).eval()
    assert not any("lora" in name for name in published.state_dict())
    batch = run.task.collator([run.task.validation.examples[(0, n)] for n in range(5)])
    with torch.no_grad():
        torch.testing.assert_close(published(**batch).logits, run.plain.eval()(**batch).logits)
