"""The model and the tokenizer a run starts from: loaded, or from a preset with weights drawn by the seed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, set_seed

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.training.arguments import PRESETS, ModelArguments

# What may change when training goes on from a model; everything else is the shape of its weights.
CHANGEABLE = ("dropout", "attention_dropout", "activation_dropout", "label_smoothing", "label_smoothing_kind")


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
    arguments: ModelArguments, tokenizer: Any, seed: int, attention: str = "auto"
) -> VanillaTransformerForConditionalGeneration:
    """The model, whose vocabulary is the tokenizer's.

    Args:
        arguments: what to load, or how large to make it.
        tokenizer: that of the data.
        seed: of the weights.
        attention: the attention implementation, or "auto" for the one that transformers takes by itself.

    Raises:
        ValueError: neither a model nor a preset or both are named, sizes of a loaded model shall change, or the
            tokenizer is not the one the model was trained with, or the attention cannot be had.
    """
    model = _loaded_or_new(arguments, tokenizer, seed)
    if attention != "auto":
        try:
            model.set_attn_implementation(attention)
        except (ValueError, ImportError) as error:
            raise ValueError(f"attention={attention!r} cannot be used: {' '.join(str(error).split())[:400]}") from error
    return model


def _loaded_or_new(
    arguments: ModelArguments, tokenizer: Any, seed: int
) -> VanillaTransformerForConditionalGeneration:
    set_seed(seed)
    given = {
        f.name: getattr(arguments, f.name)
        for f in fields(arguments)
        if f.name not in ("model", "preset", "tokenizer") and getattr(arguments, f.name) is not None
    }
    if arguments.model is not None:
        if arguments.preset is not None:
            raise ValueError("--model continues a model and --preset begins one from scratch: give one of them")
        fixed = [name for name in given if name not in CHANGEABLE]
        if fixed:
            raise ValueError(
                f"{fixed[0]} is part of the weights of {arguments.model} and cannot be changed; leave it out"
            )
        VanillaTransformerConfig(**given)  # refuses what is out of range; loading does not look
        model = load_from(VanillaTransformerForConditionalGeneration, arguments.model, "model", **given)
        if hasattr(tokenizer, "check_fits"):
            tokenizer.check_fits(model.config)
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
        **{**sizes, **given},
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
        tokenizer_fingerprint=getattr(tokenizer, "fingerprint", None),
    )
    model = VanillaTransformerForConditionalGeneration(config)
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


def load_from(factory, where: str, what: str, **kwargs):
    """`factory.from_pretrained(where)`, with one line that says what is wrong instead of a screenful."""
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
        model, keys = factory.from_pretrained(where, output_loading_info=True, **kwargs)
        wrong = [f"{kind.replace('_', ' ')}: {sorted(map(str, names))[0]}" for kind, names in keys.items() if names]
        if wrong:
            raise ValueError(f"the weights do not belong to its config.json ({'; '.join(wrong)})")
        return model
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"no {what} could be loaded from {where}: {' '.join(str(error).split())[:300]}") from error
