"""The learning rate as a function of the update (section 5.3). Updates are counted from 1; micro-batches never count."""

from __future__ import annotations


def noam(update: int, d_model: int, warmup_steps: int, factor: float = 1.0) -> float:
    """Equation 3: factor * d_model^-0.5 * min(update^-0.5, update * warmup_steps^-1.5).

    With d_model 512 and 4,000 warm-up steps the peak is 6.99e-4.
    """
    return factor * d_model**-0.5 * min(update**-0.5, update * warmup_steps**-1.5)


def inverse_sqrt(update: int, peak: float, warmup_steps: int) -> float:
    """fairseq's name for the same curve, given by its peak: linear up to it, then peak * sqrt(warmup_steps / update)."""
    return peak * min(update / warmup_steps, (warmup_steps / update) ** 0.5)


def linear(update: int, peak: float, warmup_steps: int, max_steps: int) -> float:
    """Linear up to the peak, then linear to 0, which the update behind `max_steps` would have (BART's fine-tuning)."""
    return peak * min(update / warmup_steps, max(0, max_steps + 1 - update) / (max_steps + 1 - warmup_steps))


def learning_rate(
    update: int,
    *,
    d_model: int,
    warmup_steps: int,
    noam_factor: float = 1.0,
    peak: float | None = None,
    schedule: str = "inverse-sqrt",
    max_steps: int = 0,
) -> float:
    """The paper's schedule, or, where a `peak` is given, the same curve by its peak, or another by its name."""
    if peak is None:
        return noam(update, d_model, warmup_steps, noam_factor)
    if schedule == "linear":
        return linear(update, peak, warmup_steps, max_steps)
    if schedule == "constant":
        return peak * min(update / warmup_steps, 1.0)
    return inverse_sqrt(update, peak, warmup_steps)
