"""In the hands of transformers' Trainer and of PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from vanilla_transformer.training.collation import PairCollator


@pytest.fixture
def tokenizer(toy: Path):
    return AutoTokenizer.from_pretrained(toy / "tokenizer")


@pytest.fixture
def rows(toy: Path, tokenizer) -> list[dict]:
    """16 pairs, of quite different lengths: the four parts of 4 have different numbers of target tokens."""
    pairs = [json.loads(line)["translation"] for line in (toy / "train.jsonl").read_text("utf-8").splitlines()]
    pairs = sorted(pairs, key=lambda pair: len(pair["de"]))[::3]
    return [dict(tokenizer(pair["en"], text_target=pair["de"])) for pair in pairs[:12] + pairs[:4]]


@pytest.fixture
def new_model(make_model, tokenizer):
    def make(**fields):
        return make_model(vocab_size=len(tokenizer), max_position_embeddings=64, **fields)

    return make


def collator_of(kind: str, tokenizer, model):
    if kind == "ours":
        return PairCollator(tokenizer.pad_token_id, model.config.decoder_start_token_id)
    return DataCollatorForSeq2Seq(tokenizer, model=model)


@pytest.fixture
def trainer_of(tokenizer, rows, tmp_path, fresh_accelerator):
    def make(model, collator="stock", compute_metrics=None, **arguments) -> Seq2SeqTrainer:
        options = {
            "output_dir": str(tmp_path / "trained"),
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "max_steps": 12,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
        }
        return Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(**{**options, **arguments}),
            train_dataset=rows,
            eval_dataset=rows[:6],
            data_collator=collator_of(collator, tokenizer, model),
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
        )

    return make


def losses(trainer: Seq2SeqTrainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_loss_falls_the_same_with_our_collator_and_the_stock_one(new_model, trainer_of):
    ours, stock = (losses(trainer_of(new_model(dropout=0.1), kind)) for kind in ("ours", "stock"))
    assert ours == stock  # the same tensors, so the same bits
    assert len(ours) == 12 and ours[-1] < 0.8 * ours[0]


def test_evaluation_generates(new_model, trainer_of, tokenizer, rows):
    """With `predict_with_generate`, a metric sees what `generate` gives by itself."""
    model = new_model()
    seen = []
    trainer = trainer_of(
        model,
        predict_with_generate=True,
        generation_max_length=12,
        generation_num_beams=2,
        compute_metrics=lambda prediction: seen.append(prediction) or {"seen": len(prediction.predictions)},
    )
    metrics = trainer.evaluate()
    assert metrics["eval_seen"] == 6 and metrics["eval_loss"] > 0
    batch = collator_of("ours", tokenizer, model)(rows[:6])
    expected = model.generate(
        batch["input_ids"], attention_mask=batch["attention_mask"], num_beams=2, max_length=12
    ).tolist()
    predicted = [[token for token in row if token > 0] for row in seen[0].predictions.tolist()]
    assert predicted == [[token for token in row if token > 0] for row in expected]
    with torch.no_grad():
        assert metrics["eval_loss"] == pytest.approx(model(**batch).loss.item(), rel=1e-5)


@pytest.mark.parametrize("collator", ["ours", "stock"])
def test_four_times_four_is_one_times_sixteen(new_model, trainer_of, rows, collator):
    """Trainer hands the target tokens of the whole update to the model, which must divide by them and nothing else."""
    assert len({sum(len(row["labels"]) for row in rows[start : start + 4]) for start in range(0, 16, 4)}) > 1
    results = []
    for size, steps in ((16, 1), (4, 4)):
        model = new_model()
        trainer = trainer_of(
            model,
            collator,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=2,
            optim="sgd",  # Adam would hide a factor
            max_grad_norm=0.0,  # and so would clipping
            lr_scheduler_type="constant",
            learning_rate=0.5,
        )
        results.append((losses(trainer), {name: p.detach() for name, p in model.named_parameters()}))
    (whole, weights), (parts, weights_of_parts) = results
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(weights_of_parts, weights, atol=1e-6, rtol=1e-5)
    start = dict(new_model().named_parameters())
    assert max((weights[name] - start[name]).abs().max().item() for name in weights) > 1e-2


def test_trainers_label_smoothing_is_ours(new_model, trainer_of):
    """It takes the labels out of the batch and computes the loss itself: uniform, as ours by default."""
    smoothed = losses(trainer_of(new_model(label_smoothing=0.0), "ours", label_smoothing_factor=0.2, max_steps=3))
    assert smoothed == pytest.approx(losses(trainer_of(new_model(label_smoothing=0.2), "ours", max_steps=3)), rel=1e-5)
    assert smoothed[0] != pytest.approx(losses(trainer_of(new_model(label_smoothing=0.0), max_steps=3))[0], rel=1e-3)


# The name that transformers 5.17 and 5.23 both know; the younger has another besides.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_gradient_checkpointing_and_bfloat16(new_model, trainer_of):
    plain = losses(trainer_of(new_model(), max_steps=4))
    assert losses(trainer_of(new_model(), max_steps=4, gradient_checkpointing=True)) == pytest.approx(plain, rel=1e-5)
    assert losses(trainer_of(new_model(), max_steps=4, bf16=True)) == pytest.approx(plain, rel=0.01)


# -------------------------------------------------------------------------------------------------------------- PEFT

# PEFT 0.21 asks transformers 5.23 by names that both still have, and one of them warns.
peft_warnings = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def lora(**fields):
    peft = pytest.importorskip("peft", reason="PEFT is not installed")
    defaults = {"task_type": "SEQ_2_SEQ_LM", "r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0}
    return peft.LoraConfig(**{**defaults, **fields})


def logits_of(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


@peft_warnings
def test_lora_trains_saves_loads_and_merges(new_model, trainer_of, tokenizer, rows, tmp_path):
    config = lora(target_modules="all-linear")  # all but lm_head, which is the embeddings too
    from peft import PeftModel, get_peft_model

    new_model().save_pretrained(tmp_path / "base")
    base = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = get_peft_model(base, config)
    batch = collator_of("ours", tokenizer, base)(rows[:4])
    at_first = logits_of(model, batch)
    falling = losses(trainer_of(model, "ours", learning_rate=3e-2, max_steps=20))
    assert falling[-1] < 0.9 * falling[0]
    after = {name.replace("base_layer.", ""): value for name, value in base.state_dict().items() if "lora" not in name}
    assert all(torch.equal(after[name], value) for name, value in before.items()) and len(after) == len(before)

    logits = logits_of(model, batch)
    assert (logits - at_first).abs().max() > 0.1
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(logits_of(again, batch), logits)
    # the adapter's folder names its base, so that it loads by itself
    assert torch.equal(logits_of(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter"), batch), logits)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options = {"num_beams": 3, "max_new_tokens": 8}
    written = model.generate(**source, **options)

    merged = model.merge_and_unload()
    assert type(merged) is type(new_model())
    torch.testing.assert_close(logits_of(merged, batch), logits, atol=1e-5, rtol=0.0)
    assert torch.equal(merged.generate(**source, **options), written)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits_of(loaded, batch), logits_of(merged, batch))


@peft_warnings
# What it says is so: a tied matrix with an adapter is no longer the same in its two places.
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True` and a tied layer:UserWarning")
@pytest.mark.parametrize("fields", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_on_the_output_is_in_the_loss(new_model, tokenizer, rows, fields):
    """In training the loss is made from lm_head's weight directly, unless something stands in its place."""
    config = lora(**fields)
    from peft import get_peft_model

    model = get_peft_model(new_model(), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lm_head" in name and parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    batch = collator_of("ours", tokenizer, model)(rows[:4])
    evaluated = model.eval()(**batch).loss
    trained = model.train()(**batch).loss
    torch.testing.assert_close(trained, evaluated)
    without = new_model()(**batch).loss
    assert abs(without - trained) > 0.1
    trained.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for n, p in model.named_parameters()
        if "lm_head" in n and p.requires_grad
    )


@peft_warnings
# The name that transformers 5.17 and 5.23 both know; the younger has another besides.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_lora_under_gradient_checkpointing(new_model, tokenizer, rows, use_reentrant):
    config = lora(target_modules="all-linear", init_lora_weights=False)
    from peft import get_peft_model

    gradients = []
    for checkpointing in (False, True):
        model = get_peft_model(new_model(), config).train()
        with torch.no_grad():
            torch.manual_seed(1)
            for name, parameter in model.named_parameters():
                if "lora" in name:
                    parameter.normal_(std=0.1)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model(**collator_of("ours", tokenizer, model)(rows[:4])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients[1].values())
    torch.testing.assert_close(gradients[1], gradients[0])
