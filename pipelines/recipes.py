"""`make recipes`: every recipe, what it learns from, and what it takes by the forecast: images, operations, storage.

Sizes of published datasets are those of their cards where no folder is here to be counted. A recipe whose data nobody
can know says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from components.common.errors import ExitCode, StageError
from components.common.stage import parse_change
from pipelines.forecast.plan import Run, forecast
from pipelines.forecast.rates import Rates, read_rates
from pipelines.forecast.show import size
from pipelines.workspace import merged_params, recipe_file, recipe_names

HEAD = ("recipe", "learns from", "methods", "judged by", "images", "operations", "storage")


class Row(NamedTuple):
    """A recipe; `images`: frames shown in training, over all methods; `flops`: of forward and backward; in bytes."""

    name: str
    corpus: str
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    images: float | None
    flops: float | None
    storage: float | None
    why: str = ""

    def cells(self) -> tuple[str, ...]:
        """For a terminal."""
        methods = ", ".join(name for name in self.methods if name != "random") or "random"
        told = (
            ("-", "-", self.why)
            if self.why
            else (_short(self.images), f"{self.flops:.2g} FLOP", size(self.storage or 0))
        )
        return (self.name, self.corpus, methods, ", ".join(self.tasks), *told)


def _short(count: float | None) -> str:
    for unit in ("", " k", " M", " G"):
        if (count := count or 0.0) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g} T"


def rows(changes: list[dict[str, Any]], rates: Rates) -> list[Row]:
    """All recipes that train something, in the order of their names."""
    documents = {name: merged_params(recipe_file(name), changes) for name in recipe_names()}
    return [_row(name, params, rates) for name, params in documents.items() if _whole(params)]


def _whole(params: Mapping[str, Any]) -> bool:
    """Not a part for others to build on: its corpora are among its datasets."""
    return all(corpus in params["datasets"] for corpus in params["corpora"])


def _row(name: str, params: Mapping[str, Any], rates: Rates) -> Row:
    facts = (name, str(params["corpus"]), tuple(params["methods"]), tuple(params["tasks"]))
    try:
        run = forecast(params, rates)
    except StageError as error:
        return Row(*facts, None, None, None, error.what)
    return Row(*facts, _images(run), sum(work.flops for work in run.work.values()), _storage(run))


def _images(run: Run) -> float:
    work = {name: run.work[f"pretrain@{name}"] for name in run.counts}
    return sum(run.counts[name].frames * float(found.facts["samples"]) for name, found in work.items())


def _storage(run: Run) -> float:
    return sum(out.bytes for work in run.work.values() for out in work.outs.values())


def table(found: list[Row]) -> str:
    """Rows for a terminal."""
    cells = [HEAD, *(row.cells() for row in found)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(HEAD) - 1)]
    lines = ("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.recipes", description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one parameter of all")
    args = parser.parse_args(argv)
    try:
        print(table(rows([parse_change(text) for text in args.set], read_rates([], None))))
    except StageError as error:
        print(f"recipes: {error}", file=sys.stderr)
        return int(error.code)
    print("\nmake repro RECIPE=name runs one; python -m pipelines.forecast --recipe name tells its time")
    return int(ExitCode.OK)


if __name__ == "__main__":
    raise SystemExit(main())
