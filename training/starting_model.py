"""The model and the tokenizer a run starts from: loaded, or from a preset with weights drawn by the seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, set_seed
from transformers.utils import logging

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.training.arguments import PRESETS, ModelArguments

# What may change when training goes on from a model; everything else is the shape of its weights.
CHANGEABLE = ("dropout", "attention_dropout", "activation_dropout", "label_smoothing", "label_smoothing_kind")
# What a new head may have its own way.
HEAD_FIELDS = ("head_reads", "classifier_dropout", "arc_width", "relation_width", "biaffine_dropout")


def load_tokenizer(arguments: ModelArguments) -> Any:
    """The tokenizer that was named, or the model's own. ValueError says what is missing."""
    where = arguments.tokenizer or arguments.model
    if where is None:
        raise ValueError(
            "give --tokenizer DIR (made by `vanilla-transformer train-tokenizer`), or --model, which has its own"
        )
    if Path(where).is_dir() and not (Path(where) / "tokenizer.json").is_file():
        raise ValueError(f"{where} holds no tokenizer.json; make one with `vanilla-transformer train-tokenizer`")
    return load_from(AutoTokenizer, where, "tokenizer")


def starting_model(
    arguments: ModelArguments,
    tokenizer: Any,
    seed: int,
    attention: str = "auto",
    *,
    kind: type[Any] = VanillaTransformerForConditionalGeneration,
    head: dict[str, Any] | None = None,
) -> Any:
    """The model, whose vocabulary is the tokenizer's.

    Args:
        arguments: what to load, or how large to make it.
        tokenizer: that of the data.
        seed: of the weights.
        attention: the attention implementation, or "auto" for the one that transformers takes by itself.
        kind: its class. A loaded model may be of another one of ours: then its body is taken, and the head is new.
        head: settings of the head that the data decide, `id2label` among them; empty for a model that writes text.

    Raises:
        ValueError: neither a model nor a preset or both are named, sizes of a loaded model shall change, or the
            tokenizer is not the one the model was trained with, its head has other classes than the data, or the attention
            cannot be had.
    """
    model = _loaded_or_new(arguments, tokenizer, seed, kind, head or {})
    if attention != "auto":
        try:
            model.set_attn_implementation(attention)
        except (ValueError, ImportError) as error:
            raise ValueError(f"attention={attention!r} cannot be used: {' '.join(str(error).split())[:400]}") from error
    return model


def _loaded_or_new(arguments: ModelArguments, tokenizer: Any, seed: int, kind: type[Any], head: dict[str, Any]) -> Any:
    set_seed(seed)
    given = {
        f.name: getattr(arguments, f.name)
        for f in fields(arguments)
        if f.name not in ("model", "preset", "tokenizer", "new_head") and getattr(arguments, f.name) is not None
    }
    if not head and (of_heads := [name for name in HEAD_FIELDS if name in given]):
        raise ValueError(f"{of_heads[0]} is for tasks with a head (classification, tagging, parsing); leave it out")
    if arguments.new_head and not (head and arguments.model):
        raise ValueError("new_head is for a task with a head (classification, tagging, parsing), and with --model; leave it out")
    if arguments.model is not None:
        if arguments.preset is not None:
            raise ValueError("--model continues a model and --preset begins one from scratch: give one of them")
        fixed = [name for name in given if name not in (*CHANGEABLE, *HEAD_FIELDS)]
        if fixed:
            raise ValueError(
                f"{fixed[0]} is part of the weights of {arguments.model} and cannot be changed; leave it out"
            )
        VanillaTransformerConfig(**given)  # refuses what is out of range; loading does not look
        has_head = bool(head) and _continues(arguments, kind, head)
        model = load_from(kind, arguments.model, "model", is_head_new=bool(head) and not has_head, **given, **head)
        if hasattr(tokenizer, "check_fits"):
            tokenizer.check_fits(model.config)
        if head and not has_head:
            # Drawn here and not by from_pretrained, which keeps a head of the same shape that belongs to other classes.
            new = {name: value for name, value in kind(model.config).state_dict().items() if _of_head(name)}
            model.load_state_dict(new, strict=False)
        return model

    if arguments.preset is None and not {"d_model", "encoder_layers", "decoder_layers", "d_ff"} <= given.keys():
        raise ValueError(
            "give --model DIR to continue a model, or --preset to begin one from scratch, for example --preset base"
        )
    if arguments.preset is not None and arguments.preset not in PRESETS:
        raise ValueError(f"preset {arguments.preset!r} is unknown; choose one of {', '.join(PRESETS)}")
    sizes = dict(PRESETS[arguments.preset]) if arguments.preset else {}
    if {"d_model", "num_attention_heads"} & given.keys():
        # The widths of the preset's heads belong to its own d_model and heads.
        sizes.pop("d_k", None)
        sizes.pop("d_v", None)
    config = VanillaTransformerConfig(
        **{**sizes, **given, **head},
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        tokenizer_fingerprint=getattr(tokenizer, "fingerprint", None),
    )
    model = kind(config)
    if not model.can_generate():
        return model
    # The paper's decoding (section 6.1) is what `generate` does with a model of ours unless told otherwise.
    decoding = {
        "num_beams": 4,
        "length_penalty": 0.6,
        "length_penalty_kind": "paper",
        "max_new_tokens_beyond_source": 50,
    }
    # Not `update`, and not marked as made from the model's configuration: either loses the names transformers does not
    # know, the one at once and the other when the model is loaded again.
    own = model.generation_config.to_dict() | {"_from_model_config": False}
    model.generation_config = GenerationConfig.from_dict(own | decoding)
    return model


