"""Signs of collapse: all targets alike, one prototype for everything, features without variance or of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from components.common.errors import ExitCode, StageError
from components.pretrain.config import GuardParams

RANKME_EPS = 1e-7  # Garrido et al. 2023 (arXiv:2210.02885), eq. 1
Row = Mapping[str, float]


def entropy(probs: Tensor) -> Tensor:
    """Shannon entropy over the last dimension, in nats; 0 log 0 = 0."""
    return torch.special.entr(probs.float()).sum(-1)


def feature_std(features: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of unit features, times sqrt(D) (arXiv:2011.10566, fig. 2).

    Args:
        features: (N, D).

    Returns:
        Scalar: about 1 for directions spread evenly, 0 when all features point the same way.
    """
    unit = F.normalize(features.float(), dim=-1)
    return unit.std(0, correction=0).mean() * math.sqrt(features.shape[-1])


def rankme(features: Tensor) -> Tensor:
    """Effective rank of a feature matrix (arXiv:2210.02885, eq. 1): exp of the entropy of its singular values' shares.

    Args:
        features: (N, D).

    Returns:
        Scalar in [1, min(N, D)].
    """
    if not bool(torch.isfinite(features).all()):
        return features.new_full((), math.nan)
    x = features.double()
    # Eigenvalues of the smaller Gram matrix are squared singular values: 10 times faster than an SVD at (2048, 384).
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + RANKME_EPS
    return torch.exp(torch.special.entr(shares).sum())


def collapsed(row: Row, limits: GuardParams) -> str | None:
    """The first sign of collapse in a row of figures, in words, or None."""
    signs = (
        ("teacher_entropy", "max", limits.max_teacher_entropy, "the teacher's targets are uniform"),
        ("teacher_spread", "min", limits.min_teacher_spread, "one prototype takes all samples"),
        ("feature_std", "min", limits.min_feature_std, "all features point the same way"),
        ("rankme", "min", limits.min_rankme, "the features fill too few dimensions"),
    )
    for name, kind, limit, words in signs:
        value = row.get(name)
        if value is not None and (value > limit if kind == "max" else value < limit):
            return f"{words} ({name} {value:.4g}, limit {limit:g})"
    return None


def collapse_sign(curves: Sequence[Row], limits: GuardParams) -> str | None:
    """The sign in the latest row when each of the last `patience` rows shows one. Needs no state but the curves."""
    latest = [collapsed(row, limits) for row in curves[-limits.patience :]]
    return latest[-1] if len(latest) == limits.patience and all(latest) else None


SUMS = ("loss", "grad_norm")  # what is made of a method's terms


def check_finite(steps: range, names: Sequence[str], values: Sequence[Sequence[float]], lrs: Sequence[float]) -> None:
    """Stop at the first step with a value that is not finite, and name the terms where it came up.

    Args:
        steps: the steps, counted from 0.
        names: of the columns.
        values: one row of figures a step.
        lrs: learning rate of each step.
    """
    for step, row, lr in zip(steps, values, lrs, strict=True):
        wrong = {name: value for name, value in zip(names, row, strict=True) if not math.isfinite(value)}
        if wrong:
            terms = [name for name in wrong if name not in SUMS]
            place = f"in the term {', '.join(terms)}" if terms else "going backward, all terms are finite"
            figures = ", ".join(f"{name} is {value}" for name, value in wrong.items())
            what = (
                f"training left the finite numbers at step {step} {place} ({figures}); the learning rate was {lr:.3g}"
            )
            raise StageError(what, code=ExitCode.STOPPED)
