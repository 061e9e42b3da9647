"""What a bag of words reaches on SST-2: logistic regression and naive Bayes, beside the numbers of docs/reproduction.md.

    python benchmarks/bag_of_words.py runs/reproduction/vocabulary-en-de runs/own-vocabulary

The arguments are folders of tokenizers, whose pieces take the place of words. The data are $VANILLA_TRANSFORMER_DATA's. Prints
one table, accuracy in per cent; nothing is chosen on the validation part.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

from vanilla_transformer.tokenization import VanillaTransformerTokenizer

DATA = Path(os.environ.get("VANILLA_TRANSFORMER_DATA", "../shared/data")) / "text_classification/sst2"


def part(name: str) -> tuple[list[str], list[int]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def main(folders: list[str]) -> None:
    texts, labels = part("train")
    judged = [part("validation"), part("test")]
    words: Any = lambda text: text.split()  # noqa: E731
    systems: dict[str, tuple[Any, Any]] = {
        "words, logistic regression": (TfidfVectorizer(analyzer=words), LogisticRegression(C=10, max_iter=1000)),
        "words, naive Bayes": (CountVectorizer(analyzer=words, binary=True), MultinomialNB()),
    }
    for folder in folders:
        pieces = VanillaTransformerTokenizer.from_pretrained(folder).tokenize
        vectors = TfidfVectorizer(analyzer=pieces)
        systems[f"pieces of {folder}, logistic regression"] = vectors, LogisticRegression(max_iter=1000)
    print("| | validation | test |\n| --- | ---: | ---: |")
    for name, (vectors, model) in systems.items():
        model.fit(vectors.fit_transform(texts), labels)
        scores = [f"{100 * model.score(vectors.transform(given), wanted):.1f}" for given, wanted in judged]
        print(f"| {name} | {' | '.join(scores)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
