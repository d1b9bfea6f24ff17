"""Manifests in CSV and JSON lines, and errors that name the line."""

from __future__ import annotations

import json

import pytest

from blemish.data.datasets import DataSet, Manifest, open_dataset
from blemish.errors import DataError
from tests.images import touch


def names(samples):
    return [sample.path.name for sample in samples]


def manifest(tmp_path, text, name="list.csv"):
    touch(tmp_path, "a.png", "b.png", "c.png", "m.png", "sub/d é.png")
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_manifest_of_csv(tmp_path):
    path = manifest(
        tmp_path,
        "\ufeffPath,Split,Defect,Mask\na.png,train,good,\n\nb.png,test,crack,m.png\nc.png,,,\nsub/d é.png,test,,\n",
    )
    parts = Manifest(path)
    assert isinstance(parts, DataSet)
    assert parts.name == "list"
    assert names(parts.train) == ["a.png", "c.png"]
    assert [(sample.path.name, sample.defect, sample.mask_path) for sample in parts.test] == [
        ("b.png", "crack", tmp_path / "m.png"),
        ("d é.png", "good", None),
    ]
    assert repr(parts).endswith("2 to train, 1 good and 1 defective to test")


def test_manifest_of_a_spreadsheet_with_semicolons_and_labels_of_0_and_1(tmp_path):
    parts = Manifest(manifest(tmp_path, "path;label\na.png;0\nb.png;1\nc.png;scratch\n"))
    assert names(parts.train) == ["a.png"]
    assert [sample.defect for sample in parts.test] == ["defect", "scratch"]


def test_labels_of_good_images_as_tables_write_them(tmp_path):
    text = "path,label,split\na.png,0.0,Training\nb.png,PASS,TEST\nc.png,1.0,test\nm.png,n.i.O.,test\n"
    parts = Manifest(manifest(tmp_path, text))
    assert names(parts.train) == ["a.png"]
    assert [sample.defect for sample in parts.test] == ["good", "defect", "n.i.O."]


@pytest.mark.parametrize(
    "name", ["ng/0.png", "a_rejected.png", "masks/0.png", "good/unsure/0.png", "good\\Ausschuss\\0.png"]
)
def test_a_path_that_says_not_good_needs_a_label(name, tmp_path):
    touch(tmp_path, name)
    with pytest.raises(
        DataError, match=r"^defect: expected a label, for '.*' is in the path, got none, in .*line 3\. Add a col"
    ):
        Manifest(manifest(tmp_path, f"path\na.png\n{name}\n"))
    stated = Manifest(manifest(tmp_path, f"path,label\na.png,ok\n{name},ok\n"))  # the list states it: that holds
    assert len(stated.train) == 2


def test_several_masks_of_one_image(tmp_path):
    touch(tmp_path, "masks/b/0.png", "masks/b/1.png")
    parts = Manifest(
        manifest(tmp_path, "path,defect,mask\na.png,,\nb.png,cut,masks/b\nc.png,cut,m.png|masks/b/0.png\n")
    )
    assert [[path.name for path in sample.mask_paths] for sample in parts.test] == [
        ["0.png", "1.png"],
        ["m.png", "0.png"],
    ]
    rows = [{"path": "a.png"}, {"path": "c.png", "defect": "cut", "mask": ["m.png", "masks/b/1.png"]}]
    parts = Manifest(manifest(tmp_path, "\n".join(map(json.dumps, rows)), "list.jsonl"))
    assert [path.name for path in parts.test[0].mask_paths] == ["m.png", "1.png"]


def test_manifest_of_json_lines(tmp_path):
    rows = [
        {"path": "a.png"},
        {"path": "b.png", "label": 1, "defect": "hole", "mask": "m.png"},
        {"path": "c.png", "label": True},
    ]
    parts = open_dataset(manifest(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n", "list.jsonl"))
    assert isinstance(parts, Manifest)
    assert names(parts.train) == ["a.png"]
    assert [sample.defect for sample in parts.test] == ["hole", "defect"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", r"^manifest: expected the columns path and .* got nothing, in .*list\.csv, line 1\."),
        ("file,label\na.png,0", r"^manifest: expected the columns path and .* got file, label, in .*line 1\."),
        ("path,path\na.png,a.png", r"^manifest: expected the columns"),
        ("path\n", r"^manifest: expected good images of split train, got no lines, in .*list\.csv\."),
        ("path,split\na.png,test", r"^manifest: expected good images of split train, got 1 lines without one"),
        ("path,mask\na.png", r"^manifest: expected 2 values, got 1 values, in .*list\.csv, line 2\."),
        (
            "path\na.png\nzz.png",
            r"^path: expected a file that exists, got 'zz\.png', in .*line 3\. Names are relative to ",
        ),
        (
            "path\na.png\na.png",
            r"^manifest: expected each image once, got .*a\.png again, after line 2, in .*line 3\.",
        ),
        ("path,defect\n,good", r"^path: expected the name of an image, got nothing, in .*line 2\."),
        ("path,split\na.png,val", r"^split: expected \"train\" or \"test\", got 'val', in .*line 2\."),
        (
            "path,split,defect\na.png,train,crack",
            r"^split: expected test for a defective image, got train, .*line 2\.",
        ),
        (
            "path,label,defect\na.png,0,crack",
            r"^label: expected the same as defect, got 'crack' and '0', in .*line 2\.",
        ),
        ("path,mask,defect\na.png,zz.png,x", r"^mask: expected a file that exists, got 'zz\.png', in .*line 2\."),
        (
            "path,label\na.png,unknown",
            r"^label: expected \"good\" or the name of a defect, got 'unknown', in .*line 2\.",
        ),
        ("path,label\na.png,-1", r"^label: expected \"good\" or the name of a defect, got -1, in .*line 2\. Write"),
        ("path,defect\na.png,nan", r"^label: expected \"good\" or the name of a defect, got 'nan', in .*line 2\."),
        ("path,defect,mask\na.png,x,m.png|q.png", r"^mask: expected a file that exists, got 'q\.png', in .*line 2\."),
        ('path\n"a.png\n', r"^manifest: expected CSV, got .*, in .*list\.csv, line 2\."),
        ("path\na\0b.png", r"^path: expected a file that exists|^manifest: expected CSV"),
    ],
)
def test_manifest_errors_name_the_line(text, error, tmp_path):
    with pytest.raises(DataError, match=error):
        Manifest(manifest(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", r"^manifest: expected one JSON object a line, got .*list\.jsonl, line 1\."),
        ('{"path": "a.png", "label": "good", "label": "x"}', r"a line, got the key 'label' twice, in .*line 1\."),
        ("[1]", r"^manifest: expected a JSON object, got list, in .*line 1\."),
        ('{"path": "a.png"}\n{"path": 3}', r"^path: expected the name of a file, got 3, in .*line 2\."),
        (
            '{"path": "a.png", "label": 0.5}',
            r"^label: expected \"good\" or the name of a defect, got 0\.5, in .*line 1\.",
        ),
        ('{"path": "a.png", "split": 1}', r"^split: expected \"train\" or \"test\", got 1, in .*line 1\."),
        ("[" * 100_000, r"^manifest: expected one JSON object a line, got "),
    ],
)
def test_json_manifest_errors_name_the_line(text, error, tmp_path):
    with pytest.raises(DataError, match=error):
        Manifest(manifest(tmp_path, text, "list.jsonl"))


def test_a_manifest_that_is_not_text(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"^manifest: expected a UTF-8 text file, got .*not UTF-8.*, in .*list\.csv"):
        Manifest(path)
