"""`vanilla-transformer train-tokenizer`: a joint byte-level BPE vocabulary from text in any number of languages.

    vanilla-transformer train-tokenizer --train-file train.jsonl.gz --vocab-size 10000 --output-dir tokenizer

The text is streamed: JSON Lines, JSON, CSV, Parquet or plain text, also .gz, and "train.en,train.de"; or a data set of
the Hub (--dataset-name).
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from vanilla_transformer.scripts.command_line import command, parse_arguments
from vanilla_transformer.tokenization import VanillaTransformerTokenizer
from vanilla_transformer.tokenization.learn_vocabulary import learn_vocabulary
from vanilla_transformer.training.corpus import iterate_texts
from vanilla_transformer.training.corpus_files import CorpusError

SAMPLE = 10_000  # texts on which the result is tried


@dataclass
class Vocabulary:
    vocab_size: int = field(metadata={"help": "tokens in all: special ones, 256 bytes, and learned pieces"})
    output_dir: str = field(metadata={"help": "folder for the tokenizer"})
    train_file: list[str] = field(
        default_factory=list, metadata={"help": "files of text, of all languages that the vocabulary is for"}
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "or the split train of a data set of the Hub, or of a folder"}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "its configuration, for example de-en"})
    text_fields: list[str] = field(
        default_factory=list,
        metadata={"help": "fields to read of each row; if not set: text, or all of translation, or source and target"},
    )
    languages: list[str] = field(
        default_factory=list, metadata={"help": "language codes that get a tag, e.g. de ko: >>de<< >>ko<<"}
    )
    extra_tokens: list[str] = field(
        default_factory=list, metadata={"help": "further strings that are one token wherever they stand"}
    )
    sentinels: int = field(
        default=0,
        metadata={
            "help": "so many tokens <extra_id_0>, <extra_id_1> ..., which pretrain --objective span-corruption needs; T5: 100"
        },
    )
    min_frequency: int = field(default=2, metadata={"help": "pieces seen together less often than this are not merged"})
    split_digits: bool = field(default=True, metadata={"help": "each digit is a token of its own"})


@command
def main(argv: list[str] | None = None) -> int:
    (flags,) = parse_arguments(
        "train-tokenizer", "Learns a joint BPE vocabulary from text files.", Vocabulary, argv=argv
    )
    output = Path(flags.output_dir)
    _refuse_foreign_folder(output)
    if bool(flags.train_file) == bool(flags.dataset_name):
        raise ValueError("give --train-file or --dataset-name, one of them: the text to learn the vocabulary from")
    if flags.sentinels < 0:
        raise ValueError(f"sentinels={flags.sentinels} must not be negative")
    started = time.perf_counter()
    tokenizer = learn_vocabulary(
        tqdm(_texts(flags), desc="Reading", unit=" texts", unit_scale=True, disable=None),
        flags.vocab_size,
        languages=flags.languages,
        extra_tokens=[*(f"<extra_id_{number}>" for number in range(flags.sentinels)), *flags.extra_tokens],
        min_frequency=flags.min_frequency,
        split_digits=flags.split_digits,
    )
    seconds = time.perf_counter() - started
    sample = list(itertools.islice(_texts(flags), SAMPLE))
    tokens_per_word = _try_out(tokenizer, sample)
    if _is_the_same(output, tokenizer):
        saved = "was there already"
    else:
        tokenizer.save_pretrained(output)
        saved = "saved"
    print(f"{len(tokenizer):,} tokens, fingerprint {tokenizer.fingerprint}, learned in {seconds:.1f} s")
    print(f"{tokens_per_word:.2f} tokens per word; the first {len(sample):,} texts come back exactly")
    print(f"{output}: {saved}")
    return 0


def _texts(flags: Vocabulary) -> Iterator[str]:
    return iterate_texts(
        flags.train_file,
        fields=flags.text_fields,
        dataset_name=flags.dataset_name,
        dataset_config=flags.dataset_config,
    )


def _refuse_foreign_folder(output: Path) -> None:
    """Before the work: a folder that holds something else than a tokenizer alone."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output-dir {output}: is a file; name a folder")
    if (output / "config.json").exists():
        raise ValueError(f"--output-dir {output}: holds a model, whose tokenizer must not change; name another folder")


def _is_the_same(output: Path, tokenizer: VanillaTransformerTokenizer) -> bool:
    """Whether the folder holds this very tokenizer; ValueError if it holds another."""
    if not (output / "tokenizer.json").exists():
        return False
    held = VanillaTransformerTokenizer.from_pretrained(output).fingerprint
    if held != tokenizer.fingerprint:
        raise ValueError(
            f"--output-dir {output}: holds another tokenizer (fingerprint {held}, this one is "
            f"{tokenizer.fingerprint}), and models may depend on it; name another folder, or remove that one"
        )
    return True


def _try_out(tokenizer: VanillaTransformerTokenizer, texts: list[str]) -> float:
    """Tokens per word (words as separated by spaces; `</s>` not counted), after proving the round trip."""
    tokens = 0
    for start in range(0, len(texts), 1000):
        batch = texts[start : start + 1000]
        ids = tokenizer(batch, return_attention_mask=False, verbose=False)["input_ids"]
        tokens += sum(len(row) - 1 for row in ids)
        for text, back in zip(batch, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            if text != back:
                raise CorpusError(f"the tokenizer does not give {text!r} back but {back!r}; nothing was saved")
    return tokens / max(1, sum(len(text.split()) for text in texts))


if __name__ == "__main__":
    sys.exit(main())
