"""The two masks of the Transformer: the pad mask and the look-ahead mask (section 3.2.3).

Shapes: B batch, S source length, T target length, L keys (S in the encoder and in cross-attention; T, or cached + T,
in decoder self-attention). A mask is boolean and True means "may attend". Both broadcast to (B, heads, T, L):

    pad mask (B, 1, 1, L)      look-ahead mask (1, 1, T, L)      decoder self-attention: both at once (B, 1, T, L)

    keys:  a  b  c  <pad>      keys:   <s> a  b  c               keys:   <s> a  b  <pad>
           1  1  1  0          <s>      1  0  0  0               <s>      1  0  0  0
                               a        1  1  0  0               a        1  1  0  0
                               b        1  1  1  0               b        1  1  1  0
                               c        1  1  1  1               <pad>    1  1  1  0

`source_mask` and `target_mask` leave out what is redundant: without padding there is no mask, and targets padded on the
right need the look-ahead mask alone, for which SDPA has a faster kernel.

A query that may attend to nothing (a source that is all padding, the padding on the left of a target) gets zeros, never
NaN and never an average over padding.
"""

# torch.jit.is_tracing is public, but its package does not list it.
# pyright: reportPrivateImportUsage=false

import torch
from transformers import Cache, PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

# These two take the boolean masks of this file; the others (flash, flex, kernels from the Hub) have mask formats of
# their own, which transformers builds from the same padding.
BOOLEAN_IMPLEMENTATIONS = ("eager", "sdpa")


def pad_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, L) of ones for tokens and zeros for padding -> boolean (B, 1, 1, L)."""
    return attention_mask.bool()[:, None, None, :]


def look_ahead_mask(
    queries: int, keys: int, past: int | torch.Tensor = 0, device: torch.device | None = None
) -> torch.Tensor:
    """Boolean (1, 1, queries, keys): query i stands at position past + i and sees the keys up to there.

    With a cache the mask of the last query is the last row of the whole square, not the first.
    """
    query_positions = torch.arange(queries, device=device)[:, None] + past
    return (torch.arange(keys, device=device)[None, :] <= query_positions)[None, None]


def source_mask(
    config: PreTrainedConfig,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    encoder_hidden_states: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """The mask over source tokens, for encoder self-attention and for cross-attention.

    Args:
        config: its `_attn_implementation` decides the format.
        hidden_states: the queries, (B, S, D) in the encoder and (B, T, D) in cross-attention.
        attention_mask: (B, S), 1 for tokens and 0 for padding; or a mask of 4 dimensions; or None for no padding.
        encoder_hidden_states: the keys in cross-attention, (B, S, D).

    Returns:
        Boolean (B, 1, 1, S), or None where every token may see every other, or another implementation's own format.
    """
    implementation = str(config._attn_implementation)
    # Cross-attention under flash attention runs through SDPA (see attention.py), so it takes SDPA's mask.
    if implementation in BOOLEAN_IMPLEMENTATIONS or (
        encoder_hidden_states is not None and "flash_attention" in implementation
    ):
        if attention_mask is None:
            return None
        if attention_mask.dim() == 4:
            return as_boolean(attention_mask)
        return None if _is_known_to_be_full(attention_mask) else pad_mask(attention_mask)
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=hidden_states,
        attention_mask=attention_mask,
        encoder_hidden_states=encoder_hidden_states,
    )


def target_mask(
    config: PreTrainedConfig,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None = None,
) -> torch.Tensor | None:
    """The mask of decoder self-attention: look-ahead, and padding where there is a mask for it.

    Targets padded on the right need no pad mask: whatever a real token sees stands before it, hence is not padding.
    Then SDPA gets None and takes its fast causal kernel.

    Args:
        config: its `_attn_implementation` decides the format.
        hidden_states: the queries, (B, T, D).
        attention_mask: (B, cached + T), 1 for tokens and 0 for padding; or a mask of 4 dimensions; or None.
        past_key_values: the self-attention cache, if there is one.

    Returns:
        Boolean (1 or B, 1, T, L), or None where the causal kernel suffices, or another implementation's own format.
    """
    if config._attn_implementation not in BOOLEAN_IMPLEMENTATIONS:
        return create_causal_mask(
            config=config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
        )
    if attention_mask is not None and attention_mask.dim() == 4:
        return as_boolean(attention_mask)
    if attention_mask is not None and _is_known_to_be_full(attention_mask):
        attention_mask = None

    queries = hidden_states.shape[1]
    past: int | torch.Tensor = 0
    keys = queries
    if past_key_values is not None:
        past = past_key_values.get_seq_length()
        keys = past_key_values.get_mask_sizes(queries, 0)[0]
    # Without padding, two cases need no mask: a single query behind a growing cache, which sees every key, and a square
    # of queries and keys, for which there is a causal kernel. A static cache has its full length from the start, so
    # there the look-ahead mask has to hide what is not yet written.
    growing = past_key_values is None or not past_key_values.is_compileable
    if attention_mask is None and growing and config._attn_implementation == "sdpa":
        if queries == 1 or keys == queries:
            return None

    mask = look_ahead_mask(queries, keys, past, hidden_states.device)
    if attention_mask is not None:
        missing = keys - attention_mask.shape[1]
        if missing > 0:  # the places of a static cache which are not yet written; the look-ahead mask hides them
            attention_mask = torch.nn.functional.pad(attention_mask, (0, missing), value=0)
        mask = mask & pad_mask(attention_mask)
    return mask


def as_boolean(mask: torch.Tensor) -> torch.Tensor:
    """A mask made by others: additive in floats (0 to attend, hugely negative not to), or boolean, or of 1 and 0."""
    # Hugely: some write -inf or the least number of the dtype, others -1e9 or -1e4.
    return mask > -1e3 if mask.is_floating_point() else mask.bool()


def _is_known_to_be_full(attention_mask: torch.Tensor) -> bool:
    # Looking into a tensor makes a GPU wait and breaks a compiled graph: elsewhere the mask is simply used.
    if attention_mask.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return bool(attention_mask.all())
