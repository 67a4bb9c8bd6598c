"""docs/scale.md's tables."""

from pipelines.forecast.rates import Rates


def page(rates: Rates) -> str:
    return ""
