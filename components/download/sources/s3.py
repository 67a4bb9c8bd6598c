"""s3://: objects and prefixes of any S3-speaking server, in parts, resumable part by part (components/common/s3)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from components.common.errors import StageError
from components.common.progress import Progress
from components.common.s3.fetch import fetch
from components.common.s3.fetch import fetch_all as fetch_objects
from components.common.s3.params import GIB
from components.common.s3.params import S3Params as StoreParams
from components.common.s3.store import Object, Store
from components.download.config import ManyParams, S3Params
from components.download.space import check_space


def open_store(params: S3Params | ManyParams) -> Store:
    """The store that a source names; credentials come from the environment, as boto3 finds them."""
    given = params.model_dump(include={"endpoint_url", "region", "part_mib", "workers"})
    patience = params.transfer.model_dump(include={"timeout_s", "retries", "backoff_s"})
    return Store(StoreParams.model_validate({**given, **patience}))


def listing(store: Store, url: str, max_gib: float) -> list[tuple[Object, Path]]:
    """(object, path below the dataset) of one object, or of everything below a prefix that ends in a slash.

    Raises:
        StageError: no such bucket or object, no access, nothing below the prefix, a key that leaves the folder, an
            object larger than `max_gib`.
    """
    bucket = url.removeprefix("s3://").rstrip("/")
    if url.endswith("/") or "/" not in bucket:
        prefix = f"{url.rstrip('/')}/"
        found = [(obj, _below(obj, prefix)) for obj in store.listing(prefix)]
    else:
        alone = store.head(url)
        if alone is None:
            raise StageError("no such object", where=url)
        found = [(alone, Path(PurePosixPath(alone.key).name))]
    if not found:
        raise StageError("nothing below this prefix", where=url)
    for obj, _ in found:
        if obj.size > max_gib * GIB:
            raise StageError(f"larger than transfer.max_gib = {max_gib:g}", where=obj.address)
    return found


def _below(obj: Object, prefix: str) -> Path:
    below = PurePosixPath(obj.address.removeprefix(prefix))
    if below.is_absolute() or ".." in below.parts:
        raise StageError(f"refused the key '{obj.key}', its path leaves the folder", where=prefix)
    return Path(below)


def fetch_one(params: S3Params | ManyParams, url: str, target: Path, parts: Path) -> None:
    """Fetch one object to `target`."""
    store = open_store(params)
    ((obj, _),) = listing(store, url, params.transfer.max_gib)
    fetch(store, obj, target, parts)


def fetch_all(params: S3Params, tree: Path, parts: Path, progress: Progress) -> None:
    """Fetch an object or a prefix into `tree`; what an earlier, killed call has fetched is not fetched again."""
    store = open_store(params)
    found = listing(store, params.url, params.transfer.max_gib)
    check_space(sum(obj.size for obj, below in found if not (tree / below).exists()), 0, tree)
    progress.total = len(found)
    wanted = [(obj, tree / below) for obj, below in found]
    fetch_objects(store, wanted, parts, lambda obj: progress.update(1, MiB=obj.size >> 20))
