"""Shared by the trainer's tests: helpers beside them can be imported, and each test leaves no global state."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Frame store and index of four drawn videos."""
    from corpus import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))
