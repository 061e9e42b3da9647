"""README.md of a run's folder: the model card. Every number in it comes from the run's own metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from vanilla_transformer.training.cached_rows import at_revision
from vanilla_transformer.training.card_usage import UNPINNED, usage
from vanilla_transformer.training.score_names import direction_of, headlines, on_hub, shown_scores, title
from vanilla_transformer.training.task_cards import TaskCard, task_card

_TEMPLATE = "hub_card.md"


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
    has_picture: bool = False,
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
        example: a text and what the model makes of it.
        has_picture: attention.png lies beside the card, and shows where the model looked while it wrote that.
        has_curves: curves.png lies beside the card.
    """
    about = task_card(model, flags)
    dataset = flags.get("dataset_name")
    if dataset and (dataset.count("/") > 1 or Path(dataset).exists()):  # a folder, which is nobody else's business
        dataset = None
    dataset, revision = at_revision(dataset) if dataset else (None, None)
    results = _eval_results(flags, metrics, about, dataset, revision)
    # What is no code of a language is left to the user: the Hub would refuse the whole card.
    codes = [code for code in about.languages if len(code) in (2, 3) and code.isalpha() and code.islower()]
    front = {"language": codes or None, "datasets": [dataset] if dataset else None, **(author_said or {})}
    data = ModelCardData(
        library_name="transformers",
        tags=about.tags,
        pipeline_tag=about.pipeline_tag,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=name.split("/")[-1] if results else None,
        eval_results=results or None,
        **front,
    )
    config: Any = model.config
    card = ModelCard.from_template(
        data,
        template_str=_template().read_text(encoding="utf-8"),
        model_name=name,
        summary=f"{_sizes(model)} {about.does}".rstrip(),
        architecture=_architecture(model),
        usage=usage(about, config, flags, name, author_said is not None, example[0] if example else None),
        trust=_TRUST,
        results=_results(metrics),
        training=_training(flags, metrics, environment or {}, dataset) if metrics else "Not recorded in this folder.",
        deviations=f"Deviations from the paper: {_deviations(config)}.",
        limits=" ".join(about.limits),
        checked=checked,
        example=example,
        has_picture=has_picture,
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


def _sizes(model: PreTrainedModel) -> str:
    config: Any = model.config
    # Low-rank changes are part of a run's model, but not of the one that it publishes: there they are added in.
    count = sum(parameter.numel() for name, parameter in model.named_parameters() if "lora_" not in name)
    layers = f"{config.encoder_layers} + {config.decoder_layers}" if _has_decoder(model) else str(config.encoder_layers)
    return (
        f"{count:,} parameters: {layers} layers of width {config.d_model}, {config.num_attention_heads} heads, feed-forward "
        f"{config.d_ff}, vocabulary {config.vocab_size:,}."
    )


def _architecture(model: PreTrainedModel) -> str:
    return "An encoder-decoder Transformer" if _has_decoder(model) else "The encoder of a Transformer"


def _has_decoder(model: PreTrainedModel) -> bool:
    return getattr(model.base_model, "decoder", None) is not None


def _eval_results(
    flags: dict[str, Any], metrics: list[dict[str, Any]], about: TaskCard, dataset: str | None, revision: str | None
) -> list[EvalResult]:
    """The claims as the Hub's `model-index`, each with its sacreBLEU signature."""
    results = []
    for row in claims(metrics):
        files = _names(flags.get(f"{row['split']}_file"))
        several = any(map(direction_of, row))
        for score in headlines(row):
            is_mean = several and not direction_of(score)
            how = {key: row[key] for key in (f"{on_hub(score)}_signature", "num_beams") if key in row}
            results.append(
                EvalResult(
                    task_type=about.task_type,
                    dataset_type="custom" if files or not dataset else dataset,
                    dataset_name=files or dataset or "custom",
                    dataset_split=row["split"],
                    dataset_revision=None if files else revision,
                    metric_type=on_hub(score),
                    metric_name=f"{title(score)}, mean of the directions" if is_mean else title(score),
                    metric_value=row[score],
                    metric_args=how or None,
                )
            )
    return results


def _results(metrics: list[dict[str, Any]]) -> str:
    """The best evaluation and the test, in a table; each score with the signature that tells how it was made."""
    rows = claims(metrics)
    if not rows:
        return "Not measured."
    names = list(dict.fromkeys(name for row in rows for name in shown_scores(row)))
    of_all = [name for name in names if not direction_of(name)]
    table = _table(["part", "update", *map(title, of_all)], [[row["split"], row["step"], *_values(row, of_all)] for row in rows])
    if of_all != names:
        of_each = list(dict.fromkeys(map(direction_of, names)))[1:]
        lines = [
            [row["split"], one, *_values(row, [f"bleu_{one}", f"chrf_{one}"])]
            for row in rows
            for one in of_each
            if f"bleu_{one}" in row
        ]
        table += ["", "BLEU and chrF above are the means of:", "", *_table(["part", "direction", "BLEU", "chrF"], lines)]
    signatures = {row[key] for row in rows for key in ("bleu_signature", "chrf_signature") if key in row}
    beams = ", ".join(f"{row['split']} with {row['num_beams']} beams" for row in rows if "num_beams" in row)
    notes = ["", f"Generated: {beams}."] if beams else [""]
    notes += [f"sacreBLEU: `{signature}`" for signature in sorted(signatures)]
    if any(set(headlines(row)) - {"bleu", "chrf", "perplexity"} for row in rows) and not signatures:
        notes.append("Scores are in per cent.")
    return "\n".join(table + notes).rstrip()


def _values(row: dict[str, Any], names: list[str]) -> list[Any]:
    return [row.get(name, "") for name in names]


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


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


__all__ = ["UNPINNED", "claims", "model_card"]
