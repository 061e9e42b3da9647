from __future__ import annotations

import pytest
import torch

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.training.arguments import TransferArguments
from vanilla_transformer.training.transfer import Transfer, levels


def model(share: str = "none", **sizes):
    torch.manual_seed(0)
    config = VanillaTransformerConfig(
        vocab_size=20, d_model=8, d_ff=16, num_attention_heads=2, encoder_layers=2, decoder_layers=1, share_embeddings=share,
        tie_word_embeddings=share != "none", **sizes,
    )  # fmt: skip
    return VanillaTransformerForConditionalGeneration(config)


def names_of(model, parameters) -> set[str]:
    known = {parameter: name for name, parameter in model.named_parameters()}
    return {known[parameter] for parameter in parameters}


@pytest.mark.parametrize("sizes", [{}, {"norm_position": "pre", "position_embedding": "learned"}])
@pytest.mark.parametrize("share", ["none", "all"])
def test_every_weight_is_on_one_level(share, sizes):
    made = model(share, **sizes)
    found = levels(made)
    assert [level.name for level in found] == [
        "embeddings", "encoder layer 1", "encoder layer 2", "decoder layer 1", "head",
    ]  # fmt: skip
    every = [parameter for level in found for parameter in level.parameters]
    assert len(every) == len(set(every)) == len(list(made.parameters()))
    assert names_of(made, found[-1].parameters) == ({"lm_head.weight"} if share == "none" else set())
    if sizes:
        assert "model.encoder.norm.weight" in names_of(made, found[2].parameters)
        assert "model.decoder.embed_positions.embedding.weight" in names_of(made, found[0].parameters) or any(
            "embed_positions" in name for name in names_of(made, found[0].parameters)
        )


def test_without_flags_all_weights_learn_alike_in_one_group():
    made = model()
    transfer = Transfer(made, TransferArguments())
    (group,) = transfer.parameter_groups()
    assert group["rate"] == 1.0 and len(group["params"]) == len(list(made.parameters()))
    assert not transfer.is_partial and transfer.resting(1) == []


@pytest.mark.parametrize(
    ("parts", "learning"),
    [
        (["body"], {"head"}),
        (["encoder"], {"embeddings", "decoder layer 1", "head"}),
        (["embeddings", "decoder"], {"encoder layer 1", "encoder layer 2", "head"}),
    ],
)
def test_frozen_parts_do_not_learn_and_do_not_drop(parts, learning):
    made = model(dropout=0.5)
    transfer = Transfer(made, TransferArguments(freeze=parts))
    in_optimizer = {parameter for group in transfer.parameter_groups() for parameter in group["params"]}
    for level in transfer.levels:
        assert {p.requires_grad for p in level.parameters} == {level.name in learning}
        assert set(level.parameters) <= in_optimizer or level.name not in learning
    made.train()
    transfer.rest(1)
    encoder = made.model.encoder
    assert encoder.layers[0].training == ("encoder layer 1" in learning)
    assert encoder.training == ("embeddings" in learning)
    assert made.model.decoder.layers[0].training == ("decoder layer 1" in learning)


def test_slow_start_unfreezes_from_the_top():
    transfer = Transfer(model(), TransferArguments(head_only_steps=10, unfreeze_steps=5))
    resting = {update: [level.name for level in transfer.resting(update)] for update in (1, 10, 11, 15, 16, 26, 31)}
    below = ["embeddings", "encoder layer 1", "encoder layer 2", "decoder layer 1"]
    assert resting == {1: below, 10: below, 11: below[:3], 15: below[:3], 16: below[:2], 26: [], 31: []}
    at_once = Transfer(model(), TransferArguments(head_only_steps=10))
    assert len(at_once.resting(10)) == 4 and at_once.resting(11) == []


def test_rates_fall_from_the_head_downwards():
    transfer = Transfer(model(), TransferArguments(layer_decay=0.5, head_rate=10.0))
    assert [level.rate for level in transfer.levels] == [0.0625, 0.125, 0.25, 0.5, 10.0]
    assert [group["rate"] for group in transfer.parameter_groups()] == [0.0625, 0.125, 0.25, 0.5, 10.0]


@pytest.mark.parametrize(
    ("flags", "share", "said"),
    [
        ({"freeze": ["embedding"]}, "none", "freeze='embedding': this model has body, decoder, embeddings, encoder to freeze"),
        ({"freeze": ["body"]}, "all", "the output matrix is the embedding"),
        ({"head_only_steps": 5}, "all", "no head of its own"),
        ({"head_rate": 5.0}, "all", "head_rate=5.0: this model has no head of its own"),
    ],
)
def test_what_cannot_be_is_refused(flags, share, said):
    with pytest.raises(ValueError, match=said):
        Transfer(model(share), TransferArguments(**flags))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"unfreeze_steps": 5}, "give that as well"),
        ({"layer_decay": 0.0}, "layer_decay=0.0"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"head_rate": float("nan")}, "head_rate=nan"),
        ({"lora_rank": -1}, "lora_rank=-1"),
        ({"lora_rank": 4, "freeze": ["body"]}, "lora_rank freezes"),
    ],
)
def test_numbers_out_of_range_are_refused(flags, said):
    with pytest.raises(ValueError, match=said):
        TransferArguments(**flags)


