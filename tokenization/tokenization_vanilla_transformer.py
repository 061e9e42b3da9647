"""The tokenizer: byte-level BPE whose round trip is exact.

A Hub file: it imports tokenizers, transformers and the standard library only. How a text becomes ids (the
parts are put together in learn_vocabulary.py and travel in tokenizer.json):

    "Hallo, Welt 42"  ->  one space in front        so that the first word is the same piece as anywhere else
                      ->  split                     words, single digits, punctuation, white space
                      ->  UTF-8 bytes, BPE merges   all 256 bytes are pieces, so nothing is unknown
                      ->  "</s>" behind             no "<s>": the decoder starts with it by itself

Decoding undoes each step: the one space in front is taken off again, the text's own stay. Nothing is
normalised.

The class has NO __init__, on purpose: transformers 5 reads tokenizer.json only for classes without one;
otherwise it rebuilds the tokenizer from vocabulary and merges, and loses the rest without an error.
"""

import hashlib
import json
import re

from tokenizers import Regex, normalizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

logger = logging.get_logger(__name__)

SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
LANGUAGE_TAG = re.compile(r">>([A-Za-z0-9_-]+)<<")


class VanillaTransformerTokenizer(PreTrainedTokenizerFast):
    """Byte-level BPE, an ordinary fast tokenizer of transformers 5. `learn_vocabulary` makes one.

        >>> tokenizer = VanillaTransformerTokenizer.from_pretrained("my-tokenizer")
        >>> batch = tokenizer(
        ...     [">>de<< Hello, world.", ">>de<< Hi!"],
        ...     text_target=["Hallo, Welt.", "Hi!"],
        ...     padding=True,
        ...     return_tensors="pt",
        ... )
        >>> batch["input_ids"].shape, batch["labels"].shape  # (B, S), (B, T); a row is pieces, </s>, padding
        >>> tokenizer.decode(batch["labels"][1], skip_special_tokens=True)
        'Hi!'

    **Ids.** `<pad>` 0, `<s>` 1, `</s>` 2, `<unk>` 3 (never produced), `<mask>` 4, then language tags and
    extra tokens, then the 256 bytes, then the merges. Source and target are encoded alike: the pieces and
    `</s>`.

    **Special tokens in a text are text.** `"</s>"` typed by a user is four characters, and comes back as
    such, unless the tokenizer is loaded with `split_special_tokens=False`, the other tokenizers' default.
    Language tags (`>>de<<`) and extra tokens are one token each wherever they stand in a text, and what
    surrounds them keeps its spaces (`">>de<< Hello"` is the tag and the piece ` Hello`). They are content:
    `skip_special_tokens=True` leaves them in. (Who reads tokenizer.json with the bare `tokenizers` library
    must set `encode_special_tokens = True` by hand.)

    **Truncation** happens only when asked for, as everywhere in transformers (`truncation=True,
    max_length=n`; the `</s>` is kept), and is then counted: `truncated_texts` is the number of texts that
    this object has cut so far (set it to 0 to start anew), and the first cut is logged as a warning. There is
    no default length.

    **Offsets** (`return_offsets_mapping=True`) cut words exactly: they leave out the space that a piece takes
    along, and a character whose bytes are several pieces belongs to the first of these. What is left
    with an empty span (a space of its own, as in front of numbers; the further bytes of a character) is
    marked in `special_tokens_mask`, too, so that transformers' pipeline for tagging does not take it for a word.

    **Fit.** `fingerprint` names the map from text to ids; `check_fits(config)` refuses a model made with
    another.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "right"

    #: How many texts this object has cut, see "Truncation" above.
    truncated_texts: int = 0

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all that decides which ids a text gets.

        Padding, truncation and BPE dropout are ways of use and do not count; nor does the decoder.
        """
        backend = json.loads(self.backend_tokenizer.to_str())
        model = backend["model"]
        # Older versions of tokenizers wrote a merge as "a b", newer ones write ["a", "b"].
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.pop("merges")]
        pieces = sorted(model.pop("vocab").items(), key=lambda item: item[1])
        model.pop("dropout", None)
        added = sorted(backend["added_tokens"], key=lambda token: token["id"])
        parts = [backend[part] for part in ("normalizer", "pre_tokenizer", "post_processor")]
        # A new version of tokenizers writes new fields; at their defaults they must not change the name.
        described = _without_defaults([pieces, merges, model, added, parts])
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def check_fits(self, config) -> None:
        """Raise ValueError if a model with this `config` was made with another tokenizer.

        Compares `config.tokenizer_fingerprint` (where it is set) and the size of the vocabulary.
        """
        expected = getattr(config, "tokenizer_fingerprint", None)
        if expected is not None and expected != self.fingerprint:
            raise ValueError(
                f"tokenizer_fingerprint: the model was made with tokenizer {expected}, this is tokenizer "
                f"{self.fingerprint}, whose ids mean other things. Load the one saved in the model's folder."
            )
        if len(self) > config.vocab_size:
            raise ValueError(
                f"vocab_size: tokenizer {self.fingerprint} has {len(self)} tokens, the model only "
                f"{config.vocab_size}. Load the one saved in the model's folder, or resize its embeddings."
            )

    @property
    def language_tags(self) -> list[str]:
        """The language tags in the order of ids: `[">>de<<", ">>ko<<"]`, or `[]`."""
        added = sorted(self.added_tokens_decoder.items())
        return [token.content for _, token in added if LANGUAGE_TAG.fullmatch(token.content)]

    def language_tag(self, code: str) -> str:
        """The tag of a language: `"de"` gives `">>de<<"`. ValueError, naming the known, if there is none."""
        tags = self.language_tags
        if f">>{code}<<" not in tags:
            known = ", ".join(tag[2:-2] for tag in tags) or "none: learn the vocabulary with its languages"
            raise ValueError(f"language {code!r} has no tag in this tokenizer; known: {known}")
        return f">>{code}<<"

    def _add_tokens(self, new_tokens, special_tokens=False):
        # Tokens that come later (tokenizer.add_tokens) need what learn_vocabulary does for extra tokens, or
        # spaces get lost. The normaliser goes first: the backend normalises a token when it is added.
        later = [] if special_tokens else [str(t) for t in new_tokens if not getattr(t, "special", False)]
        if special_tokens and self.split_special_tokens and any(str(t) not in self.get_vocab() for t in new_tokens):
            logger.warning(
                "Special tokens that stand in a text are text to this tokenizer, also those added now. To have them "
                "recognised, load it with split_special_tokens=False, or add them as ordinary tokens."
            )
        if later:
            known = [token.content for token in self.added_tokens_decoder.values() if not token.special]
            self.backend_tokenizer.normalizer = space_in_front(known + [t for t in later if t not in known])
        return super()._add_tokens(new_tokens, special_tokens=special_tokens)

    def _encode_plus(self, text, *args, **kwargs):
        # transformers' one road to the backend, from __call__, encode and tokenize alike.
        backend, template = self.backend_tokenizer, self.backend_tokenizer.post_processor
        with_offsets = bool(kwargs.get("return_offsets_mapping")) and template is not None
        if with_offsets:  # for this call only: what is saved, and has a fingerprint, is about ids
            trim = processors.ByteLevel(add_prefix_space=True, trim_offsets=True)
            backend.post_processor = processors.Sequence([template, trim])
        try:
            encoded = super()._encode_plus(text, *args, **kwargs)
        except TypeError as error:
            _refuse_lone_surrogates(text, error)
            raise
        finally:
            if with_offsets:
                backend.post_processor = template
        if with_offsets:
            _give_each_character_to_one_piece(encoded)
        asked = self.backend_tokenizer.truncation is not None and not kwargs.get("return_overflowing_tokens")
        cut = sum(bool(encoding.overflowing) for encoding in encoded.encodings or []) if asked else 0
        if cut:
            self.truncated_texts += cut
            logger.warning_once("Texts are truncated, as asked; tokenizer.truncated_texts counts them.")
        return encoded


