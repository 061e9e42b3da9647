"""Every number of "Attention Is All You Need" (Vaswani et al., 2017) as a typed, documented, validated field."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Of the names and the meaning of what a checkpoint holds. Raised when an older version of this code could no longer load
# it rightly; tests/modeling/checkpoints/ keeps one of each.
FORMAT_VERSION = 1

# Table 3 of the paper, row by row: what differs from the base model. Rows C4 and C5 keep 8 heads, so their heads
# have 32 and 128 dimensions; rows B change d_k alone, d_v stays 64.
PAPER_ROWS: dict[str, dict] = {
    "base": {},
    "A1": {"num_attention_heads": 1, "d_k": 512, "d_v": 512},
    "A2": {"num_attention_heads": 4, "d_k": 128, "d_v": 128},
    "A3": {"num_attention_heads": 16, "d_k": 32, "d_v": 32},
    "A4": {"num_attention_heads": 32, "d_k": 16, "d_v": 16},
    "B1": {"d_k": 16, "d_v": 64},
    "B2": {"d_k": 32, "d_v": 64},
    "C1": {"encoder_layers": 2, "decoder_layers": 2},
    "C2": {"encoder_layers": 4, "decoder_layers": 4},
    "C3": {"encoder_layers": 8, "decoder_layers": 8},
    "C4": {"d_model": 256, "d_k": 32, "d_v": 32},
    "C5": {"d_model": 1024, "d_k": 128, "d_v": 128},
    "C6": {"d_ff": 1024},
    "C7": {"d_ff": 4096},
    "D1": {"dropout": 0.0},
    "D2": {"dropout": 0.2},
    "D3": {"label_smoothing": 0.0},
    "D4": {"label_smoothing": 0.2},
    # The paper does not say how many positions row E learns; 256 for each stack covers its sentences.
    "E": {"position_embedding": "learned", "max_position_embeddings": 256},
    "big": {"d_model": 1024, "d_ff": 4096, "num_attention_heads": 16, "dropout": 0.3},
}

# Choices about which the paper is explicit, with its value. Sizes are not here: Table 3 varies them itself.
PAPER_CHOICES: dict[str, object] = {
    "norm_position": "post",  # section 3.1: LayerNorm(x + Sublayer(x))
    "position_embedding": "sinusoidal",  # section 3.5
    "activation_function": "relu",  # section 3.3, equation 2
    "attention_bias": False,  # section 3.2.2: projections are parameter matrices
    "attention_dropout": 0.0,  # section 5.4 names the places where dropout is applied; these two are not among them
    "activation_dropout": 0.0,
    "share_embeddings": "all",  # section 3.4
    "tie_word_embeddings": True,
    "scale_embedding": True,  # section 3.4
}

CHOICES: dict[str, tuple[str, ...]] = {
    "norm_position": ("post", "pre"),
    "position_embedding": ("sinusoidal", "learned"),
    "activation_function": ("relu", "gelu", "silu"),
    "share_embeddings": ("all", "source-target", "target-output", "none"),
    "label_smoothing_kind": ("uniform", "fairseq", "joey"),
    "head_reads": ("decoder", "encoder"),
}


@strict
class VanillaTransformerConfig(PreTrainedConfig):
    r"""
    The encoder-decoder Transformer of 2017. The defaults are the paper's base model; every deviation from the paper
    is a field whose default is the paper's value, and `deviations_from_paper()` lists those that differ.

    Sizes (section 3, Table 3):
        vocab_size (`int`, defaults to 37000): tokens in the joint vocabulary of source and target (section 5.1).
        d_model (`int`, defaults to 512): width of every layer's input and output; even with sinusoidal positions.
        encoder_layers, decoder_layers (`int`, default to 6): depth of each stack.
        num_attention_heads (`int`, defaults to 8): heads of every attention, both stacks.
        d_ff (`int`, defaults to 2048): inner width of the feed-forward layers, both stacks.
        d_k (`int`, *optional*): width of a head's queries and keys; `d_model / num_attention_heads` if not given.
        d_v (`int`, *optional*): width of a head's values; `d_model / num_attention_heads` if not given.
        max_position_embeddings (`int`, defaults to 1024): longest source and longest target, in tokens. Sinusoids
            are computed, so a larger number can be given when loading; learned positions are parameters.

    Regularisation (section 5.4), all probabilities in [0, 1):
        dropout (defaults to 0.1): on every sub-layer's output before it is added, and on embedding + position.
        attention_dropout (defaults to 0): on the attention weights. Not in the paper.
        activation_dropout (defaults to 0): after the feed-forward activation. Not in the paper.
        label_smoothing (defaults to 0.1): the mass taken from the true token.
        label_smoothing_kind (`"uniform"`, `"fairseq"` or `"joey"`): where that mass goes; see `loss.py`. The paper
            does not say.

    Architecture (section 3), the paper's choice first:
        norm_position (`"post"`, `"pre"`), position_embedding (`"sinusoidal"`, `"learned"`),
        activation_function (`"relu"`, `"gelu"`, `"silu"`), attention_bias (`False`), scale_embedding (`True`:
        embeddings are multiplied by sqrt(d_model)), share_embeddings (`"all"`: source, target and output use one
        matrix; `"source-target"`, `"target-output"`, `"none"`). `tie_word_embeddings=False` means `"none"`.
        layer_norm_eps (defaults to 1e-6, tensor2tensor's; the paper does not say).

    Heads for classification, tagging and parsing (not in the paper; see heads.py and dependency_parsing.py). Their
    classes are `num_labels`, `id2label` and `label2id`, and `problem_type` says of what kind a label is, as everywhere:
        head_reads (`"decoder"`, `"encoder"`): whose states. `"decoder"` is BART's way: the text goes into the encoder
            and, shifted right, into the decoder. With `"encoder"` there is no decoder.
        classifier_dropout (*optional*): before each linear layer of a classifier; `dropout` if not given.
        arc_width, relation_width (`int`, default to 500 and 100): of the two pairs of MLPs of the parser.
        biaffine_dropout (defaults to 0.33): on the output of these MLPs.
        tokens_are_characters (`bool`, defaults to `False`): a tagger was trained on single characters with blanks among them.

    Tokens:
        pad_token_id (0), bos_token_id (1), eos_token_id (2), decoder_start_token_id (1: the decoder starts with `<s>`).
        tokenizer_fingerprint (`str`, *optional*): of the vocabulary the model was trained with; a tokenizer with
            another one is refused when a model is loaded for use.

    Files:
        format_version (`int`): of the checkpoint; one that is newer than this code is refused.

    Raises:
        ValueError: a number out of range, or sizes that do not fit together; the message names the field, the
            value, the limit and the way out.

    Example:

    ```python
    >>> config = VanillaTransformerConfig.from_paper("big", vocab_size=32000)
    >>> config.d_k, config.deviations_from_paper()
    (64, {})
    ```
    """

    model_type = "vanilla_transformer"
    keys_to_ignore_at_inference = ["past_key_values"]
    # The plan itself stands with the classes of both stacks: here it would be applied to each of them once more.
    base_model_tp_plan = {}
    # The names under which transformers' caches and tools ask for the same numbers.
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "encoder_attention_heads": "num_attention_heads",
        "decoder_attention_heads": "num_attention_heads",
        "intermediate_size": "d_ff",
        "encoder_ffn_dim": "d_ff",
        "decoder_ffn_dim": "d_ff",
        "head_dim": "d_k",
    }

    vocab_size: int = 37000
    d_model: int = 512
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_attention_heads: int = 8
    d_ff: int = 2048
    d_k: int | None = None
    d_v: int | None = None
    max_position_embeddings: int = 1024

    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    label_smoothing: float | int = 0.1
    label_smoothing_kind: str = "uniform"

    norm_position: str = "post"
    position_embedding: str = "sinusoidal"
    activation_function: str = "relu"
    attention_bias: bool = False
    scale_embedding: bool = True
    share_embeddings: str = "all"
    tie_word_embeddings: bool = True
    layer_norm_eps: float = 1e-6

    head_reads: str = "decoder"
    classifier_dropout: float | int | None = None
    arc_width: int = 500
    relation_width: int = 100
    biaffine_dropout: float | int = 0.33
    tokens_are_characters: bool = False

    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1
    tokenizer_fingerprint: str | None = None
    format_version: int = 1  # that of a file which does not say

    use_cache: bool = True
    is_encoder_decoder: bool = True

    def __post_init__(self, **kwargs):
        # A size may come under another of its names (`hidden_size`); it has to be in place before sizes are compared.
        for name in self.attribute_map.keys() & kwargs.keys():
            setattr(self, name, kwargs.pop(name))
        _require(
            self.format_version <= FORMAT_VERSION,
            "format_version",
            self.format_version,
            f"is newer than what this version of vanilla-transformer reads ({FORMAT_VERSION}); upgrade it, or load the "
            "model with trust_remote_code=True where vanilla-transformer is not installed",
        )
        for name in (
            "vocab_size",
            "d_model",
            "encoder_layers",
            "decoder_layers",
            "num_attention_heads",
            "d_ff",
            "max_position_embeddings",
            "arc_width",
            "relation_width",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "label_smoothing",
            "classifier_dropout",
            "biaffine_dropout",
        ):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, name, value, "is a probability: at least 0 and less than 1")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            _require(value in choices, name, repr(value), f"must be one of {', '.join(map(repr, choices))}")
        if self.position_embedding == "sinusoidal":
            _require(
                self.d_model % 2 == 0,
                "d_model",
                self.d_model,
                "must be even, since sinusoids come in pairs of sine and cosine (section 3.5); "
                "choose an even number or position_embedding='learned'",
            )
        for name in ("d_k", "d_v"):
            if getattr(self, name) is None:
                _require(
                    self.d_model % self.num_attention_heads == 0,
                    "num_attention_heads",
                    self.num_attention_heads,
                    f"does not divide d_model={self.d_model}; choose another number or give {name} (and d_k, d_v) yourself",
                )
                setattr(self, name, self.d_model // self.num_attention_heads)
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _require(self.layer_norm_eps > 0, "layer_norm_eps", self.layer_norm_eps, "must be greater than 0")
        for name in ("pad_token_id", "decoder_start_token_id"):
            token_id = getattr(self, name)
            _require(
                token_id is None or 0 <= token_id < self.vocab_size,
                name,
                token_id,
                f"must lie in the vocabulary of {self.vocab_size} tokens",
            )
        super().__post_init__(**kwargs)

    @classmethod
    def from_paper(cls, row: str, **overrides) -> "VanillaTransformerConfig":
        """The configuration of a row of Table 3: "base", "big", "A1".."A4", "B1", "B2", "C1".."C7", "D1".."D4", "E".

        Args:
            row: the row's name; rows of one letter are numbered from the top.
            overrides: fields that shall differ, for example `vocab_size` (37000 if not given).

        Raises:
            ValueError: there is no such row.
        """
        if row not in PAPER_ROWS:
            raise ValueError(f"no row {row!r} in Table 3 of the paper; choose one of {', '.join(PAPER_ROWS)}")
        return cls(**{**PAPER_ROWS[row], **overrides})

    def deviations_from_paper(self) -> dict[str, tuple[object, object]]:
        """Fields that differ from what the paper says: {field: (value here, the paper's value)}. Empty: none does."""
        return {
            name: (getattr(self, name), paper)
            for name, paper in PAPER_CHOICES.items()
            if getattr(self, name) != paper
        }


def _require(condition: bool, field: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"{field}={value} {rule}")


VanillaTransformerConfig.register_for_auto_class()

__all__ = ["VanillaTransformerConfig"]
