"""Roles by the words of names, in several languages, and classes of labels."""

from __future__ import annotations

import unicodedata

import pytest

from blemish.data.roles import has_only_class_words, label_class, mask_stem, split_of, tell
from blemish.errors import DataError

KINDS = {
    "good": (
        "good Good OK ok test_OK Normal PASS accepted gut gut-teile i.O. bonnes conforme buenos buone dobre "
        "iyi goed хорошие 良品 正常图像 合格 无缺陷 欠陥なし 양품 결함없음 no_defect defect-free scratch-free "
        "sin_defectos fehlerfrei ohne_Fehler good12 no12_good IO-Teile OK品 ok图片 没问题 良い godkända hyvät добрі "
        "tốt bagus ดี bez_wad good_old part_no_5_ok"
    ),
    "defective": (
        "bad NG nok ko not_ok NotOK no_good Rejected Anomaly abnormal defects def_front FAIL Ausschuss Fehler "
        "defekt n.i.O. NIO défauts rechazados scarti refugo wadliwe hatal\u0131 дефект 不良品 不合格 缺陷图 異常 "
        "欠陥 불량 broken_large scratch big_hole badparts ngimages notgood Fehlerbilder missing_parts dañado "
        "Kratzer non-conforming NIO-Teile n.i.O.-Teile NG品 NG图片 NG이미지 悪い 不可 有问题 voids underkänd fejl "
        "vialliset hibás погані lỗi không_đạt cacat ของเสีย معيب פגום z_wadami Fehlteile nonconformities"
    ),
    "mask": (
        "mask masks Masks gt GT ground-truth Ground_Truth groundTruth labels Label annotations gt_images "
        "masques máscaras Masken bottle_masks defect_masks good_masks train_labels 标注 マスク segmentation"
    ),
    "derived": "heatmaps thumbnails thumbs overlay Vorschau",
    "unclear": (
        "positive Negative unsure unknown ok_ng good_vs_bad unsorted rework 待定 yes no Ja nein да 是 RMA hold_2 mixed "
        "not-so-good almost_good good-not-used maybe_ok 良否 返工"
    ),
    "": (
        "monday cam1 2024-11-29 image Data hole_plate normalize badge goodyear label_printer print_head io_board "
        "defect_detection "
        "customer_returns hold_down_clamp y no_7 "
        "anomaly-detection surface_defect_dataset protest lösung 0 1 pos1 part_0003 shift"
    ),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for kind, names in KINDS.items() for name in names.split()])
def test_the_role_of_a_name(name: str, kind: str) -> None:
    said = tell(name)
    assert (said.kind if said else "") == kind


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("name", "kind"), [("défauts", "defective"), ("Prüfung_defekt", "defective"), ("불량", "defective")]
)
def test_composed_and_decomposed_letters_are_one_name(name: str, kind: str, form: str) -> None:
    said = tell(unicodedata.normalize(form, name))  # type: ignore[arg-type]
    assert said is not None
    assert said.kind == kind


def test_splits() -> None:
    names = ("train", "Training", "test_public", "Test", "val", "训练", "attest", "train_test")
    assert [split_of(name) for name in names] == [
        "train", "train", "test", "test", "validation", "train", None, None,
    ]  # fmt: skip


def test_only_class_words() -> None:
    assert all(map(has_only_class_words, ("ng", "not ok", "Bad images", "masks", "i.O.")))
    assert not any(map(has_only_class_words, ("ng_2024", "scratch", "line1", "anomaly_detection")))


@pytest.mark.parametrize("label", ["0", "0.0", "0e0", "PASS", "Good", "false", "i.O.", "no defect", "良品", " ok "])
def test_labels_of_good_images(label: str) -> None:
    assert label_class(label) == "good"


@pytest.mark.parametrize("label", ["1", "1.0", "2", "true", "NG", "scratch", "n.i.O.", "not ok", "type 7", "不良"])
def test_labels_of_defective_images(label: str) -> None:
    assert label_class(label) == "defective"


@pytest.mark.parametrize(
    "label", ["unknown", "positive", "-1", "0.5", "nan", "None", "?", "", "ok/ng", "no", "Yes", "Nein", "hold"]
)
def test_labels_that_say_neither_are_refused(label: str) -> None:
    with pytest.raises(
        DataError, match=r'^label: expected "good" or the name of a defect, got .*, in line 3\. Write "good"'
    ):
        label_class(label, where="line 3")


def test_the_image_of_a_mask_by_its_name() -> None:
    stems = (
        "000_mask",
        "Part0_label",
        "10000_GT",
        "a.b-seg",
        "7_mask_2",
        "7 masks",
        "000",
        "label_7",
        "7mask",
        "mask",
        "smask",
    )
    assert [mask_stem(stem) for stem in stems] == ["000", "Part0", "10000", "a.b", "7", "7", None, "7", "7", None, None]
