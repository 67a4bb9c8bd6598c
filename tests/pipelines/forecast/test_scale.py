"""docs/scale.md holds what the command prints, and the tables hold what forecasts say."""

from __future__ import annotations

import pytest

from pipelines.forecast.breaks import checks, first_above
from pipelines.forecast.rates import read_rates
from pipelines.forecast.scale import Scale, tables
from pipelines.workspace import ROOT

RATES = read_rates()


@pytest.mark.parametrize("name", ["frames", "index", "copies", "gpu", "breaks"])
def test_the_page_holds_the_tables_as_they_are_now(name: str) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = page.split(f"<!-- forecast: {name} -->\n")[1].split("\n<!-- end -->")[0]
    assert shown == tables(RATES)[name], "run `python -m pipelines.forecast --scale` and put its tables into the page"


def test_every_limit_is_reached_where_the_table_says() -> None:
    scale = Scale(RATES)
    for check in checks(RATES, scale.benchmarks):
        n = first_above(scale.of, check.value, check.most)
        assert check.value(scale.of(n)) > check.most
        assert check.value(scale.of(n - max(1, n // 500))) <= check.most


def test_everything_grows_with_the_corpus() -> None:
    scale = Scale(RATES)
    small, large = scale.of(1_000), scale.of(100_000)
    assert large.frames.n == 100 * small.frames.n
    assert large.index.folder.bytes == pytest.approx(100 * small.index.folder.bytes, rel=0.15)  # less the small files
    assert large.frames.store.bytes == pytest.approx(100 * small.frames.store.bytes, rel=1e-3)
