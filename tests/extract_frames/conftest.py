import pytest

from tests.extract_frames.clips import Extraction, numbered


@pytest.fixture
def extraction(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    (tmp_path / "videos").mkdir()
    return Extraction(tmp_path)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Two seconds, 25 frames a second, numbered."""
    return numbered(tmp_path_factory.mktemp("clip") / "clip.mp4", "-movflags", "+faststart")
