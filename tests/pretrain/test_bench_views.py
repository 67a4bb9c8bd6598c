"""The bench of the loader runs from a bare machine's means (a drawn video) and measures what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_bench_compares_with_the_reference(tmp_path: Path) -> None:
    """On a drawn video, so without the floor's eight: that is for real frames and an idle machine (`--check`)."""
    command = [sys.executable, "-m", "bench.views", "--videos", str(tmp_path), "--rounds", "3", "--batch", "16"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ratio = re.search(r"store to batch: ([\d.]+) times the reference", said)
    assert ratio and float(ratio[1]) > 4
    rates = dict(re.findall(r"^  ([a-z ]+?) +(\d+)$", said, re.MULTILINE))
    assert int(rates["read"]) > int(rates["decode"]) > int(rates["store to batch"]) > int(rates["reference"]) > 0
