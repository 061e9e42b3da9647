"""The decoders that are compared, all with the same weights: lists of source ids in, lists of written ids out.

    write_models(model, tokenizer, folder)             # ours, MarianMT's and CTranslate2's files of one model
    decode = DECODERS["marian-sdpa"](folder, "fp32", "cpu")
    decode(sources, Decoding(beams=4, max_new_tokens=20))

`ours` is `beam_search.Searcher`, `ours-early` the same with `early_stopping=True`, as CTranslate2 stops; `ours-generate` is
transformers' `generate` of our model; `marian-*` that of MarianMT, whose layers are those of our default configuration; `ct2-*`
is CTranslate2. Outputs end in `</s>`, if it was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

PAD, BOS, EOS = 0, 1, 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Ids = list[list[int]]


@dataclass(frozen=True)
class Decoding:
    """What everybody is asked for. 1 beam is greedy search; a hypothesis of n tokens is ranked by log P / n^length_penalty.

    `early_stopping=False` is transformers' default: a sentence goes on until its best beam of now, at its length of now, could
    not enter the list. CTranslate2 has one way only: it stops when as many as `beams` have finished.
    """

    beams: int = 1
    max_new_tokens: int = 100
    length_penalty: float = 0.6
    early_stopping: bool | str = False


Decoder = Callable[[Ids, Decoding], Ids]


# ------------------------------------------------------------------------------------------------------- the same weights


def plain_generation() -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS)


def marian_like(model) -> Any:
    """MarianMT with our weights. Its sinusoids are halves, [sines; cosines]: every axis of width D is permuted so."""
    from transformers import MarianConfig, MarianMTModel

    config = model.config
    plain = config.norm_position == "post" and config.position_embedding == "sinusoidal" and config.share_embeddings == "all"
    square = config.d_k == config.d_v == config.d_model // config.num_attention_heads
    if not (plain and square):
        raise ValueError("MarianMT is post-norm with sinusoids, one embedding matrix and d_k x H = D; choose another model")
    both = {"layers": None, "attention_heads": config.num_attention_heads, "ffn_dim": config.d_ff}
    shape = {
        f"{stack}_{name}": getattr(config, f"{stack}_layers") if value is None else value
        for stack in ("encoder", "decoder") for name, value in both.items()
    }  # fmt: skip
    marian: Any = MarianMTModel(
        MarianConfig(
            vocab_size=config.vocab_size, d_model=config.d_model, **shape, dropout=0.0, scale_embedding=config.scale_embedding,
            activation_function=config.activation_function, max_position_embeddings=config.max_position_embeddings,
            pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, forced_eos_token_id=None,
        )
    ).eval()  # fmt: skip
    names = {
        "self_attn_norm": "self_attn_layer_norm", "cross_attn_norm": "encoder_attn_layer_norm",
        "feed_forward_norm": "final_layer_norm", "cross_attn": "encoder_attn", "feed_forward.fc1": "fc1",
        "feed_forward.fc2": "fc2",
    }  # fmt: skip
    halves = torch.tensor([*range(0, config.d_model, 2), *range(1, config.d_model, 2)])
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in marian.named_parameters():
            if name.endswith("_proj.bias"):
                parameter.zero_()
        marian.model.shared.weight.copy_(weights.pop("model.encoder.embed_tokens.weight")[:, halves])
        for name, weight in weights.items():
            is_written = any(part in name for part in ("out_proj", "fc2", "norm"))  # its rows are of width D
            permuted = weight[halves] if is_written else weight[:, halves] if weight.dim() == 2 else weight
            for ours, theirs in names.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
            marian.get_parameter(name).copy_(permuted)
    return with_eps(marian, config.layer_norm_eps)


def with_eps(model, eps: float) -> Any:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    return model


def write_ctranslate2(model, tokenizer, folder: Path, quantization: str) -> None:
    """As `export-ctranslate2` writes it, without its comparison."""
    from vanilla_transformer.deployment.ctranslate2_specification import transformer_specification

    spec = transformer_specification(model, tokenizer)
    spec.validate()
    spec.optimize(quantization)
    folder.mkdir(parents=True)
    spec.save(str(folder))


def write_models(model, tokenizer, folder: Path) -> None:
    """What each decoder below loads."""
    marian = marian_like(model)
    model.save_pretrained(folder / "ours")
    marian.save_pretrained(folder / "marian")
    for quantization in ("float32", "int8"):
        try:
            write_ctranslate2(model, tokenizer, folder / f"ct2-{quantization}", quantization)
        except ValueError:
            return  # it is not installed: whoever asks for it will be told


# ----------------------------------------------------------------------------------------------------------- the decoders


def load_ours(folder: Path, precision: str, device: str) -> Any:
    from vanilla_transformer.modeling import VanillaTransformerForConditionalGeneration

    kind: Any = VanillaTransformerForConditionalGeneration
    model = kind.from_pretrained(folder / "ours", dtype=DTYPES[precision]).to(device).eval()
    model.generation_config = plain_generation()  # what was saved may hold the paper's conventions
    return model


def ours(folder: Path, precision: str, device: str) -> Decoder:
    from vanilla_transformer.modeling.beam_search import Searcher
    from vanilla_transformer.modeling.search_options import SearchOptions

    searcher = Searcher(load_ours(folder, precision, device))

    def decode(sources: Ids, how: Decoding) -> Ids:
        options = SearchOptions(
            num_beams=how.beams, max_new_tokens=how.max_new_tokens, max_new_tokens_beyond_source=None,
            length_penalty=how.length_penalty, length_penalty_kind="hf", early_stopping=how.early_stopping,
        )  # fmt: skip
        return [hypotheses[0].token_ids for hypotheses in searcher.search(sources, options)]

    return decode


def ours_early(folder: Path, precision: str, device: str) -> Decoder:
    decode = ours(folder, precision, device)
    return lambda sources, how: decode(sources, replace(how, early_stopping=True))


def generate(model, sources: Ids, how: Decoding, **more) -> Ids:
    """transformers' `generate`."""
    rows = [torch.tensor(source) for source in sources]
    input_ids = nn.utils.rnn.pad_sequence(rows, True, PAD).to(model.device)
    beams = {"length_penalty": how.length_penalty, "early_stopping": how.early_stopping} if how.beams > 1 else {}
    written = model.generate(
        input_ids, attention_mask=(input_ids != PAD).long(), num_beams=how.beams, max_new_tokens=how.max_new_tokens,
        do_sample=False, use_cache=True, **beams, **more,
    )  # fmt: skip
    # Not up to the first padding: where its id is 0, transformers' beam search pads with `</s>`.
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in written[:, 1:].tolist()]


