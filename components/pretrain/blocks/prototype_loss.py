"""Cross-entropy of a student with a teacher over K prototypes, without any matrix of logits (rows, K) standing whole.

Logits are products of unit vectors (rows, d) and prototypes (K, d). With K = 65,536 one row of them takes 256 KiB, and
the dense form keeps half a dozen such matrices: logits, softmaxes and gradients of student and teacher. But

    H(p, softmax(z / tau)) = logsumexp(z / tau) - sum_k p_k z_k / tau,      z_k = <v, w_k>

has the gradients

    dH/dz_k = (q_k - p_k) / tau,     dH/dv = sum_k dH/dz_k w_k,     dH/dw_k = dH/dz_k v,     q = softmax(z / tau).

So rows go through in chunks, each chunk's logits become softmax, loss and gradient and are forgotten. The gradient is
taken in the forward pass (the loss is linear in it), as the liger kernels do for language models (arXiv:2410.10989).

Nor is the prototypes' matrix formed: w_k = g_k u_k / |u_k| is a direction and a gain (head.py), so rows meet u and the
few logits are scaled. Every pass over 65,536 x 256 numbers is felt in a step: with m_k = dH/dw_k / |u_k| from products,

    dH/dg_k = <u_k, m_k>,      dH/du_k = g_k (m_k - u_k <u_k, m_k> / |u_k|^2).
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
EPS = 1e-12  # a direction is never shorter
MONITORED_ROWS = 128  # targets formed for the collapse guards


class Scores(NamedTuple):
    """Logits that are not formed: the products of unit vectors and prototypes.

    Attributes:
        vectors: (..., d).
        directions: u (K, d), of any length.
        gains: g (K, 1); prototype k is g_k u_k / |u_k|.
    """

    vectors: Tensor
    directions: Tensor
    gains: Tensor

    @classmethod
    def of(cls, head: Any, x: Tensor) -> Scores:
        """Those that a projection head gives for features (..., D)."""
        return cls(head.bottleneck(x), head.last_layer.direction, head.last_layer.gain)

    def sum(self) -> tuple[Tensor, int]:
        """Sum of all rows of logits (K,), and how many there are: the logit of the summed vector."""
        rows = full(self.vectors.detach()).flatten(0, -2)
        with no_autocast(rows):
            logits = full(self.directions.detach()) @ rows.sum(dim=0)
            return logits * _scale(self.directions, self.gains), len(rows)

    def detach(self) -> Scores:
        """The same without gradients."""
        return Scores(*(x.detach() for x in self))


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
        scores = self.scores.detach()
        scale = _scale(scores.directions, scores.gains)
        return self.softmax(scores.vectors.flatten(0, -2)[:rows], scores.directions, scale)

    def softmax(self, vectors: Tensor, directions: Tensor, scale: Tensor) -> Tensor:
        """The distributions (..., K) for vectors (..., d)."""
        with no_autocast(vectors):
            logits = full(vectors.to(directions.dtype) @ directions.T)
            return _softmax(logits.mul_(scale).sub_(self.centre), self.temperature)[0]


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
    told, rows = targets.scores.detach(), student.vectors.flatten(1, -2)
    teacher = told._replace(vectors=told.vectors.flatten(1, -2))
    weights = weights.to(rows.device).expand(len(teacher.vectors), *rows.shape[:2])
    return _CrossEntropies.apply(  # type: ignore[no-untyped-call, no-any-return]
        rows, student.directions, student.gains, targets._replace(scores=teacher), temperature, weights
    )


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


def disagreement(one: Tensor, other: Tensor, scores: Scores) -> Tensor:
    """Sum over rows of the mean over K prototypes of the squared difference of two logits; unit vectors (M, d) both.

    The prototypes are those of `scores`.
    """
    with no_autocast(one):
        apart = full(one) - full(other)
    total = _Disagreement.apply(apart, scores.directions, scores.gains)  # type: ignore[no-untyped-call]
    return total / len(scores.directions)  # type: ignore[no-any-return]


class _CrossEntropies(torch.autograd.Function):
    """Loss and gradients chunk by chunk; a chunk's logits live in one buffer for each of the two networks."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, directions: Tensor, gains: Tensor, targets: Targets, tau: float, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        told = targets.scores
        wants = any(ctx.needs_input_grad)
        rows, u, told_u = _operand(vectors), _operand(directions), _operand(told.directions)  # while autocast is on
        with no_autocast(vectors):
            length, told_scale = _lengths(directions), _scale(told.directions, told.gains)
            scale, dtype = full(gains)[:, 0] / length, full(vectors[:0]).dtype
            entropies = torch.empty(weights.shape, dtype=dtype, device=vectors.device)
            d_vectors = torch.zeros(vectors.shape if wants else (0,), dtype=dtype, device=vectors.device)
            m = torch.empty(u.shape if wants else (0,), dtype=dtype, device=vectors.device)
            for part in _chunks(len(told.vectors) + len(rows), rows.shape[1], len(u), rows):
                v, share = rows[:, part], weights[..., part].to(dtype)  # (S, g, d), (T, S, g)
                probs = targets.softmax(told.vectors[:, part], told_u, told_scale)
                logits = full(v @ u.T).mul_(scale)
                agreement = torch.einsum("tgk,sgk->tsg", probs, logits)
                soft, normaliser = _softmax(logits, tau)
                entropies[..., part] = normaliser - agreement / tau
                if wants:
                    fall = soft.mul_(share.sum(dim=0)[..., None] / tau)  # dloss/dz (S, g, K)
                    for p, of_view in zip(probs, share, strict=True):
                        fall.addcmul_(of_view[..., None], p, value=-1 / tau)
                    d_vectors[:, part] = full((fall * scale).to(u.dtype) @ u)
                    _add_outer(m, fall.div_(length).to(u.dtype), v, first=part.start == 0)
            loss = (weights.to(dtype) * entropies).sum()
            d_gains = _turn(m, directions, length) if wants else m
        ctx.save_for_backward(d_vectors.to(vectors.dtype), m, gains, d_gains.to(gains.dtype))
        ctx.mark_non_differentiable(entropies)
        return loss, entropies

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*_scaled(grad, *ctx.saved_tensors), None, None, None)