def _continues(arguments: ModelArguments, kind: type[Any], head: dict[str, Any]) -> bool:
    """Whether the model that is loaded has the head already, of the same classes. ValueError if of others."""
    assert arguments.model is not None
    config = load_from(VanillaTransformerConfig, arguments.model, "model")
    if arguments.new_head or kind.__name__ not in (config.architectures or []):
        return False
    theirs, ours = ([str(name) for name in dict(names).values()] for names in (config.id2label, head["id2label"]))
    if theirs != ours:
        raise ValueError(
            f"{arguments.model} tells {_listed(theirs)} apart, and the data {_listed(ours)}; give --new-head to begin a new "
            f"head, or data with the model's classes"
        )
    return True


def _listed(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")


def _of_head(name: str) -> bool:
    return not name.startswith(f"{VanillaTransformerForConditionalGeneration.base_model_prefix}.")


def load_from(factory, where: str, what: str, *, is_head_new: bool = False, **kwargs):
    """`factory.from_pretrained(where)`, with one line that says what is wrong instead of a screenful.

    Weights that are missing, or of another shape, are an error; those of the head are not if it `is_head_new`.
    """
    if ("/" not in where or where.startswith((".", "/", "~"))) and not Path(where).expanduser().is_dir():
        raise ValueError(f"{where}: no such folder, so no {what} can be loaded from it")
    kind = getattr(getattr(factory, "config_class", None), "model_type", None)
    try:
        if kind is None:
            return factory.from_pretrained(where, **kwargs)
        # Of another architecture, and of weights that are not there, transformers would only warn, and draw new ones.
        config = PreTrainedConfig.get_config_dict(where)[0]
        found = config.get("model_type") if isinstance(config, dict) else None
        if found != kind:
            raise ValueError(f"it is a {found} model, not a {kind}")
        if is_head_new:
            kwargs["ignore_mismatched_sizes"] = True
        with _quiet():  # it reports what is missing in a table, and here it is asked for or an error
            model, keys = factory.from_pretrained(where, output_loading_info=True, **kwargs)
        if is_head_new:
            keys = {kind: [name for name in names if not _of_head(_name(name))] for kind, names in keys.items()}
        elif (lacking := keys["missing_keys"]) and all(map(_of_head, lacking)) and not factory.can_generate():
            raise ValueError(
                f"it has no head for this task ({sorted(lacking)[0]} is missing), it is a {_architecture(config)}; "
                f"fine-tune it first"
            )
        wrong = [f"{kind.replace('_', ' ')}: {sorted(map(str, names))[0]}" for kind, names in keys.items() if names]
        if wrong:
            raise ValueError(f"the weights do not belong to its config.json ({'; '.join(wrong)})")
        return model
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"no {what} could be loaded from {where}: {' '.join(str(error).split())[:300]}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _name(key: Any) -> str:
    """Of a weight; transformers tells the shapes beside it where they do not match."""
    return key[0] if isinstance(key, tuple) else str(key)


def _architecture(config: dict[str, Any]) -> str:
    return (config.get("architectures") or ["model of unknown kind"])[0]
