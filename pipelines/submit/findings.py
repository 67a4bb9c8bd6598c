"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """An `error` keeps the run from succeeding; a `warning` may. `do` says what the reader can do about it."""

    level: Literal["error", "warning"]
    text: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.do})" if self.do else self.text


def error(text: str, do: str = "") -> Finding:
    return Finding("error", text, do)


def warning(text: str, do: str = "") -> Finding:
    return Finding("warning", text, do)
