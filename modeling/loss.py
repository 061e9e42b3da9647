"""Label-smoothed cross-entropy (section 5.4), with and without the logits ever being whole in memory.

Shapes: N target tokens (B T, padding left out or ignored), D d_model, V vocabulary.

The smoothed target q of a token whose true class is y is one of three, chosen by name. They differ in where the mass
epsilon goes; papers rarely say which they use, and their losses cannot be compared with each other:

    kind         q[y]                    q of every other class     q[pad]
    "uniform"    1 - eps + eps / V       eps / V                    eps / V         torch, transformers, Szegedy et al.
    "fairseq"    1 - eps                 eps / (V - 1)              eps / (V - 1)   fairseq since 2021, tensor2tensor
    "joey"       1 - eps                 eps / (V - 2)              0               JoeyNMT, the Annotated Transformer

All three are q = a onehot(y) + b + c onehot(pad), and q sums to 1, so that with logits z

    loss = -sum_v q_v log softmax(z)_v = logsumexp(z) - a z_y - b sum_v z_v - c z_pad,      d loss / dz = softmax(z) - q.
"""

import math

import torch
from torch import nn

IGNORED = -100  # the label of positions that have no loss: padding


def smoothing_weights(kind: str, epsilon: float, vocab_size: int) -> tuple[float, float, float]:
    """(a, b, c) of the table above.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "uniform":
        return 1 - epsilon, epsilon / vocab_size, 0.0
    if kind == "fairseq":
        b = epsilon / (vocab_size - 1)
        return 1 - epsilon - b, b, 0.0
    if kind == "joey":
        b = epsilon / (vocab_size - 2)
        return 1 - epsilon - b, b, -b
    raise ValueError(f"label_smoothing_kind={kind!r} must be one of 'uniform', 'fairseq', 'joey'")


def label_smoothed_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, epsilon: float, kind: str = "uniform", pad_token_id: int = 0
) -> torch.Tensor:
    """The loss of each position, in float32.

    Args:
        logits: (..., V).
        labels: (...), class indices; -100 has loss 0.
        epsilon: the smoothed mass, in [0, 1).
        kind: the table above.
        pad_token_id: the class that "joey" gives no mass.

    Returns:
        float32 (...), in nats.
    """
    a, b, c = smoothing_weights(kind, epsilon, logits.shape[-1])
    logits = logits.float()
    gold = labels.clamp(min=0)[..., None]
    loss = logits.logsumexp(-1) - a * logits.gather(-1, gold).squeeze(-1)
    if epsilon > 0:
        loss = loss - b * logits.sum(-1) - c * logits[..., pad_token_id]
    return loss.masked_fill(labels == IGNORED, 0.0)


class LinearSmoothedCrossEntropy(torch.autograd.Function):
    """Sum of the losses of softmax(hidden W^T), and its gradient, made in one pass over a few rows at a time.

    The N x V logits and their gradient, the largest tensors of training, never exist whole. The result is one number,
    so the gradients made in `forward`, while the scores are at hand, need only be multiplied in `backward`. torch's own
    `linear_cross_entropy` does the same but knows no label smoothing and rounds the loss to bfloat16 (measured in
    docs/experiments.md), so this is ours.

    With e = exp(z) and its row sums s, softmax(z) - a onehot(y) is (e - a s onehot(y)) / s: dividing the narrow factors of
    both products by s, not the wide e, saves a pass over the scores.

    hidden (N, D), weight (V, D), labels (N,); `dtype` is that of the matrix products, `chunk` the rows taken at a time.
    """

    @staticmethod
    def forward(ctx, hidden, weight, labels, epsilon, kind, pad_token_id, dtype, chunk):  # noqa: D102
        a, b, c = smoothing_weights(kind, epsilon, weight.shape[0])
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rows, matrix = hidden.to(dtype), weight.to(dtype)
        # In float32 on a CPU torch's 2^x is up to four times as fast as its e^x, and the unit of the scores costs nothing.
        unit = math.log(2) if dtype == torch.float32 and rows.device.type == "cpu" else 1.0
        exponential_ = torch.Tensor.exp_ if unit == 1.0 else torch.Tensor.exp2_
        left = rows if unit == 1.0 else rows / unit
        is_real = (labels != IGNORED)[:, None]
        gold = labels.clamp(min=0)[:, None]
        # The terms in b and c are linear in the scores, so they need no pass over the vocabulary.
        row_sum = (rows * is_real).float().sum(0)  # (D,)
        class_sum = weight.float().sum(0)  # (D,)
        linear = b * class_sum + c * weight[pad_token_id].float()  # (D,)
        total = -torch.dot(row_sum, linear)
        hidden_gradient = torch.empty_like(rows, dtype=torch.float32) if needs_hidden else None
        # Summed over the chunks in float32: hundreds of small bfloat16 addends would be lost.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        # One block of memory for all chunks: taking and returning it each time costs as much as a product.
        buffer = rows.new_empty(min(chunk, len(rows)), len(matrix))
        is_shifted = not _exponentials_are_finite(rows, matrix)
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            scores = torch.mm(left[part], matrix.t(), out=buffer[: len(left[part])])  # (chunk, V), in units
            if not (scores.device.type == "cpu" and dtype == torch.bfloat16):
                scores = scores.float()
            if is_shifted:
                highest = scores.amax(1, keepdim=True)
                scores.sub_(highest)
            of_gold = scores.gather(1, gold[part]).float() * unit
            sums = exponential_(scores).sum(1, keepdim=True, dtype=torch.float32)
            loss = sums.log() - a * of_gold
            if is_shifted:
                loss += (1 - a) * unit * highest
            total += (loss * is_real[part]).sum()
            if not (needs_hidden or needs_weight):
                continue
            scores.scatter_add_(1, gold[part], (-a * sums).to(scores.dtype))
            scores, weights = scores.to(dtype), is_real[part] / sums
            if hidden_gradient is not None:
                torch.mul(torch.mm(scores, matrix), weights, out=hidden_gradient[part])
            if weight_gradient is not None:
                weighted = (rows[part] * weights).to(dtype)
                if dtype == torch.float32:
                    weight_gradient.addmm_(scores.t(), weighted)
                else:
                    weight_gradient += torch.mm(scores.t(), weighted)
        if hidden_gradient is not None:
            hidden_gradient -= linear * is_real
        if weight_gradient is not None:
            weight_gradient -= b * row_sum
            weight_gradient[pad_token_id] -= c * row_sum
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # noqa: D102
        hidden_gradient, weight_gradient = ctx.saved_tensors
        if hidden_gradient is not None:
            hidden_gradient = hidden_gradient.to(ctx.dtypes[0]) * gradient
        if weight_gradient is not None:
            weight_gradient = (weight_gradient * gradient).to(ctx.dtypes[1])
        return hidden_gradient, weight_gradient, None, None, None, None, None, None


def _exponentials_are_finite(rows: torch.Tensor, matrix: torch.Tensor) -> bool:
    """Whether exp(z) of all scores z = rows matrix^T is surely neither 0 nor infinite, not even summed over classes.

    By Cauchy's bound |z| <= |row| |class|. A trained model's is 10 to 40. Asked on a CPU alone: elsewhere the answer is
    on the device, and the loop would wait for it.
    """
    if rows.device.type != "cpu" or rows.dtype not in (torch.float32, torch.bfloat16):
        return False
    if not len(rows):
        return True
    bound = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).max()
    bound = bound * torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float32).max()
    return bound.item() <= 60  # e^60 is 1e26, and float32 ends at 3e38


def linear_smoothed_cross_entropy(
    hidden: torch.Tensor,
    output_layer: nn.Linear,
    labels: torch.Tensor,
    epsilon: float,
    kind: str = "uniform",
    pad_token_id: int = 0,
) -> torch.Tensor:
    """The same as `label_smoothed_cross_entropy(output_layer(hidden), ...).sum()`, in a fraction of the memory.

    Args:
        hidden: (..., D), the decoder's output.
        output_layer: D -> V, without a bias.
        labels: (...), class indices; -100 is ignored.
        epsilon, kind, pad_token_id: as there.

    Returns:
        float32 scalar, in nats, summed over the positions that are not ignored.
    """
    hidden, labels = hidden.flatten(0, -2), labels.flatten()
    device = hidden.device.type
    if device == "cpu":
        # Padding costs as much as a token here, and counting rows costs nothing where no device has to be waited for.
        is_real = labels != IGNORED
        hidden, labels = hidden[is_real], labels[is_real]
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    # At most so many bytes of scores at once. CPU: measured with V = 10,000 (docs/experiments.md). Elsewhere: half a gigabyte
    # in float32, enough to fill a device; not measured yet.
    at_once = 2**23 // dtype.itemsize if device == "cpu" else 2**27
    chunk = max(64, at_once // output_layer.out_features)
    with torch.autocast(device, enabled=False):
        return LinearSmoothedCrossEntropy.apply(
            hidden, output_layer.weight, labels, epsilon, kind, pad_token_id, dtype, chunk
        )
