"""README.md of a run's folder: the model card. Every number in it comes from the run's own metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

_TEMPLATE = "hub_card.md"
_METRICS = {"bleu": "BLEU", "chrf": "chrF", "loss": "loss", "perplexity": "perplexity"}
# Stands in the card that is uploaded with the model: the commit's name is known only when it is made.
UNPINNED = 'revision="main"'


def model_card(
    name: str,
    model: PreTrainedModel,
    flags: dict[str, Any],
    metrics: list[dict[str, Any]],
    *,
    environment: dict[str, Any] | None = None,
    author_said: dict[str, Any] | None = None,
    checked: str = "",
    example: tuple[str, str] | None = None,
    has_curves: bool = True,
) -> str:
    """The card's text.

    Args:
        name: of the model; the folder's, or "user/name" on the Hub.
        model: gives sizes and deviations from the paper.
        flags: every flag of the run, as in training.yaml; none if it is not known how the model came about.
        metrics: the rows of metrics.jsonl; none if nothing was measured.
        environment: versions and hardware, as in training.yaml.
        author_said: front matter that only the user can know (license, datasets, language); given for the Hub, whose
            card loads the model by repository and revision.
        checked: what was measured again before publication, a paragraph.
        example: a text and what the model makes of it; attention.png then shows where it looked.
        has_curves: curves.png lies beside the card.
    """
    languages = [flags[side] for side in ("source_lang", "target_lang") if flags.get(side)]
    dataset = flags.get("dataset_name")
    if dataset and (dataset.count("/") > 1 or Path(dataset).exists()):  # a folder, which is nobody else's business
        dataset = None
    results = _eval_results(flags, metrics, languages, dataset)
    front = {
        # What is no code of a language is left to the user: the Hub would refuse the whole card.
        "language": [code for code in languages if len(code) in (2, 3) and code.isalpha() and code.islower()] or None,
        "datasets": [dataset] if dataset else None,
        **(author_said or {}),
    }
    data = ModelCardData(
        library_name="transformers",
        tags=["vanilla-transformer", "translation"] if languages else ["vanilla-transformer"],
        pipeline_tag="translation" if languages else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name.split("/")[-1] if results else None,
        eval_results=results or None,
        **front,
    )
    config = model.config
    what = "It translates {} to {}.".format(*languages) if len(languages) == 2 else "It was pretrained by denoising."
    card = ModelCard.from_template(
        data,
        template_str=_template().read_text(encoding="utf-8"),
        model_name=name,
        summary=(
            f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters: {config.encoder_layers} + "
            f"{config.decoder_layers} layers of width {config.d_model}, {config.num_attention_heads} heads, feed-forward "
            f"{config.d_ff}, vocabulary {config.vocab_size:,}.{f' {what}' if flags else ''}"
        ),
        usage=_usage(name, author_said is not None, example),
        trust=_TRUST,
        results=_results(metrics),
        training=_training(flags, metrics, environment or {}, dataset) if metrics else "Not recorded in this folder.",
        deviations=f"Deviations from the paper: {_deviations(config)}.",
        limits=_limits(config, languages),
        checked=checked,
        example=example,
        has_curves=has_curves and bool(metrics),
    )
    return str(card)


_TRUST = (
    "`trust_remote_code=True` runs the Python files of this repository on your machine. Read them first; `revision` then "
    "makes sure that the code you have read is the code you run, whatever is pushed here later."
)


def claims(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose numbers are on the card: the best evaluation and the test."""
    best = [row for row in metrics if row["split"] == "validation" and row.get("best")][-1:]
    return best + [row for row in metrics if row["split"] == "test"][-1:]


def _template() -> Path:
    # Beside this file in an installation; there is a link to it in a checkout.
    return Path(__file__).with_name(_TEMPLATE)


def _deviations(config: Any) -> str:
    found = config.deviations_from_paper()
    return ", ".join(f"{field} is {ours} (paper: {paper})" for field, (ours, paper) in found.items()) or "none"


def _usage(name: str, on_hub: bool, example: tuple[str, str] | None) -> str:
    more = f"{UNPINNED}, trust_remote_code=True" if on_hub else "trust_remote_code=True"
    text = repr(example[0] if example else "A sentence.")
    return (
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{name}", {more})\n'
        f'model = AutoModelForSeq2SeqLM.from_pretrained("{name}", {more})\n'
        f'ids = model.generate(**tokenizer({text}, return_tensors="pt"))\n'
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))"
    )


def _eval_results(
    flags: dict[str, Any], metrics: list[dict[str, Any]], languages: list[str], dataset: str | None
) -> list[EvalResult]:
    """The claims as the Hub's `model-index`, each with its sacreBLEU signature."""
    results = []
    for row in claims(metrics):
        files = _names(flags.get(f"{row['split']}_file"))
        for metric in ("bleu", "chrf") if "bleu" in row else ("perplexity",):
            if metric not in row:
                continue
            how = {key: row[key] for key in (f"{metric}_signature", "num_beams") if key in row}
            results.append(
                EvalResult(
                    task_type="translation" if languages else "fill-mask",
                    dataset_type="custom" if files or not dataset else dataset,
                    dataset_name=files or dataset or "custom",
                    dataset_split=row["split"],
                    metric_type=metric,
                    metric_name=_METRICS[metric],
                    metric_value=row[metric],
                    metric_args=how or None,
                )
            )
    return results


def _results(metrics: list[dict[str, Any]]) -> str:
    """The best evaluation and the test, in a table; each score with the signature that tells how it was made."""
    rows = claims(metrics)
    if not rows:
        return "Not measured."
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


def _names(files: list[str] | None) -> str:
    """Files by name: a path would tell about somebody's machine."""
    return ", ".join(Path(part).name for file in files or [] for part in str(file).split(","))


def _training(
    flags: dict[str, Any], metrics: list[dict[str, Any]], environment: dict[str, Any], dataset: str | None
) -> str:
    """Data, updates, time, machine, and the flags that decide the numbers."""
    data = _names(flags.get("train_file")) or dataset or "data that have no name"
    lines = [f"Trained on {data}"]
    told = [row for row in metrics if row["split"] == "validation"]
    if told:
        last = told[-1]
        lines[0] += f" for {last['step']:,} updates ({last['tokens']:,} tokens, {last['seconds'] / 60:.1f} minutes of training)"
    versions = environment.get("versions", {})
    where = [environment["hardware"]] if environment.get("hardware") else []
    where += [f"{name} {versions[name]}" for name in ("vanilla-transformer", "torch", "transformers") if name in versions]
    decisive = (
        "preset",
        "max_tokens",
        "accumulation_steps",
        "learning_rate" if flags.get("learning_rate") is not None else "noam_factor",
        "warmup_steps",
        "dropout",
        "label_smoothing",
        "precision",
        "seed",
    )
    chosen = ", ".join(f"{name} {flags[name]}" for name in decisive if flags.get(name) is not None)
    lines[0] += f", on {', '.join(where)}." if where else "."
    if chosen:
        lines.append(f"Recipe: {chosen}.")
    lines.append("All flags and versions: `training.yaml`; all evaluations: `metrics.jsonl`.")
    return " ".join(lines)


def _limits(config: Any, languages: list[str]) -> str:
    said = [f"It reads and writes at most {config.max_position_embeddings:,} tokens."]
    if languages:
        said += [
            "It translates sentence by sentence, without context, and only what resembles its training data; elsewhere "
            "it may leave out, repeat or invent, fluently.",
        ]
    said += ["It was not examined for bias, nor for private or harmful content in its training data."]
    return " ".join(said)
