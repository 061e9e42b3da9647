"""A model of ours -> the specification from which CTranslate2 (OpenNMT's engine in C++) writes its own file.

Shapes: V vocabulary, D d_model, H heads, K d_k, P max_position_embeddings.

What is the same function under another name is only copied. Four things are not the defaults of CTranslate2, and each of
them, left out, gives a model that still writes plausible sentences:

    positions            our table (interleaved sinusoids from position 0) is stored; its own has all sines before all cosines,
                         other frequencies, and begins at 1
    layer_norm_epsilon   1e-6 here, 1e-5 there
    queries_scale        1 / sqrt(K), where K is not the width of a head (below)
    scale_embeddings     sqrt(D), or not at all

Heads with d_k != d_v (rows B of the paper's Table 3): CTranslate2 knows one width for both. The narrower one is filled
up with zeros, which add nothing to a sum: the same function, exactly, at the cost of multiplying by zeros.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from vanilla_transformer.modeling.attention import MultiHeadAttention
from vanilla_transformer.modeling.modeling_vanilla_transformer import VanillaTransformerForConditionalGeneration
from vanilla_transformer.modeling.positions import sinusoid_table
from vanilla_transformer.modeling.stacks import VanillaTransformerDecoder, VanillaTransformerEncoder

if TYPE_CHECKING:
    from ctranslate2.specs import TransformerSpec

# On tensor cores CTranslate2 pads sequences to a multiple of this, behind the last token: there must be positions.
_POSITIONS_MULTIPLE = 16


def import_ctranslate2() -> ModuleType:
    """The library, or a ValueError that says how to install it."""
    try:
        import ctranslate2
        import ctranslate2.specs
    except ImportError as error:
        raise ValueError("ctranslate2 is not installed: pip install 'vanilla-transformer[ctranslate2]'") from error
    return ctranslate2


def transformer_specification(
    model: VanillaTransformerForConditionalGeneration, tokenizer: PreTrainedTokenizerBase
) -> TransformerSpec:
    """The whole model in float32, with its vocabulary.

    Raises:
        ValueError: CTranslate2 is not installed, or has no place for something that this model has.
    """
    specs = import_ctranslate2().specs
    config: Any = model.config  # transformers types it loosely
    activations = {"relu": specs.Activation.RELU, "gelu": specs.Activation.GELU, "silu": specs.Activation.SWISH}
    if (activation := activations.get(config.activation_function)) is None:
        raise ValueError(
            f"activation_function={config.activation_function!r}: CTranslate2 has {', '.join(activations)}"
        )
    vocabulary = vocabulary_of(tokenizer, config.vocab_size)
    options: dict[str, Any] = {"pre_norm": config.norm_position == "pre", "activation": activation}
    width = max(config.d_k, config.d_v)
    if width * config.num_attention_heads != config.d_model:
        options["head_dim"] = width
    heads = config.num_attention_heads
    spec = specs.TransformerSpec(
        specs.transformer_spec.TransformerEncoderSpec(config.encoder_layers, heads, **options),
        specs.transformer_spec.TransformerDecoderSpec(config.decoder_layers, heads, **options),
    )
    _copy_stack(spec.encoder, spec.encoder.embeddings[0], model.model.encoder)
    _copy_stack(spec.decoder, spec.decoder.embeddings, model.model.decoder)
    spec.decoder.projection.weight = _weight(model.lm_head.weight)

    spec.config.layer_norm_epsilon = config.layer_norm_eps
    spec.config.add_source_bos = spec.config.add_source_eos = False  # our tokenizer writes `</s>` itself
    for name, token_id in {
        "bos_token": config.bos_token_id,
        "eos_token": config.eos_token_id,
        "decoder_start_token": config.decoder_start_token_id,
        "unk_token": tokenizer.unk_token_id,
    }.items():
        if not isinstance(token_id, int) or not 0 <= token_id < len(vocabulary):
            raise ValueError(
                f"{name[:-6]}_token_id={token_id}: CTranslate2 needs one token of the {len(vocabulary)} for it"
            )
        setattr(spec.config, name, vocabulary[token_id])
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    return spec


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """The pieces in the order of their ids, all different. Rows of the model that no piece uses get names of their own.

    Raises:
        ValueError: the tokenizer has more pieces than the model.
    """
    pieces = tokenizer.get_vocab()
    if len(pieces) > size or max(pieces.values()) >= size:
        raise ValueError(
            f"vocab_size={size}: the tokenizer has {len(pieces)} tokens; give the one saved with the model"
        )
    vocabulary = [f"<unused {token_id}>" for token_id in range(size)]
    for piece, token_id in pieces.items():
        vocabulary[token_id] = piece
    return vocabulary


def _copy_stack(spec: Any, embeddings: Any, stack: VanillaTransformerEncoder | VanillaTransformerDecoder) -> None:
    embeddings.weight = _weight(stack.embed_tokens.weight)
    spec.scale_embeddings = stack.config.scale_embedding
    spec.position_encodings.encodings = _positions(stack)
    if isinstance(stack.norm, nn.LayerNorm):
        _copy_norm(spec.layer_norm, stack.norm)
    layers: Any = stack.layers  # a list of modules does not say which
    for layer_spec, layer in zip(spec.layer, layers, strict=True):
        # It reckons the norm to the sub-layer that stands before it (post-norm) or behind it (pre-norm), as we do.
        _copy_attention(layer_spec.self_attention, layer.self_attn, is_cross_attention=False)
        _copy_norm(layer_spec.self_attention.layer_norm, layer.self_attn_norm)
        if isinstance(stack, VanillaTransformerDecoder):
            _copy_attention(layer_spec.attention, layer.cross_attn, is_cross_attention=True)
            _copy_norm(layer_spec.attention.layer_norm, layer.cross_attn_norm)
        for linear_spec, linear in (
            (layer_spec.ffn.linear_0, layer.feed_forward.fc1),
            (layer_spec.ffn.linear_1, layer.feed_forward.fc2),
        ):
            linear_spec.weight, linear_spec.bias = _weight(linear.weight), _weight(linear.bias)
        _copy_norm(layer_spec.ffn.layer_norm, layer.feed_forward_norm)


def _copy_norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _weight(norm.weight), _weight(norm.bias)


def _copy_attention(spec: Any, attention: MultiHeadAttention, is_cross_attention: bool) -> None:
    """Self-attention: one matrix for queries, keys and values; cross-attention: one for queries, one for keys and values."""
    config: Any = attention.config  # transformers types it loosely
    heads, d_k, d_v = config.num_attention_heads, config.d_k, config.d_v
    width = max(d_k, d_v)

    def widened(linear: nn.Linear, head: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(H head, D) -> (H width, D), each head followed by rows of zeros; the bias likewise."""

        def fill(rows: torch.Tensor) -> torch.Tensor:
            rows = rows.unflatten(0, (heads, head))
            return torch.cat([rows, rows.new_zeros(heads, width - head, *rows.shape[2:])], dim=1).flatten(0, 1)

        return fill(_weight(linear.weight)), None if linear.bias is None else fill(_weight(linear.bias))

    query, key = widened(attention.q_proj, d_k), widened(attention.k_proj, d_k)
    value = widened(attention.v_proj, d_v)
    groups = [[query], [key, value]] if is_cross_attention else [[query, key, value]]
    for linear_spec, group in zip(spec.linear[:-1], groups, strict=True):
        linear_spec.weight = torch.cat([weight for weight, _ in group])
        if biases := [bias for _, bias in group if bias is not None]:
            linear_spec.bias = torch.cat(biases)
    output = _weight(attention.out_proj.weight).unflatten(1, (heads, d_v))  # (D, H, d_v)
    output = torch.cat([output, output.new_zeros(*output.shape[:2], width - d_v)], dim=2)
    spec.linear[-1].weight = output.flatten(1).contiguous()
    if attention.out_proj.bias is not None:
        spec.linear[-1].bias = _weight(attention.out_proj.bias)
    spec.queries_scale = d_k**-0.5


def _positions(stack: VanillaTransformerEncoder | VanillaTransformerDecoder) -> torch.Tensor:
    """(P, D), P rounded up. A row behind the last serves padding alone; what is learned has zeros there."""
    config = stack.config
    rounded = -(-config.max_position_embeddings // _POSITIONS_MULTIPLE) * _POSITIONS_MULTIPLE
    if config.position_embedding == "sinusoidal":
        return sinusoid_table(rounded, config.d_model)
    learned = _weight(stack.embed_positions.weight)
    return torch.cat([learned, learned.new_zeros(rounded - len(learned), config.d_model)])


def _weight(parameter: Any) -> torch.Tensor:
    """A copy in float32 on the CPU: CTranslate2 quantises in place."""
    return parameter.detach().to("cpu", torch.float32, copy=True).contiguous()
