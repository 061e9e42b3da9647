"""The fields of a run: where the model and the data come from, and how it is trained. Each is a flag and a YAML key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from vanilla_transformer.modeling.configuration_vanilla_transformer import PAPER_ROWS

# Sizes below the paper's, from the literature on small data.
SMALL_PRESETS: dict[str, dict] = {
    # Wu et al. 2021, "Good for Misconceived Reasons": the size for the 29,000 pairs of Multi30k.
    "tiny": {"d_model": 128, "d_ff": 256, "num_attention_heads": 4, "encoder_layers": 4, "decoder_layers": 4},
    # fairseq's transformer_iwslt_de_en, for 160,000 pairs.
    "small": {"d_model": 512, "d_ff": 1024, "num_attention_heads": 4, "encoder_layers": 6, "decoder_layers": 6},
}
PRESETS: dict[str, dict] = {**SMALL_PRESETS, **PAPER_ROWS}


if TYPE_CHECKING:
    Tokens = int  # which it is for all but memory_fit.py, because that one comes first
else:
    Tokens = int | Literal["auto"]


def _flag(help: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    """The model a run starts from."""

    model: str | None = _flag("continue from this model: a folder or a Hub repository")
    preset: str | None = _flag(f"or begin from scratch with these sizes: {', '.join(PRESETS)}")
    tokenizer: str | None = _flag("folder of the tokenizer; the model's own if not given")
    d_model: int | None = _flag("width of every layer's input and output; the preset's if not given (likewise below)")
    encoder_layers: int | None = _flag("layers of the encoder")
    decoder_layers: int | None = _flag("layers of the decoder")
    num_attention_heads: int | None = _flag("heads of every attention")
    d_ff: int | None = _flag("inner width of the feed-forward layers")
    d_k: int | None = _flag("width of a head's queries and keys; d_model / heads if not given")
    d_v: int | None = _flag("width of a head's values; d_model / heads if not given")
    max_position_embeddings: int | None = _flag("longest source and longest target, in tokens")
    dropout: float | None = _flag("probability of dropping an element of a sub-layer's output; the paper: 0.1")
    attention_dropout: float | None = _flag("probability of dropping an attention weight; the paper: 0")
    activation_dropout: float | None = _flag("probability of dropping an inner unit; the paper: 0")
    label_smoothing: float | None = _flag("probability mass taken from the true token; the paper: 0.1")
    label_smoothing_kind: Literal["uniform", "fairseq", "joey"] | None = _flag(
        "where that mass goes, see modeling/loss.py"
    )
    norm_position: Literal["post", "pre"] | None = _flag(
        "layer normalisation after (the paper) or before each sub-layer"
    )
    position_embedding: Literal["sinusoidal", "learned"] | None = _flag("positions: the paper's sinusoids, or row E's")
    share_embeddings: Literal["all", "source-target", "target-output", "none"] | None = _flag(
        "which of source embedding, target embedding and output matrix are one; the paper: all"
    )
    head_reads: Literal["encoder", "decoder"] | None = _flag(
        "what a classifier, tagger or parser reads: the encoder's states, and then there is no decoder, or the decoder's, to "
        "which the text is shown again (BART)"
    )
    classifier_dropout: float | None = _flag("probability of dropping an element of what a head reads; dropout's if not given")
    arc_width: int | None = _flag("width of a parser's arc scorer; Dozat and Manning: 500")
    relation_width: int | None = _flag("width of a parser's scorer of relations; Dozat and Manning: 100")
    biaffine_dropout: float | None = _flag("dropout in these scorers; Dozat and Manning: 0.33")
    new_head: bool = _flag("with --model: begin a new head, although the model has one for this task", False)


@dataclass
class TransferArguments:
    """How a pretrained model becomes another, and what it keeps. Without these flags all weights learn alike."""

    freeze: list[str] = field(
        default_factory=list,
        metadata={"help": "what never learns: embeddings, encoder, decoder; body is all but the head"},
    )
    head_only_steps: int = _flag("slow start: so many updates for the head alone, then for the others too", 0)
    unfreeze_steps: int = _flag("after them, one level more, from the top, every so many updates; 0: all at once", 0)
    layer_decay: float = _flag(
        "a layer's learning rate is that of the one above times this; ULMFiT: 0.38, for deep pretrained models 0.75 to 0.95", 1.0
    )
    head_rate: float = _flag("the head's learning rate is the schedule's times this", 1.0)
    lora_rank: int = _flag("learn low-rank changes of this rank (LoRA) beside frozen weights; 0: the weights themselves", 0)
    lora_alpha: float = _flag("a low-rank change counts alpha / rank times", 16.0)
    lora_dropout: float = _flag("probability of dropping an input of a low-rank change", 0.0)
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj"],
        metadata={"help": "linear layers that get one: q_proj k_proj v_proj out_proj fc1 fc2"},
    )

    def __post_init__(self):
        for name in ("head_only_steps", "unfreeze_steps", "lora_rank"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.unfreeze_steps and not self.head_only_steps:
            raise ValueError(f"unfreeze_steps={self.unfreeze_steps} says what follows head_only_steps: give that as well")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay={self.layer_decay} must be greater than 0 and at most 1")
        if not 0 < self.head_rate < float("inf"):
            raise ValueError(f"head_rate={self.head_rate} must be greater than 0")
        if self.lora_rank and (self.freeze or self.head_only_steps):
            raise ValueError(
                "lora_rank freezes all but the low-rank changes and the head already: leave out freeze and head_only_steps"
            )


TASKS = ("translation", "dialogue", "sequence-classification", "token-classification", "dependency-parsing")


@dataclass
class TaskArguments:
    """What is learned, and where it stands in the rows of the data."""

    task: Literal["translation", "dialogue", "sequence-classification", "token-classification", "dependency-parsing"] = _flag(
        "what the model learns", "translation"
    )
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "classification: the field of the text, or of both texts; text, premise hypothesis, ... are found"},
    )
    label_field: str = _flag("classification: the field of the class or number", "label")
    problem: Literal["auto", "classes", "regression"] = _flag(
        "classification: labels are classes, or numbers to be hit; auto: numbers that are not whole are to be hit", "auto"
    )
    unknown_labels: Literal["refuse", "wrong"] = _flag(
        "a class of the validation or test part that no training row has: an error, or, as some official test sets need it, "
        "always counted as wrong",
        "refuse",
    )
    token_field: str = _flag("tagging and parsing: the field of the words or characters", "tokens")
    tag_field: str | None = _flag("tagging: the field of the tags; ner_tags, upos, ... are found where there is only one")
    dialog_field: str = _flag("dialogue: the field of the turns", "dialog")

    def __post_init__(self):
        if self.task not in TASKS:
            raise ValueError(f"task={self.task!r} must be one of {', '.join(TASKS)}")


@dataclass
class DataArguments:
    """The data of a run. Files: JSON Lines, JSON, CSV, Parquet (also .gz), or `a.en,a.de`, a pair of plain text files."""

    train_file: list[str] = field(default_factory=list, metadata={"help": "training data, one or several files"})
    validation_file: list[str] = field(
        default_factory=list, metadata={"help": "what the run is judged by while it trains, one or several files"}
    )
    test_file: list[str] = field(
        default_factory=list, metadata={"help": "scored once, at the end, with the best model"}
    )
    dataset_name: str | None = _flag(
        "a data set of the Hub (owner/name or owner/name@REVISION), or a folder, instead of --train-file; its splits "
        "validation and test, where it has them, stand in for files that are not given"
    )
    dataset_config: str | None = _flag("its configuration, for example de-en")
    streaming: bool = _flag(
        "for training data larger than memory: read and encode them while training, again in each epoch, and store nothing", False
    )
    shuffle_buffer: int = _flag(
        "with streaming: rows that are in memory together, within which the order is random; two such pools are there at a time",
        100_000,
    )
    source_lang: str | None = _flag("name of the source language in the data, for example en")
    target_lang: str | None = _flag("name of the target language in the data, for example de")
    target_tag: bool = _flag("put the target language's tag (>>de<<) before each source text", False)
    train_languages: list[str] = field(
        default_factory=list,
        metadata={
            "help": "what each training file holds, in their order: en de ko for raw text, en-de ko-en for pairs; the tag "
            "(>>de<<) of the language to write then stands before each source"
        },
    )
    validation_languages: list[str] = field(
        default_factory=list,
        metadata={
            "help": "translation: the direction of each validation file (en-de ko-en); if not given: source_lang and target_lang "
            "for all, or as the training files"
        },
    )
    test_languages: list[str] = field(default_factory=list, metadata={"help": "the same of each test file"})
    train_weights: list[float] = field(
        default_factory=list,
        metadata={
            "help": "how often a row of each training file is seen, in their order, beside one of weight 1: 4 1 for a small "
            "corpus with a large one"
        },
    )
    sampling_temperature: float | None = _flag(
        "instead of weights: files are seen in proportion to rows^(1/T); 1 as they are, 5 as in mT5's kind, large values equally"
    )
    bpe_dropout: float = _flag(
        "probability of leaving out a merge when training text is cut into pieces, anew each time; the literature: 0.1, which "
        "makes texts, and so batches, about 1.3 times as long",
        0.0,
    )
    max_source_length: int | None = _flag(
        "longer sources, in tokens, are left out and counted; if not given: the model's limit, or half of max_tokens (all of "
            "it, where a head reads the encoder alone)"
    )
    max_target_length: int | None = _flag(
        "longer targets, in tokens, are left out and counted; if not given: the model's limit, or half of max_tokens"
    )

    def __post_init__(self):
        if self.train_file and self.dataset_name is not None:
            raise ValueError(f"train_file and dataset_name={self.dataset_name} both say what to train on: give one of them")
        for name in ("train_languages", "train_weights"):
            if (count := len(getattr(self, name))) and count != len(self.train_file):
                raise ValueError(f"{name} names {count}, but there are {len(self.train_file)} training files: one for each")
        if any(not 0 < weight < float("inf") for weight in self.train_weights):
            raise ValueError(f"train_weights={self.train_weights} must all be greater than 0")
        if self.sampling_temperature is not None and not 1 <= self.sampling_temperature < float("inf"):
            raise ValueError(f"sampling_temperature={self.sampling_temperature} must be 1 or more")
        if self.sampling_temperature is not None and self.train_weights:
            raise ValueError("train_weights and sampling_temperature both say how often a file is seen: give one of them")
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer={self.shuffle_buffer} must be at least 1")
        if not 0 <= self.bpe_dropout < 1:
            raise ValueError(f"bpe_dropout={self.bpe_dropout} is a probability: at least 0 and less than 1")
        for name in ("max_source_length", "max_target_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")


# Of these, what says which language is written, and how files of several are mixed.
TRANSLATION_FLAGS = (
    *("source_lang", "target_lang", "target_tag", "train_languages", "validation_languages", "test_languages"),
    *("train_weights", "sampling_temperature"),
)


@dataclass
class RunArguments:
    """How a run trains, what it writes and when it stops."""

    output_dir: str = _flag("folder of the run; its best model loads from there with from_pretrained", "runs/model")
    resume: bool = _flag("continue the run in output_dir exactly where its newest checkpoint stands", False)
    override: bool = _flag(
        "with --resume: accept that other flags than before are given; old and new are printed", False
    )
    seed: int = _flag("of initialisation, order, noise and dropout", 1)
    seeds: int = _flag(
        "repeat the run with so many seeds, from `seed` on, each in a folder of its own in output_dir, and report mean, standard "
        "deviation and best",
        1,
    )
    max_steps: int = _flag("updates in all, those before a resume included", 100_000)
    max_tokens: Tokens = _flag(
        "source + target tokens of a batch on one device, padding included; auto: as many as fit into its memory, at most "
        "50,000, found before the run and kept when it is resumed",
        4096,
    )
    accumulation_steps: int = _flag("batches whose gradients are added up for one update, on each device", 1)
    learning_rate: float | None = _flag(
        "peak of the inverse square root schedule; if not given, the paper's: d_model^-0.5 warmup_steps^-0.5"
    )
    noam_factor: float = _flag("factor on the paper's schedule, where learning_rate is not given", 1.0)
    schedule: Literal["inverse-sqrt", "linear", "constant"] = _flag(
        "what follows the warm-up: the paper's fall with 1 / sqrt(update), a straight line to 0 at max_steps, or no fall; the "
        "last two need learning_rate",
        "inverse-sqrt",
    )
    warmup_steps: int = _flag("updates during which the learning rate rises", 4000)
    adam_beta1: float = _flag("decay of Adam's mean; the paper: 0.9", 0.9)
    adam_beta2: float = _flag("decay of Adam's variance; the paper: 0.98", 0.98)
    adam_epsilon: float = _flag("Adam's epsilon; the paper: 1e-9", 1e-9)
    weight_decay: float = _flag("decoupled weight decay (AdamW); the paper: 0", 0.0)
    max_grad_norm: float = _flag(
        "gradients are scaled down to this norm; 0 leaves them as they are, as in the paper", 0.0
    )
    process_timeout: float = _flag("minutes that a process waits for the others, whatever they do, before the run ends", 30.0)
    precision: Literal["fp32", "bf16", "fp16"] = _flag("arithmetic of the products; weights stay in fp32", "fp32")
    attention: str = _flag(
        "attention implementation: eager, sdpa, flash_attention_2, ...; auto is transformers' choice", "auto"
    )
    gradient_checkpointing: bool = _flag("compute the layers twice and store them never: less memory, more time", False)
    log_steps: int = _flag("updates between two lines of the log", 100)
    eval_steps: int = _flag("updates between two evaluations", 1000)
    save_steps: int = _flag("updates between two checkpoints; 0: only at the end and when interrupted", 1000)
    keep_checkpoints: int = _flag("newest checkpoints kept; 0 keeps all", 5)
    best_metric: str = _flag(
        "what decides which model is best: loss, or one of the task's scores (bleu, chrf, accuracy, f1, las, ...); auto is the "
        "task's usual one",
        "auto",
    )
    patience: int = _flag("stop after so many evaluations without a better model; 0 never stops early", 0)
    average_last: int = _flag("at the end, average the weights of so many checkpoints and keep that if it is better", 0)
    eval_num_beams: int = _flag("beams of the translations during training; 1 is greedy and fast", 1)
    test_num_beams: int = _flag("beams of the translations of the test file", 4)
    track_with: list[str] = field(
        default_factory=list, metadata={"help": "trackers that accelerate knows: tensorboard, wandb, trackio, ..."}
    )

    def __post_init__(self):
        if self.max_tokens != "auto" and not isinstance(self.max_tokens, int):
            raise ValueError(f"max_tokens={self.max_tokens!r} must be a whole number, or auto")
        counts = ("max_steps", "accumulation_steps", "warmup_steps", "log_steps", "eval_steps", "seeds")
        if self.max_tokens != "auto":
            counts = (*counts, "max_tokens")
        for name in (*counts, "eval_num_beams", "test_num_beams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in (
            "save_steps",
            "keep_checkpoints",
            "patience",
            "average_last",
            "max_grad_norm",
            "weight_decay",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 < self.process_timeout < float("inf"):
            raise ValueError(f"process_timeout={self.process_timeout} must be greater than 0")
        for name in ("learning_rate", "noam_factor"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be greater than 0")
        if self.learning_rate is not None and self.noam_factor != 1.0:
            raise ValueError(
                "learning_rate and noam_factor are two ways to say how high the same curve is: give one of them"
            )
        if self.schedule != "inverse-sqrt" and self.learning_rate is None:
            raise ValueError(f"schedule={self.schedule} needs learning_rate, its highest point")
        if self.schedule == "linear" and self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"schedule=linear falls to 0 at max_steps={self.max_steps}, and warmup_steps={self.warmup_steps} rises until "
                f"then: lower it"
            )
        if self.average_last and self.keep_checkpoints and self.average_last > self.keep_checkpoints:
            raise ValueError(
                f"average_last={self.average_last} needs as many checkpoints, and keep_checkpoints={self.keep_checkpoints}"
            )
        if self.average_last and not self.save_steps:
            raise ValueError(
                f"average_last={self.average_last} needs checkpoints, and save_steps=0 writes none to average"
            )


def refuse_flags_of_others(
    own: Mapping[str, Sequence[str]], chosen: Collection[str], parts: Sequence[Any], said: str
) -> None:
    """ValueError if a flag that only others than the chosen know has not its default value.

    Args:
        own: of each that could be chosen, the names of its flags.
        parts: dataclasses of flags.
        said: what was chosen, in words.
    """
    for part in parts:
        for f in fields(part):
            default = f.default if f.default_factory is MISSING else f.default_factory()
            owners = [owner for owner, names in own.items() if f.name in names]
            if getattr(part, f.name) != default and owners and not set(owners) & set(chosen):
                raise ValueError(f"{f.name} is for {' and '.join(owners)}, and {said}; leave it out")
