"""What unpacking alone does not do: steps that a card names, on our own copy of the dataset."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from components.common.context import Context
from components.download.cards import Card


def arrange(root: Path, tree: Path, card: Card, ctx: Context) -> None:
    """Run the card's steps; each finds out whether there is anything to do, and says what it did.

    Args:
        root: the dataset's folder; `tree`: all that was fetched, which may hold more beside it.
    """
    for step in card.steps:
        run: Callable[[Path, Path], str] = import_module(f"components.download.arrange.{step}").arrange
        if done := run(root, tree):
            ctx.log(done)
