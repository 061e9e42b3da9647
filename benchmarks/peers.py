"""The models that are compared, of the same sizes, each with the loss its users train it with.

    model, loss_of = PEERS["marian-sdpa"](SIZES["tiny"], vocab_size)
    loss_of(batch).backward()

A batch has input_ids and attention_mask (B, S), decoder_input_ids and labels (B, T), padded with 0 and, labels, with -100.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

SIZES = {
    "tiny": {"d_model": 128, "d_ff": 256, "heads": 4, "layers": 4},
    "base": {"d_model": 512, "d_ff": 2048, "heads": 8, "layers": 6},
    "big": {"d_model": 1024, "d_ff": 4096, "heads": 16, "layers": 6},
}
SMOOTHING, DROPOUT = 0.1, 0.1

Batch = dict[str, torch.Tensor]
Loss = Callable[[Batch], torch.Tensor]


def ours(size: dict[str, int], vocab_size: int) -> tuple[nn.Module, Loss]:
    from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
    from vanilla_transformer.modeling.freed_memory import keep_freed_memory

    keep_freed_memory()  # as our training does on a CPU
    config = VanillaTransformerConfig(
        vocab_size=vocab_size, d_model=size["d_model"], d_ff=size["d_ff"], num_attention_heads=size["heads"],
        encoder_layers=size["layers"], decoder_layers=size["layers"], dropout=DROPOUT, label_smoothing=SMOOTHING,
    )  # fmt: skip
    model = VanillaTransformerForConditionalGeneration(config)

    def loss(batch: Batch) -> torch.Tensor:
        result = model(**batch, num_items_in_batch=int((batch["labels"] != -100).sum())).loss
        assert result is not None
        return result

    return model, loss


def of_transformers(kind: str, attention: str) -> Callable[[dict[str, int], int], tuple[nn.Module, Loss]]:
    """MarianMT or BART as `Seq2SeqTrainer` trains them with `label_smoothing_factor`."""

    def build(size: dict[str, int], vocab_size: int) -> tuple[nn.Module, Loss]:
        from transformers import BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel
        from transformers.trainer_pt_utils import LabelSmoother

        both = {"layers": size["layers"], "attention_heads": size["heads"], "ffn_dim": size["d_ff"]}
        shape = {f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in both.items()}
        classes: dict[str, tuple[Any, Any]] = {
            "marian": (MarianConfig, MarianMTModel),
            "bart": (BartConfig, BartForConditionalGeneration),
        }
        config_class, model_class = classes[kind]
        config = config_class(
            vocab_size=vocab_size, d_model=size["d_model"], **shape, dropout=DROPOUT, activation_function="relu",
            max_position_embeddings=512, scale_embedding=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            decoder_start_token_id=1, forced_eos_token_id=2, attn_implementation=attention,
        )  # fmt: skip
        model = model_class(config)
        smoother = LabelSmoother(epsilon=SMOOTHING)

        def loss(batch: Batch) -> torch.Tensor:
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}  # as the Trainer takes them out
            return smoother(model(**inputs, use_cache=False), batch["labels"])

        return model, loss

    return build


def torch_transformer(size: dict[str, int], vocab_size: int) -> tuple[nn.Module, Loss]:
    """torch.nn.Transformer between an embedding and a linear layer that is the same matrix."""
    from vanilla_transformer.modeling.positions import sinusoid_table

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = size["d_model"]
            self.embedding = nn.Embedding(vocab_size, width, 0)
            nn.init.normal_(self.embedding.weight, std=width**-0.5)
            self.register_buffer("table", sinusoid_table(512, width))
            self.dropout = nn.Dropout(DROPOUT)
            self.body = nn.Transformer(
                width, size["heads"], size["layers"], size["layers"], size["d_ff"], DROPOUT, batch_first=True
            )

        def embed(self, ids: torch.Tensor) -> torch.Tensor:
            table: Any = self.table
            return self.dropout(self.embedding(ids) * size["d_model"] ** 0.5 + table[: ids.shape[1]])

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, decoder_input_ids: torch.Tensor):
            padding = attention_mask == 0
            look_ahead = nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1])
            states = self.body(
                self.embed(input_ids), self.embed(decoder_input_ids), tgt_mask=look_ahead, src_key_padding_mask=padding,
                memory_key_padding_mask=padding, tgt_is_causal=True,
            )  # fmt: skip
            return nn.functional.linear(states, self.embedding.weight)

    model = Model()

    def loss(batch: Batch) -> torch.Tensor:
        labels = batch["labels"]
        logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=SMOOTHING)

    return model, loss


def joeynmt(size: dict[str, int], vocab_size: int) -> tuple[nn.Module, Loss]:
    """Its encoder, decoder and embeddings, with its loss (`pip install --no-deps joeynmt`, and what it then asks for)."""
    from joeynmt.decoders import TransformerDecoder  # pyright: ignore[reportMissingImports]
    from joeynmt.embeddings import Embeddings  # pyright: ignore[reportMissingImports]
    from joeynmt.encoders import TransformerEncoder  # pyright: ignore[reportMissingImports]
    from joeynmt.loss import XentLoss  # pyright: ignore[reportMissingImports]

    shape = {
        "hidden_size": size["d_model"], "ff_size": size["d_ff"], "num_layers": size["layers"], "num_heads": size["heads"],
        "dropout": DROPOUT, "emb_dropout": DROPOUT, "layer_norm": "post",
    }  # fmt: skip

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = Embeddings(size["d_model"], vocab_size=vocab_size, padding_idx=0, scale=True)
            self.encoder = TransformerEncoder(emb_size=size["d_model"], **shape)
            self.decoder = TransformerDecoder(vocab_size=vocab_size, **shape)
            self.decoder.output_layer.weight = self.embeddings.lut.weight

    model = Model()
    smoothed = XentLoss(pad_index=0, smoothing=SMOOTHING)

    def loss(batch: Batch) -> torch.Tensor:
        source_mask = batch["attention_mask"].bool()[:, None]
        target = batch["labels"].masked_fill(batch["labels"] == -100, 0)
        states, hidden = model.encoder(model.embeddings(batch["input_ids"]), None, source_mask)
        logits, *_ = model.decoder(
            trg_embed=model.embeddings(batch["decoder_input_ids"]), encoder_output=states, encoder_hidden=hidden,
            src_mask=source_mask, unroll_steps=None, hidden=None, trg_mask=(target != 0)[:, None],
        )  # fmt: skip
        summed = smoothed(logits.log_softmax(-1), trg=target)
        summed = summed[0] if isinstance(summed, tuple) else summed
        return summed / (target != 0).sum()

    return model, loss


PEERS: dict[str, Callable[[dict[str, int], int], tuple[nn.Module, Loss]]] = {
    "ours": ours,
    "marian-sdpa": of_transformers("marian", "sdpa"),
    "marian-eager": of_transformers("marian", "eager"),
    "bart-sdpa": of_transformers("bart", "sdpa"),
    "torch.nn.Transformer": torch_transformer,
    "joeynmt": joeynmt,
}
