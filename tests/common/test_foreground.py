"""Foreground masks against sorting, summing and flood filling by hand."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.common.foreground import blur, foreground, without_specks

GRID = (6, 7)


def naive_blur(image: list[list[float]]) -> list[list[float]]:
    """7x7 Gaussian of sigma 0.6, mirrored at the borders without repeating them."""
    weight = [math.exp(-0.5 * (x / 0.6) ** 2) for x in range(-3, 4)]
    total, height, width = sum(weight), len(image), len(image[0])

    def inside(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    return [
        [
            sum(
                weight[a + 3] * weight[b + 3] / total**2 * image[inside(y + a, height)][inside(x + b, width)]
                for a in range(-3, 4)
                for b in range(-3, 4)
            )
            for x in range(width)
        ]
        for y in range(height)
    ]


def naive_specks(mask: list[list[bool]]) -> list[list[bool]]:
    """Pieces by flood filling over 8 neighbours; those of three cells and more."""
    cells = {(y, x) for y, row in enumerate(mask) for x, on in enumerate(row) if on}
    kept: set[tuple[int, int]] = set()
    while cells:
        piece, edge = set(), [cells.pop()]
        while edge:
            y, x = edge.pop()
            piece.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & cells
            cells -= near
            edge += near
        kept |= piece if len(piece) > 2 else set()
    return [[(y, x) in kept for x in range(len(mask[0]))] for y in range(len(mask))]


def naive_foreground(attention: Tensor, mass: float) -> list[list[bool]]:
    """One image (h, N): the fewest cells that hold `mass`, from the largest down."""
    image = attention.mean(0).unflatten(0, GRID).tolist()
    seen = naive_blur(image)
    total, held, kept = sum(map(sum, seen)), 0.0, [[False] * GRID[1] for _ in range(GRID[0])]
    for value, y, x in sorted(((v, y, x) for y, row in enumerate(seen) for x, v in enumerate(row)), reverse=True):
        if held < mass * total:
            kept[y][x] = True
        held += value
    return naive_specks(kept)


def test_equals_loops() -> None:
    attention = torch.rand(8, 3, 42, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 6
    masks = foreground(attention, GRID, mass=0.65)
    for one, mask in zip(attention, masks.unflatten(-1, GRID), strict=True):
        assert mask.tolist() == naive_foreground(one, 0.65)
    assert 0 < masks.float().mean() < 0.65


def test_blur_equals_loops_and_keeps_flat_maps() -> None:
    maps = torch.rand(2, *GRID, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one, blurred in zip(maps, blur(maps), strict=True):
        torch.testing.assert_close(blurred, torch.tensor(naive_blur(one.tolist()), dtype=torch.float64))
    torch.testing.assert_close(blur(torch.ones(1, *GRID)), torch.ones(1, *GRID))


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_specks_are_pieces_of_one_or_two_cells(rows: list[list[bool]]) -> None:
    assert without_specks(torch.tensor([rows]))[0].tolist() == naive_specks(rows)


def test_a_bright_square_is_found_and_a_bright_speck_is_not() -> None:
    attention = torch.full((1, 2, 196), 1e-6)
    grid = attention.view(1, 2, 14, 14)
    grid[..., 3:7, 3:7], grid[..., 12, 12] = 1.0, 0.9
    mask = foreground(attention, (14, 14), mass=0.65).view(14, 14)
    assert mask[4:6, 4:6].all() and not mask[9:, 9:].any()
