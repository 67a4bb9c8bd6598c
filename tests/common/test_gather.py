import pytest

from components.common import hashing
from components.common.errors import StageError
from components.common.gather import gathered
from components.common.hashing import tree_hash
from components.common.outputs import content_hash, mark


@pytest.fixture
def artifacts(tmp_path):
    """Two models as DVC sees them (one folder) and as Kubeflow hands them over (each somewhere else)."""
    for place in ("together/a", "together/b", "x/1/model", "y/2/model"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "weights").write_text("a" if place.endswith("a") or place.startswith("x") else "b")
    return tmp_path


def test_artifacts_given_one_by_one_look_like_the_folder(artifacts):
    links = [f"a={artifacts}/x/1/model", f"b={artifacts}/y/2/model"]
    folder = gathered(links, "models", artifacts / "cache")
    assert sorted(entry.name for entry in folder.iterdir()) == ["a", "b"]
    assert tree_hash(folder) == tree_hash(artifacts / "together")
    assert gathered(links, "models", artifacts / "cache") == folder  # a resumed stage finds the same place
    assert (artifacts / "x/1/model/weights").read_text() == "a"


def test_a_folder_is_taken_as_it_is(artifacts):
    assert gathered([str(artifacts / "together")], "models", artifacts / "cache") == artifacts / "together"
    assert gathered(["absent"], "models", artifacts / "cache").name == "absent"
    odd = artifacts / "k=v"
    odd.mkdir()
    assert gathered([str(odd)], "models", artifacts / "cache") == odd


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (["together", "x"], "takes one folder, or NAME=PATH for each artifact, got 'together'"),
        (["a=x/1/model", "a=y/2/model"], "has two artifacts of one name"),
        (["a=x/1/model", "b=absent"], "input 'models' does not exist: absent"),
        (["../a=x/1/model"], "got '../a=x/1/model'"),
        (["..=x/1/model"], "got '..=x/1/model'"),
    ],
)
def test_what_cannot_be_one_folder_is_refused(artifacts, monkeypatch, values, line):
    monkeypatch.chdir(artifacts)
    with pytest.raises(StageError, match="models") as error:
        gathered(values, "models", artifacts / "cache")
    assert line in str(error.value)


def test_artifacts_that_need_no_names_are_numbered(artifacts):
    folder = gathered(
        [str(artifacts / "x/1/model"), str(artifacts / "y/2/model")], "parts", artifacts / "cache", named=False
    )
    assert [entry.resolve() for entry in sorted(folder.glob("0*"))] == [
        artifacts / "x/1/model",
        artifacts / "y/2/model",
    ]
    with pytest.raises(StageError, match="input 'parts' does not exist: absent"):
        gathered(["absent", "away"], "parts", artifacts / "cache", named=False)


def test_a_list_is_known_by_its_artifacts_markers_in_any_order(artifacts, monkeypatch):
    places = [artifacts / "x/1/model", artifacts / "y/2/model"]
    for place in places:
        mark(place, "stage", "model")
    monkeypatch.setattr(hashing, "tree_hash", lambda path: pytest.fail(f"{path} was read"))
    one = gathered([str(place) for place in places], "parts", artifacts / "cache", named=False)
    other = gathered([str(place) for place in places[::-1]], "parts", artifacts / "cache", named=False)
    assert one != other and content_hash(one) == content_hash(other)
    (places[0] / "weights").write_text("changed")
    monkeypatch.undo()
    again = gathered([str(place) for place in places], "parts", artifacts / "cache", named=False)
    assert content_hash(again) != content_hash(other)