def space_in_front(tags):
    """The normaliser: one space before the text, unless the text begins with one of `tags`.

    Before a tag the space would come back when decoding, which takes off only what the whole text begins
    with. (A single Replace of the empty match at the beginning would do, but makes tokenizers 0.23 panic
    later.)
    """
    prepend = normalizers.Prepend(" ")
    if not tags:
        return prepend
    pattern = "|".join(re.escape(tag) for tag in tags)
    return normalizers.Sequence([prepend, normalizers.Replace(Regex(rf"\A (?={pattern})"), "")])


def _give_each_character_to_one_piece(encoded) -> None:
    """Changes `offset_mapping`, and marks what has an empty span in `special_tokens_mask` if that is there."""
    offsets, marks = encoded["offset_mapping"], encoded.get("special_tokens_mask")
    if isinstance(offsets, list) and (not offsets or isinstance(offsets[0], tuple)):  # of one text
        offsets, marks = [offsets], [marks]
    for row, spans in enumerate(offsets):
        word_before, end = None, 0
        for column, word in enumerate(encoded.word_ids(row)):
            start, stop = (int(number) for number in spans[column])
            if word == word_before:
                start = min(max(start, end), stop)
            if isinstance(spans, list):
                spans[column] = (start, stop)
            else:  # a tensor or an array
                spans[column, 0] = start
            if marks is not None and marks[row] is not None and start == stop:
                marks[row][column] = 1
            word_before, end = word, stop


def _without_defaults(value):
    """`value` (JSON) without the dictionary entries, at any depth, that are null, false or empty."""
    if isinstance(value, dict):
        return {k: _without_defaults(v) for k, v in value.items() if not (v is None or v is False or v == "")}
    if isinstance(value, (list, tuple)):
        return [_without_defaults(item) for item in value]
    return value


def _refuse_lone_surrogates(text, error: Exception) -> None:
    """ValueError if `text`, or one of a list, is no valid Unicode (the backend only says "must be str")."""
    for number, item in enumerate([text] if isinstance(text, str) else text, start=1):
        try:
            if isinstance(item, str):
                item.encode()
        except UnicodeEncodeError as bad:
            raise ValueError(
                f"text {number}: character {bad.start + 1} is half a surrogate pair ({item[bad.start]!r}), "
                "which is no Unicode. Read the text as UTF-8, or remove the character."
            ) from error
