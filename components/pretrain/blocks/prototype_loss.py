"""Cross-entropy of a student with a teacher over K prototypes, without any matrix of logits (rows, K) standing whole.

Logits are products of unit vectors (rows, d) and prototypes (K, d). With K = 65,536 one row of them takes 256 KiB, and
the dense form keeps half a dozen such matrices: logits, softmaxes and gradients of student and teacher. But

    H(p, softmax(z / tau)) = logsumexp(z / tau) - <v, sum_k p_k w_k> / tau,      z_k = <v, w_k>

needs of the teacher only the prototype that it expects, sum_k p_k w_k, a vector of d numbers; and the gradients are

    dH/dv = (sum_k q_k w_k - sum_k p_k w_k) / tau,     dH/dw_k = (q_k - p_k) v / tau,      q = softmax(z / tau).

So rows go through in chunks, each chunk's logits become softmax, loss and gradient and are forgotten. The gradient is
taken in the forward pass (the loss is linear in it), as the liger kernels do for language models (arXiv:2410.10989).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from components.pretrain.blocks.numerics import full, no_autocast

CHUNK_BYTES = {
    "cpu": 1 << 25
}  # logits in flight; 32 MiB are 128 rows of 65,536, enough for matrix products at full speed
OTHER_CHUNK_BYTES = 1 << 28  # a GPU wants more rows at a time, and has the memory
MONITORED_ROWS = 128  # targets formed for the collapse guards


class Scores(NamedTuple):
    """Logits that are not formed: the products of `vectors` (..., d) and `prototypes` (K, d)."""

    vectors: Tensor
    prototypes: Tensor

    @classmethod
    def of(cls, head: Any, x: Tensor) -> Scores:
        """Those that a projection head gives for features (..., D)."""
        return cls(head.bottleneck(x), head.last_layer.rows())

    def sum(self) -> tuple[Tensor, int]:
        """Sum of all rows of logits (K,), and how many there are: the logit of the summed vector."""
        rows = full(self.vectors.detach()).flatten(0, -2)
        with no_autocast(rows):
            return full(self.prototypes.detach()) @ rows.sum(dim=0), len(rows)


class Targets(NamedTuple):
    """The teacher's distributions softmax((z - c) / tau), not formed (arXiv:2104.14294, eq. 1 with 4).

    Attributes:
        scores: the teacher's, vectors (T, ..., d) of T views.
        centre: c (K,).
        temperature: tau.
    """

    scores: Scores
    centre: Tensor
    temperature: float

    @torch.no_grad()
    def some(self, rows: int = MONITORED_ROWS) -> Tensor:
        """The first distributions (at most `rows`, K), which is all that the collapse guards need."""
        vectors = self.scores.vectors.detach().flatten(0, -2)[:rows]
        return _centred_softmax(vectors, self.scores.prototypes.detach(), self.centre, self.temperature)


def cross_entropies(targets: Targets, student: Scores, temperature: float, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropies of T teacher views with S student views of the same G things.

    Args:
        targets: of vectors (T, ..., d); no gradient reaches them.
        student: of vectors (S, ..., d), the axes between holding the same G things in the same order.
        temperature: the student's.
        weights: broadcast to (T, S, G).

    Returns:
        The sum over t, s, g of weights * H(p_tg, softmax(z_sg / tau)), a scalar in float32 at least; and the
        cross-entropies (T, S, G) themselves, detached.
    """
    teacher, rows = targets.scores.vectors.detach().flatten(1, -2), student.vectors.flatten(1, -2)
    weights = weights.to(rows.device).expand(len(teacher), *rows.shape[:2])
    told = targets._replace(scores=Scores(teacher, targets.scores.prototypes.detach()))
    return _CrossEntropies.apply(rows, student.prototypes, told, temperature, weights)  # type: ignore[no-untyped-call, no-any-return]


def view_pair_loss(targets: Targets, student: Scores, temperature: float, *, skip_same: bool = True) -> Tensor:
    """DINO's loss (arXiv:2104.14294, eq. 3): mean of H over pairs of a teacher view and another student view.

    Args:
        targets: of T views (T, B, d).
        student: of S views (S, B, d); the first T are the same views, the rest local ones.
        temperature: the student's.
        skip_same: leave out pairs of one and the same view.
    """
    pairs = torch.ones(len(targets.scores.vectors), len(student.vectors), dtype=torch.float64)
    if skip_same:
        pairs.fill_diagonal_(0)
    things = targets.scores.vectors[0, ..., 0].numel()
    return cross_entropies(targets, student, temperature, (pairs / (pairs.sum() * things))[..., None])[0]