def _scaled(grad: Tensor, d_vectors: Tensor, m: Tensor, gains: Tensor, d_gains: Tensor) -> tuple[Tensor, ...]:
    """Gradients of vectors, directions and gains, from those of a loss of gradient 1; m is what `_turn` left."""
    return grad * d_vectors, (m * (grad * gains)).to(gains.dtype), grad * d_gains


def _lengths(directions: Tensor) -> Tensor:
    """|u_k| (K,), never 0."""
    return torch.linalg.vector_norm(full(directions), dim=-1).clamp_min(EPS)


def _scale(directions: Tensor, gains: Tensor) -> Tensor:
    """g_k / |u_k| (K,), which makes logits of products with the directions."""
    return full(gains.detach())[:, 0] / _lengths(directions.detach())


def _turn(m: Tensor, directions: Tensor, length: Tensor) -> Tensor:
    """Take from m (K, d), in its place, what runs along the directions; returns <u_k, m_k> (K, 1), dH/dg."""
    u = full(directions)
    along = torch.bmm(m[:, None], u[:, :, None])[:, 0]  # a third of linalg.vecdot's time on a CPU
    m.addcmul_(u, along / length[:, None].square(), value=-1)
    return along


class _Disagreement(torch.autograd.Function):
    """sum_mk <a_m, w_k>^2 = <A'A, W'W> for A (M, d), without logits: products of (d, d) with the prototypes."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, directions: Tensor, gains: Tensor) -> Tensor:
        with no_autocast(vectors):
            a, length = full(vectors), _lengths(directions)
            w = full(directions) * _scale(directions, gains)[:, None]
            of_vectors, of_prototypes = a.T @ a, w.T @ w
            m = (w @ of_vectors).mul_(2 / length[:, None])
            total = (of_vectors * of_prototypes).sum()
            d_vectors, d_gains = 2 * a @ of_prototypes, _turn(m, directions, length)
        ctx.save_for_backward(d_vectors.to(vectors.dtype), m, gains, d_gains.to(gains.dtype))
        return total

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return _scaled(grad, *ctx.saved_tensors)


def _operand(x: Tensor) -> Tensor:
    """What enters a matrix product: in autocast's type, where it is on, as a linear layer's input would be."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _softmax(logits: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """softmax(z / tau) in the place of the logits z, and logsumexp(z / tau) without the last axis."""
    highest = logits.amax(dim=-1, keepdim=True)
    sums = logits.sub_(highest).div_(tau).exp_().sum(dim=-1, keepdim=True)
    return logits.div_(sums), (highest / tau + sums.log()).squeeze(-1)


def _add_outer(total: Tensor, soft: Tensor, vectors: Tensor, *, first: bool = False) -> None:
    """Add the sum over rows of soft_k * v_d, (..., K) and (..., d), to a total (K, d), which the first one starts."""
    left, right = soft.flatten(0, 1).T, vectors.flatten(0, 1).to(soft.dtype)
    if total.dtype == soft.dtype:
        total.addmm_(left, right, beta=0 if first else 1)
    elif first:
        total.copy_(left @ right)
    else:
        total += left @ right


def _chunks(views: int, things: int, n_prototypes: int, like: Tensor) -> list[slice]:
    """Slices of the things, so that the logits of all views of a slice fill a chunk; at least one, be it empty."""
    budget = CHUNK_BYTES.get(like.device.type, OTHER_CHUNK_BYTES)
    size = max(budget // (views * n_prototypes * full(like[:0]).element_size()), 1)
    return [slice(first, min(first + size, things)) for first in range(0, max(things, 1), size)]
