"""README.md of a run's folder: the model card. Every number in it comes from the run's own metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

_TEMPLATE = "hub_card.md"


def model_card(name: str, model: PreTrainedModel, flags: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """The card's text.

    Args:
        name: of the model; the folder's.
        model: gives sizes and deviations from the paper.
        flags: every flag of the run, as in training.yaml.
        metrics: the rows of metrics.jsonl.
    """
    languages = [flags[side] for side in ("source_lang", "target_lang") if flags.get(side)]
    data = ModelCardData(
        library_name="transformers",
        tags=["vanilla-transformer", "translation"] if languages else ["vanilla-transformer"],
        pipeline_tag="translation" if languages else None,
        # What is no code of a language is left to the user: the Hub would refuse the whole card.
        language=[code for code in languages if len(code) in (2, 3) and code.isalpha() and code.islower()] or None,
    )
    config = model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    summary = (
        f"{parameters:,} parameters: {config.encoder_layers} + {config.decoder_layers} layers of width {config.d_model}, "
        f"{config.num_attention_heads} heads, feed-forward {config.d_ff}, vocabulary {config.vocab_size:,}. "
        + (f"It translates {languages[0]} to {languages[1]}. " if languages else "It was pretrained by denoising. ")
        + f"Deviations from the paper: {_deviations(config)}."
    )
    usage = (
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)\n'
        f'model = AutoModelForSeq2SeqLM.from_pretrained("{name}", trust_remote_code=True)\n'
        'ids = model.generate(**tokenizer("A sentence.", return_tensors="pt"))\n'
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))"
    )
    card = ModelCard.from_template(
        data,
        template_str=_template().read_text(encoding="utf-8"),
        model_name=name,
        summary=summary,
        usage=usage,
        results=_results(metrics),
        training=_training(flags, metrics),
    )
    return str(card)


def _template() -> Path:
    # Beside this file in an installation; there is a link to it in a checkout.
    return Path(__file__).with_name(_TEMPLATE)


def _deviations(config: Any) -> str:
    found = config.deviations_from_paper()
    return ", ".join(f"{field} is {ours} (paper: {paper})" for field, (ours, paper) in found.items()) or "none"


def _results(metrics: list[dict[str, Any]]) -> str:
    """The best evaluation and the test, in a table; each score with the signature that tells how it was made."""
    best = [row for row in metrics if row["split"] == "validation" and row.get("best")][-1:]
    rows = best + [row for row in metrics if row["split"] == "test"][-1:]
    names = [name for name in ("loss", "perplexity", "bleu", "chrf") if any(name in row for row in rows)]
    table = ["| part | update | " + " | ".join(names) + " |", "| --- " * (len(names) + 2) + "|"]
    for row in rows:
        values = " | ".join(str(row.get(name, "")) for name in names)
        table.append(f"| {row['split']} | {row['step']} | {values} |")
    signatures = {row[key] for row in rows for key in ("bleu_signature", "chrf_signature") if key in row}
    beams = ", ".join(f"{row['split']} with {row['num_beams']} beams" for row in rows if "num_beams" in row)
    notes = ["", f"Generated: {beams}."] if beams else [""]
    notes += [f"sacreBLEU: `{signature}`" for signature in sorted(signatures)]
    return "\n".join(table + notes)


def _training(flags: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """Files by name (a path would tell about somebody's machine), updates, time, and the flags that decide the numbers."""
    files = ", ".join(Path(part).name for file in flags.get("train_file") or [] for part in str(file).split(","))
    last = [row for row in metrics if row["split"] == "validation"][-1]
    decisive = (
        "max_tokens",
        "accumulation_steps",
        "learning_rate",
        "noam_factor",
        "warmup_steps",
        "dropout",
        "label_smoothing",
        "precision",
        "seed",
    )
    chosen = ", ".join(f"{name} {flags[name]}" for name in decisive if flags.get(name) is not None)
    return (
        f"Trained on {files or flags.get('dataset_name')} for {last['step']:,} updates ({last['tokens']:,} tokens, "
        f"{last['seconds'] / 60:.1f} minutes of training). {chosen}. All flags and versions: `training.yaml`; "
        f"all evaluations: `metrics.jsonl`.\n\n![curves](curves.png)"
    )