def row_loss(targets: Targets, student: Scores, temperature: float) -> Tensor:
    """Mean of H over rows: each student vector (..., d) has a target of its own, in the same place."""
    flat = student._replace(vectors=student.vectors.flatten(0, -2)[None])
    own = targets._replace(scores=targets.scores._replace(vectors=targets.scores.vectors.flatten(0, -2)[None]))
    return cross_entropies(own, flat, temperature, torch.tensor(1 / flat.vectors.shape[1], dtype=torch.float64))[0]


class _CrossEntropies(torch.autograd.Function):
    """Loss and gradients chunk by chunk; a chunk's logits live in one buffer for each of the two networks."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, prototypes: Tensor, targets: Targets, tau: float, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        told = targets.scores
        wants = any(ctx.needs_input_grad)
        rows, w, told_w = _operand(vectors), _operand(prototypes), _operand(told.prototypes)  # while autocast is on
        with no_autocast(vectors):
            dtype = full(vectors[:0]).dtype
            entropies = torch.empty(weights.shape, dtype=dtype, device=vectors.device)
            d_vectors = torch.zeros(vectors.shape if wants else (0,), dtype=dtype, device=vectors.device)
            d_prototypes = torch.zeros(w.shape if wants else (0,), dtype=dtype, device=vectors.device)
            for part in _chunks(len(told.vectors) + len(rows), rows.shape[1], len(w), rows):
                v, share = rows[:, part], weights[..., part].to(dtype)  # (S, g, d), (T, S, g)
                probs = _centred_softmax(told.vectors[:, part], told_w, targets.centre, targets.temperature)
                expected = full(probs.to(w.dtype) @ w)  # (T, g, d)
                soft, normaliser = _softmax(full(v @ w.T), tau)
                agreement = torch.einsum("tgd,sgd->tsg", expected, full(v))
                entropies[..., part] = normaliser - agreement / tau
                if wants:
                    total = share.sum(dim=0)[..., None]  # (S, g, 1)
                    soft = soft.to(w.dtype)
                    pull = torch.einsum("tsg,tgd->sgd", share, expected)
                    d_vectors[:, part] = (total * full(soft @ w) - pull) / tau
                    _add_outer(d_prototypes, soft, total * full(v) / tau)
                    told_v = torch.einsum("tsg,sgd->tgd", share, full(v))
                    _add_outer(d_prototypes, probs.to(w.dtype), told_v / -tau)
            loss = (weights.to(dtype) * entropies).sum()
        ctx.save_for_backward(d_vectors.to(vectors.dtype), d_prototypes.to(prototypes.dtype))
        ctx.mark_non_differentiable(entropies)
        return loss, entropies

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_vectors, d_prototypes = ctx.saved_tensors
        return grad * d_vectors, grad * d_prototypes, None, None, None


def _operand(x: Tensor) -> Tensor:
    """What enters a matrix product: in autocast's type, where it is on, as a linear layer's input would be."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _softmax(logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """softmax(z / tau) in the place of the logits z, and logsumexp(z / tau) without the last axis."""
    highest = logits.amax(dim=-1, keepdim=True)
    sums = logits.sub_(highest).div_(tau).exp_().sum(dim=-1, keepdim=True)
    return logits.div_(sums), (highest / tau + sums.log()).squeeze(-1)


def _centred_softmax(vectors: Tensor, prototypes: Tensor, centre: Tensor, tau: float) -> Tensor:
    with no_autocast(vectors):
        return _softmax(full(vectors.to(prototypes.dtype) @ prototypes.T).sub_(centre), tau)[0]


def _add_outer(total: Tensor, soft: Tensor, vectors: Tensor) -> None:
    """Add the sum over rows of soft_k * v_d, (..., K) and (..., d), to a total (K, d)."""
    left, right = soft.flatten(0, 1).T, vectors.flatten(0, 1).to(soft.dtype)
    if total.dtype == soft.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _chunks(views: int, things: int, n_prototypes: int, like: Tensor) -> list[slice]:
    """Slices of the things, so that the logits of all views of a slice fill a chunk."""
    budget = CHUNK_BYTES.get(like.device.type, OTHER_CHUNK_BYTES)
    size = max(budget // (views * n_prototypes * full(like[:0]).element_size()), 1)
    return [slice(first, min(first + size, things)) for first in range(0, things, size)]
