"""A dataset's own addresses, as its card names them, or a mirror's."""

from __future__ import annotations

from pathlib import Path

from components.common.errors import StageError
from components.common.progress import Progress
from components.download.archives import TAR_ENDINGS
from components.download.cards import Card
from components.download.config import Address, PublishedParams
from components.download.sources import http, listing
from components.download.space import check_space

GB = 10**9


def fetch_all(params: PublishedParams, card: Card, tree: Path, parts: Path, progress: Progress) -> list[dict[str, str]]:
    """Fetch the card's files, or what its list names, into `tree`; returns dead addresses with their reasons.

    Raises:
        StageError: the card has no addresses, the disk lacks room, or a transfer fails.
    """
    if not card.files and card.names is None:
        do = f"{card.fetch}; then name the folder: path: DIR"
        raise StageError(f"nobody can fetch '{params.card}' by itself", where=card.page, do=do)
    addresses = [_at_mirror(file, params.mirror) for file in card.files]
    _check_room(params, card, addresses, tree)
    progress.total = len(addresses)
    http.fetch_all(addresses, tree, parts, params.transfer, progress)
    if card.names is None:
        return []
    file = parts / "names.txt"
    if not file.exists():
        http.fetch(_at_mirror(Address(url=card.names), params.mirror).url, file, parts, params.transfer)
    wanted = params if params.only else params.model_copy(update={"only": card.only})
    return listing.fetch_all(wanted, file, tree, parts, progress)


def _at_mirror(file: Address, mirror: str | None) -> Address:
    if mirror is None:
        return file
    return file.model_copy(update={"url": f"{mirror.rstrip('/')}/{http.file_name(file.url)}"})


def _check_room(params: PublishedParams, card: Card, addresses: list[Address], tree: Path) -> None:
    """By the sizes that the servers tell; by the card where they tell none."""
    todo = [file for file in addresses if not (tree / http.file_name(file.url)).exists()]
    sizes = [http.size_of(file.url, params.transfer) for file in todo]
    told = sum(size for size in sizes if size is not None)
    if (todo and None in sizes) or card.names is not None:
        told = max(told, round(card.disk.before_gb * GB))
    share = card.disk.after_gb / card.disk.before_gb if card.disk.before_gb else 1.0
    packed = any(file.url.lower().endswith((*TAR_ENDINGS, ".zip")) for file in todo) and params.unpack.enabled
    check_space(told, round(told * share) if packed else 0, tree)