UNTIED = {"share_embeddings": "none", "max_steps": 6, "warmup_steps": 1, "dropout": 0.1}


def test_what_is_refused_leaves_no_folder(training, tmp_path):
    for flags in ({"freeze": ["body"]}, {"head_rate": 5.0}, {"lora_rank": 2, "lora_targets": ["none"]}):
        with pytest.raises(ValueError):
            training("run", share_embeddings="all", **flags)
        assert not (tmp_path / "run").exists(), flags


def test_a_run_changes_only_what_may_learn(training):
    run = training(freeze=["body"], **UNTIED)
    before = {name: value.clone() for name, value in run.plain.state_dict().items()}
    run.run()
    changed = {name for name, value in run.plain.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"lm_head.weight"}


def test_slow_start_in_a_run(training):
    run = training(head_only_steps=6, **UNTIED)
    before = {name: value.clone() for name, value in run.plain.state_dict().items()}
    run.run()
    changed = {name for name, value in run.plain.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"lm_head.weight"}, "weight decay or Adam's momentum moved what should rest"
    longer = training("longer", head_only_steps=3, **UNTIED)
    longer.run()
    name = "model.encoder.layers.0.feed_forward.fc1.weight"
    assert not torch.equal(longer.plain.state_dict()[name], before[name])


def test_a_slow_start_resumes_bit_for_bit(training, saved_state):
    flags = UNTIED | {"head_only_steps": 2, "unfreeze_steps": 1, "layer_decay": 0.8, "save_steps": 3}
    whole = training("whole", **flags)
    whole.run()
    part = training("part", **(flags | {"max_steps": 3}))
    part.run()
    rest = training("part", resume=True, **flags)
    rest.run()
    states = [saved_state(run.folder.checkpoints / "step-6") for run in (whole, rest)]
    assert states[0] == states[1]


# ----------------------------------------------------------------------------------------------------- with a head


def changed_names(run) -> set[str]:
    before = {name: value.clone() for name, value in run.plain.state_dict().items()}
    run.run()
    return {name for name, value in run.plain.state_dict().items() if not torch.equal(value, before[name])}


def test_the_top_level_of_a_classifier_is_its_head(finetuning):
    run = finetuning("sequence-classification", head_reads="decoder", layer_decay=0.5, head_rate=3.0, max_steps=1)
    assert [level.name for level in run.transfer.levels] == ["embeddings", "encoder layer 1", "decoder layer 1", "head"]
    assert [level.rate for level in run.transfer.levels] == [0.125, 0.25, 0.5, 3.0]
    head = names_of(run.plain, run.transfer.levels[-1].parameters)
    assert head == {name for name in run.plain.state_dict() if name.startswith("classification_head.")} and len(head) == 4
    assert not run.transfer.output_is_frozen


def test_slow_start_of_a_classifier(finetuning):
    changed = changed_names(finetuning("token-classification", head_only_steps=3, max_steps=3))
    assert changed == {"classifier.weight", "classifier.bias"}
    run = finetuning("token-classification", "then", head_only_steps=1, unfreeze_steps=1, head_reads="encoder", max_steps=2)
    changed = changed_names(run)
    assert any("encoder.layers" in name for name in changed) and not any("embed_tokens" in name for name in changed)


def test_a_frozen_body_still_learns_a_head(finetuning):
    changed = changed_names(finetuning("dependency-parsing", freeze=["body"], max_steps=2))
    assert changed and all(name.startswith("biaffine.") for name in changed)


def test_a_part_that_an_encoder_has_not_cannot_be_frozen(finetuning):
    with pytest.raises(ValueError, match="freeze='decoder': this model has body, embeddings, encoder to freeze"):
        finetuning("sequence-classification", head_reads="encoder", freeze=["decoder"])


@pytest.mark.parametrize("share, told", [("all", True), ("target-output", True), ("none", False)])
def test_it_is_told_that_a_tied_output_matrix_is_frozen_with_the_embeddings(training, capsys, share, told):
    run = training(freeze=["embeddings"], share_embeddings=share, max_steps=1)
    before = run.plain.lm_head.weight.clone()
    run.run()
    assert torch.equal(before, run.plain.lm_head.weight) == told
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Transfer: "))
    assert ("the output matrix is the embedding (share_embeddings), so it is frozen with it" in line) == told