def ours_generate(folder: Path, precision: str, device: str) -> Decoder:
    model = load_ours(folder, precision, device)
    return lambda sources, how: generate(model, sources, how)


def marian(attention: str, **options) -> Callable[[Path, str, str], Decoder]:
    def load(folder: Path, precision: str, device: str) -> Decoder:
        from transformers import MarianMTModel

        from vanilla_transformer.modeling import VanillaTransformerConfig

        kind: Any = MarianMTModel
        model = kind.from_pretrained(folder / "marian", dtype=DTYPES[precision], attn_implementation=attention)
        with_eps(model.to(device).eval(), VanillaTransformerConfig.from_pretrained(folder / "ours").layer_norm_eps)
        return lambda sources, how: generate(model, sources, how, **options)

    return load


def ctranslate2(quantization: str) -> Callable[[Path, str, str], Decoder]:
    def load(folder: Path, precision: str, device: str) -> Decoder:
        import ctranslate2

        stored = folder / f"ct2-{'int8' if quantization == 'int8' else 'float32'}"
        translator = ctranslate2.Translator(
            str(stored), device=device.partition(":")[0], compute_type=quantization, inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )  # fmt: skip
        pieces: list[str] = json.loads((stored / "shared_vocabulary.json").read_text(encoding="utf-8"))
        ids = {piece: number for number, piece in enumerate(pieces)}

        def decode(sources: Ids, how: Decoding) -> Ids:
            results = translator.translate_batch(
                [[pieces[token] for token in source] for source in sources], beam_size=how.beams,
                max_decoding_length=how.max_new_tokens, min_decoding_length=0, length_penalty=how.length_penalty,
                return_end_token=True,
            )  # fmt: skip
            return [[ids[piece] for piece in result.hypotheses[0]] for result in results]

        return decode

    return load


DECODERS: dict[str, Callable[[Path, str, str], Decoder]] = {
    "ours": ours,
    "ours-early": ours_early,
    "ours-generate": ours_generate,
    "marian-sdpa": marian("sdpa"),
    "marian-eager": marian("eager"),
    "marian-static": marian("sdpa", cache_implementation="static"),
    "ct2-float32": ctranslate2("float32"),
    "ct2-int8": ctranslate2("int8"),
    "ct2-float16": ctranslate2("float16"),
    "ct2-bfloat16": ctranslate2("bfloat16"),
}
# CTranslate2's type is in its name; of the others each precision is a row of its own.
PRECISIONS = {"ct2-float32": ["fp32"], "ct2-int8": ["fp32"], "ct2-float16": ["bf16"], "ct2-bfloat16": ["bf16"]}
