"""Loose files: the samples and classes that torchvision's ImageFolder would give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iopipe.errors import DataError, IopipeError
from iopipe.readers import OpenOptions, open_source
from iopipe.storage import PosixStore


def _image_folder(root: Path) -> list[tuple[str, int]]:
    """ImageFolder's own walk: classes sorted; below each, folders as os.walk sorted gives."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    found = []
    for label, name in enumerate(classes):
        for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
            for file in sorted(files):
                if file.lower().endswith((".jpg", ".jpeg", ".png")):
                    found.append((os.path.join(folder, file), label))
    return found


def _make(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    return root


def test_classes_and_order_are_those_of_image_folder(tmp_path: Path) -> None:
    names = ["dog/b.jpg", "dog/a.JPEG", "cat/z.jpg", "cat/deep/a.jpg", "cat/note.txt", "ant/1.jpg"]
    source = open_source(_make(tmp_path / "f", [*names, "cat/.hidden.jpg"]))
    samples = source.samples(range(len(source)), PosixStore())
    expected = _image_folder(tmp_path / "f")
    expected = [(path, label) for path, label in expected if "/." not in path]
    assert [bytes(content) for content in samples.columns["jpg"]] == [
        Path(path).read_bytes() for path, _ in expected
    ]
    assert samples.columns["cls"].tolist() == [  # type: ignore[union-attr]
        label for _, label in expected
    ]
    assert samples.keys[0] == "ant/1"
    assert source.classes == ("ant", "cat", "dog")  # type: ignore[attr-defined]
    assert sum(part.length for part in source.ranges(range(5))) == 5


def test_plain_files_are_grouped_by_their_stem(tmp_path: Path) -> None:
    source = open_source(_make(tmp_path / "f", ["b.txt", "b.json", "a.json", "a.txt"]))
    assert (len(source), source.columns) == (2, ("json", "txt"))
    samples = source.samples([1, 0], PosixStore())
    assert samples.keys == ["b", "a"]
    assert [bytes(text) for text in samples.columns["txt"]] == [b"0", b"3"]
    (tmp_path / "f" / "c.txt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no c\.json beside it"):
        open_source(tmp_path / "f")


def test_a_class_may_stand_in_a_plain_file(tmp_path: Path) -> None:
    source = open_source(_make(tmp_path / "f", ["a.mp4", "a.cls", "b.cls", "b.mp4"]))
    assert source.columns == ("cls", "mp4")
    samples = source.samples([0, 1], PosixStore())
    assert [bytes(raw) for raw in samples.columns["cls"]] == [b"1", b"2"]
    assert [bytes(raw) for raw in samples.columns["mp4"]] == [b"0", b"3"]


def test_videos_count_where_there_are_no_images(tmp_path: Path) -> None:
    root = _make(tmp_path / "f", ["run/b.mp4", "run/a.MP4", "jump/c.mp4", "jump/note.txt"])
    source = open_source(root)
    samples = source.samples(range(3), PosixStore())
    assert (source.columns, samples.keys) == (("mp4", "cls"), ["jump/c", "run/a", "run/b"])
    assert samples.columns["cls"].tolist() == [0, 1, 1]  # type: ignore[union-attr]
    _make(root, ["run/d.webm"])
    assert open_source(root).columns == ("video", "cls")
    _make(root, ["run/thumbnail.jpg"])
    assert (len(open_source(root)), open_source(root).columns) == (1, ("jpg", "cls"))


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = _make(tmp_path / "f", ["a/1.jpg"])
    (root / "a" / "2.jpg").symlink_to(root / "a" / "1.jpg")
    assert len(open_source(root)) == 2
    (root / "a" / "3.jpg").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="leads out"):
        open_source(root)


def test_damage_is_named(tmp_path: Path) -> None:
    root = _make(tmp_path / "f", ["a/1.jpg", "a/2.jpg"])
    source, store = open_source(root), PosixStore()
    (root / "a" / "2.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2\.jpg.*empty") as caught:
        source.samples([0, 1], store)
    assert caught.value.row == 1 and caught.value.key == "a/2"
    (root / "a" / "2.jpg").unlink()
    with pytest.raises(IopipeError, match="gone"):
        source.samples([1], store)
    limited = open_source(root, options=OpenOptions(max_sample_bytes=0))
    with pytest.raises(DataError, match="allowed are 0"):
        limited.samples([0], store)
    (root / "notes.md").write_text("x")
    with pytest.raises(DataError, match="1 files and 1 folders"):
        open_source(root)


def test_ten_thousand_files_are_listed_without_a_look_at_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2000):
        path = tmp_path / "f" / f"c{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    calls = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: calls.append(a) or stat(*a, **k))  # type: ignore[func-returns-value]
    assert len(open_source(tmp_path / "f")) == 2000
    assert len(calls) < 100
