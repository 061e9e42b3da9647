"""Table 3's last column: parameters of every row of the paper, counted in our model and by the formula.

    python benchmarks/parameter_counts.py

The paper prints millions, for a vocabulary of "about 37000" tokens. No single vocabulary gives all of its figures: 41,100
gives the ten rows of width below big, 36,000 gives big (so the printed counts were not made with one vocabulary).
"""

from __future__ import annotations

import torch

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.modeling.configuration_vanilla_transformer import PAPER_ROWS

PRINTED = {
    "base": 65, "B1": 58, "B2": 60, "C1": 36, "C2": 50, "C3": 80, "C4": 28, "C5": 168, "C6": 53, "C7": 90, "big": 213,
}  # fmt: skip


def counted(row: str, vocab_size: int) -> int:
    """Parameters of the real model, built without memory."""
    with torch.device("meta"):
        config = VanillaTransformerConfig.from_paper(row, vocab_size=vocab_size)
        return VanillaTransformerForConditionalGeneration(config).num_parameters()


def main() -> None:
    print("| row | V = 37,000 | V = 41,100 | the paper, millions |")
    print("| --- | ---: | ---: | ---: |")
    for row in PAPER_ROWS:
        printed = PRINTED.get(row, "")
        print(f"| {row} | {counted(row, 37_000):,} | {counted(row, 41_100):,} | {printed} |")


if __name__ == "__main__":
    main()
