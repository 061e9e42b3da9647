"""What the log-probability of a hypothesis is divided by, so that short ones are not preferred.

    "hf"       log P / n^alpha                 transformers, OpenNMT, CTranslate2
    "paper"    log P / ((5 + n) / 6)^alpha     Wu et al. (2016), equation 14; section 6.1 of the paper has alpha = 0.6

n counts the tokens written, `</s>` among them. The kinds are not two spellings of one number: at n = 20 and alpha = 0.6 they
divide by 6.03 and by 2.35. With 0 both divide by 1.
"""

import math

LENGTH_PENALTY_KINDS = ("hf", "paper")
MOST = 20  # a thousand tokens to this power can still be held


def length_divisor(length: int, length_penalty: float, kind: str) -> float:
    """What the log-probability of `length` tokens is divided by, before hypotheses are compared."""
    if kind not in LENGTH_PENALTY_KINDS:
        kinds = " or ".join(map(repr, LENGTH_PENALTY_KINDS))
        raise ValueError(f"length_penalty_kind={kind!r} must be {kinds}")
    if not math.isfinite(length_penalty):
        raise ValueError(f"length_penalty={length_penalty} must be a finite number")
    if abs(length_penalty) > MOST:
        raise ValueError(f"length_penalty={length_penalty} must be a number from -{MOST} to {MOST}")
    return ((5 + length) / 6 if kind == "paper" else length) ** length_penalty


class PaperLengthPenalty(float):
    """An exponent alpha for which `n ** alpha` is ((5 + n) / 6) ** alpha.

    The beam search of transformers writes `length ** length_penalty` in two places, with whole numbers as
    lengths. Handing it this number changes both at once, and nothing else.
    """

    def __rpow__(self, length: int) -> float:
        return length_divisor(length, float(self), "paper")
