import subprocess
import sys
from pathlib import Path

from components.common import hashing, outputs

ROOT = Path(__file__).resolve().parents[2]


def tree(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


FILES = {"a/x": b"1", "a/y": b"2", "b": b"3"}


def test_the_hash_knows_names_and_contents_only(tmp_path):
    first = hashing.tree_hash(tree(tmp_path / "one", FILES))
    assert hashing.tree_hash(tree(tmp_path / "two", dict(reversed(FILES.items())))) == first
    tree(tmp_path / "two", {"a/.z.partial": b"half", "a/__pycache__/x.pyc": b"c"})
    assert hashing.tree_hash(tmp_path / "two") == first
    for changed in ({**FILES, "b": b"4"}, {"a/x": b"1", "a/y": b"2", "c": b"3"}, {"a/x": b"12", "a/y": b"", "b": b"3"}):
        assert hashing.tree_hash(tree(tmp_path / str(len(list(tmp_path.iterdir()))), changed)) != first


def test_a_link_back_is_no_endless_walk(tmp_path):
    folder = tree(tmp_path / "one", FILES)
    before = hashing.tree_hash(folder)
    (folder / "a" / "loop").symlink_to(folder)
    assert hashing.tree_hash(folder) == before


def test_an_unreadable_file_counts_by_its_name(tmp_path):
    folder = tree(tmp_path / "one", FILES)
    (folder / "b").chmod(0)
    tmp_path.chmod(0o755)
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from pathlib import Path; from components.common.hashing import tree_hash\n"
        "if os.geteuid() == 0: os.setuid(65534)  # somebody who may not read it\n"
        "print(tree_hash(Path('.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert len(done.stdout.strip()) == hashing.HEX_DIGITS, done.stderr


def test_code_is_python_files_only(tmp_path):
    package = tree(tmp_path / "p", {"a.py": b"x = 1", "notes.txt": b"1"})
    before = hashing.code_hash([package])
    tree(package, {"notes.txt": b"2", "a.pyc": b"3"})
    assert hashing.code_hash([package]) == before
    tree(package, {"a.py": b"x = 2"})
    assert hashing.code_hash([package]) != before


def test_a_marker_spares_the_hashing_until_something_is_added_or_taken(tmp_path):
    folder = tree(tmp_path / "one", FILES)
    plain = hashing.tree_hash(folder)
    outputs.mark(folder, "download", "data")
    assert outputs.content_hash(folder) == hashing.tree_hash(folder) == plain
    tree(folder, {"b": b"4"})  # same size: believed, as DVC tracks it
    assert outputs.content_hash(folder) == plain
    tree(folder, {"c": b"new"})
    assert outputs.content_hash(folder) == hashing.tree_hash(folder) != plain
    (folder / outputs.MARKER).write_text("not json")
    assert outputs.content_hash(folder) == hashing.tree_hash(folder)
