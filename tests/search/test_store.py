"""The store of defects in a folder and on a real server."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish import DefectStore, InputError, Patchcore, StoreError
from tests.images import good, scratched, small_patchcore, write
from tests.stores import Opener, blotched, filled

if TYPE_CHECKING:
    from blemish.search import RegionEncoder

# Adding


@pytest.mark.slow
def test_an_added_image_is_stored_with_all_fields(store: DefectStore, fitted: Patchcore, tmp_path: Path):
    path = write(tmp_path / "part.png", scratched(99)[0])
    added = store.add(path, label="scratch", labelled_by="Ann")
    found = fitted.predict(path)
    assert added.new == len(added.ids) == len(found.regions) == len(store)
    worst = store.get(added.ids)[0]
    region = found.regions[0]
    assert (worst.category, worst.path, worst.sha256) == ("stripes", str(path), added.sha256)
    assert (worst.box, worst.area_px, worst.score) == (region.box, region.area_px, pytest.approx(region.score))
    assert (worst.p_value, worst.label, worst.labelled_by) == (found.p_value, "scratch", "Ann")
    assert worst.time.endswith("+00:00")
    assert set(map(tuple, worst.contour)) <= set(map(tuple, region.contour))
    assert store.count(kind="image") == 1


@pytest.mark.slow
def test_adding_twice_changes_nothing_but_a_new_label(store: DefectStore):
    image = scratched(99)[0]
    first = store.add(image, label="scratch")
    before = list(store.defects())
    again = store.add(image)
    assert (again.ids, again.new) == (first.ids, 0)
    assert [one.to_dict() for one in store.defects()] == [one.to_dict() for one in before]
    assert store.add(image, label="scuff").labelled == len(first.ids)
    assert {one.label for one in store.defects()} == {"scuff"}


@pytest.mark.slow
def test_an_image_without_a_region_has_a_note_and_can_be_forced(store: DefectStore):
    image = next(p for p in map(good, range(100, 130)) if not store.encode(p).regions)
    added = store.add(image)
    assert added.ids == ()
    assert "Nothing in it is above the threshold" in added.note
    assert (len(store), store.count(kind="image")) == (0, 1)
    with pytest.raises(InputError, match=r"an anomalous region, got none: its highest value .*force"):
        store.similar(image)
    forced = store.add(image, force=True)
    assert len(forced.ids) == 1
    assert store.get(forced.ids)[0].forced


# Queries


@pytest.mark.slow
def test_a_defect_finds_its_own_type(store: DefectStore):
    filled(store)
    for kind, image in (("scratch", scratched(300)[0]), ("blotch", blotched(300))):
        found = store.similar(image, k=4)
        assert [one.defect.label for one in found] == [kind] * 4
        similarities = [one.similarity for one in found]
        assert similarities == sorted(similarities, reverse=True)
        assert store.suggest(image).label == kind


@pytest.mark.slow
def test_a_region_and_a_stored_defect_are_queries(store: DefectStore):
    filled(store)
    region = store.encode(scratched(300)[0]).regions[0]
    assert store.similar(region, k=3)[0].defect.label == "scratch"
    stored = next(one for one in store.defects() if one.label == "blotch")
    found = store.similar(stored, k=3)
    assert {one.defect.label for one in found} == {"blotch"}
    assert stored.sha256 not in {one.defect.sha256 for one in found}


@pytest.mark.slow
def test_queries_can_be_filtered(store: DefectStore):
    filled(store, 2)
    image = scratched(300)[0]
    assert {one.defect.label for one in store.similar(image, k=9, label="blotch")} == {"blotch"}
    assert store.similar(image, since="2999-01-01") == ()
    assert len(store.similar(image, k=9, since="2020-01-01")) == len(store)
    assert store.similar(image, category="tiles") == ()
    with pytest.raises(InputError, match="since: expected a time such as 2026-11-25"):
        store.similar(image, since="yesterday")
    with pytest.raises(InputError, match="k: expected a whole number from 1"):
        store.similar(image, k=0)


def test_an_empty_store_has_no_answer(store: DefectStore):
    assert store.similar(scratched(1)[0]) == ()
    suggested = store.suggest(scratched(1)[0])
    assert (suggested.label, suggested.is_novel) == (None, True)
    assert store.groups() == []


@pytest.mark.slow
def test_a_novel_defect_has_no_label(store: DefectStore):
    for seed in range(200, 224):
        store.add(scratched(seed)[0], label="scratch")
    strange = store.suggest(blotched(1))
    assert strange.is_novel
    assert strange.label is None
    assert strange.p_value == pytest.approx(1 / 25)
    usual = store.suggest(scratched(301)[0])
    assert (usual.label, usual.is_novel, usual.confidence) == ("scratch", False, 1.0)


@pytest.mark.slow
def test_groups_take_the_name_of_one_labelled_member(store: DefectStore):
    kinds: dict[str, set[str]] = {"scratch": set(), "blotch": set()}
    for seed in range(200, 204):
        kinds["scratch"] |= set(store.add(scratched(seed)[0]).ids)
        kinds["blotch"] |= set(store.add(blotched(seed)).ids)
    biggest = store.groups(least_similarity=0.9)[:2]
    assert [one.name for one in biggest] == [None, None]
    chosen = biggest[0].members[0]
    store.label([chosen.id], "known", by="Ann")
    named = next(one for one in store.groups(least_similarity=0.9) if chosen.id in {m.id for m in one.members})
    assert named.name == "known"
    assert named.n_unlabelled == len(named.members) - 1
    for one in biggest:
        assert any({m.id for m in one.members} <= kind for kind in kinds.values())


@pytest.mark.slow
def test_near_duplicates_are_found(store: DefectStore):
    image = scratched(99)[0]
    store.add(image)
    store.add(scratched(98)[0])
    brighter = np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8)
    found = store.duplicates(brighter)
    assert [one.defect.sha256 for one in found] == [store.encode(image).sha256]
    stored = next(one for one in store.defects() if one.sha256 == found[0].defect.sha256)
    assert found[0].defect.sha256 not in {one.defect.sha256 for one in store.duplicates(stored)}


def test_good_patches_show_what_it_should_look_like(store: DefectStore, good_paths: list[Path]):
    image = scratched(99)[0]
    found = store.similar_good(image, k=3)
    assert len({one.path for one in found}) == 3
    assert {one.path for one in found} <= set(map(str, good_paths))
    assert [one.distance for one in found] == sorted(one.distance for one in found)
    nearest = store.encode(image).prediction.nearest_good
    assert nearest is not None
    assert found[0].path == nearest.path


# Labels


@pytest.mark.slow
@pytest.mark.parametrize("label", ["Öl-Fleck", "検査 ✓", "a'b\"c\\d/e; DROP", "x" * 200])
def test_labels_of_any_script_come_back(store: DefectStore, label: str):
    added = store.add(scratched(99)[0])
    assert store.label(added.ids, label, by="Zoë") == len(added.ids)
    assert [one.label for one in store.defects(label=label)] == [label] * len(added.ids)
    assert store.label(added.ids[:1], None) == 1
    assert (store.get(added.ids[:1])[0].label, store.get(added.ids[:1])[0].labelled_by) == (None, None)
    assert [one.id for one in store.defects(unlabelled=True)] == list(added.ids[:1])


@pytest.mark.slow
@pytest.mark.parametrize("label", ["", "  ", "a\nb", "\udce9", "a\u202eb", "x" * 201])
def test_unreadable_labels_are_refused(store: DefectStore, label: str):
    with pytest.raises(InputError, match="label: expected"):
        store.add(scratched(99)[0], label=label)
    assert store.count(kind="image") == 0


def test_an_id_that_is_not_there_is_refused(store: DefectStore):
    with pytest.raises(InputError, match="id: expected one that is in the store"):
        store.label([str(uuid.uuid4())], "x")
    with pytest.raises(InputError, match="id: expected a UUID"):
        store.label(["part.png"], "x")


# Opening


@pytest.mark.slow
def test_a_store_is_opened_as_it_was_closed(opened: Opener, fitted: Patchcore):
    with opened() as store:
        filled(store, 2)
        before = [one.to_dict() for one in store.defects()]
        answer = [(one.defect.id, one.similarity) for one in store.similar(scratched(300)[0])]
    # The statistics of good images are in the store: from none here they could not be fitted.
    with opened(model=fitted, category=None, good=[]) as store:
        assert store.category == "stripes"
        assert [one.to_dict() for one in store.defects()] == before
        again = [(one.defect.id, one.similarity) for one in store.similar(scratched(300)[0])]
        assert again == [(i, pytest.approx(similarity)) for i, similarity in answer]


@pytest.mark.slow
def test_without_a_model_one_can_label_and_group_but_not_add(opened: Opener):
    with opened() as store:
        filled(store, 2)
    with opened(model=None, category=None) as store:
        assert store.categories == ("stripes",)
        assert store.label([one.id for one in store.defects(label="blotch")], "stain")
        assert {one.name for one in store.groups(least_similarity=0.9)} >= {"stain", "scratch"}
        assert store.similar(next(store.defects()))
        with pytest.raises(StoreError, match="model: expected one, to encode images, got none"):
            store.add(scratched(1)[0])


@pytest.mark.slow
def test_vectors_of_another_model_are_refused(opened: Opener, good_paths: list[Path]):
    with opened() as store:
        filled(store, 1)
    other = small_patchcore(seed=1).fit(good_paths)
    with opened(model=other) as store:
        with pytest.raises(StoreError, match=r"model: expected the store's, \w+, got \w+, for stripes.*reindex"):
            store.add(scratched(1)[0])
        with pytest.raises(StoreError, match="model: expected the store's"):
            store.similar(scratched(1)[0])
    with opened(model=other, category="other stripes") as store:
        assert store.add(scratched(1)[0]).new
        with pytest.raises(StoreError, match="model: expected the store's"):
            store.similar(scratched(2)[0], category="stripes")
        with pytest.raises(StoreError, match="model: expected the store's"):
            store.similar(next(store.defects(category="stripes")), category="other stripes")
        assert {one.defect.category for one in store.similar(scratched(2)[0], k=50)} == {"other stripes"}


@pytest.mark.slow
def test_a_vector_that_is_not_finite_is_refused(store: DefectStore):
    encoded = store.encode(scratched(99)[0])
    broken = encoded.regions[0]._replace(vector=np.full_like(encoded.regions[0].vector, np.nan))
    with pytest.raises(InputError, match=r"region vector: expected finite float32 \(D,\), got \d+ NaN"):
        store.add_encoded(encoded._replace(regions=(broken,)))
    assert store.count(kind="image") == 0


@pytest.mark.slow
def test_a_store_is_created_only_on_request(tmp_path: Path, encoder: RegionEncoder):
    with pytest.raises(StoreError, match="nothing there"):
        DefectStore(tmp_path / "s", model=encoder, create=False)
    assert not (tmp_path / "s").exists()
    DefectStore(tmp_path / "s", model=encoder).close()
    DefectStore(tmp_path / "s", model=encoder, create=False).close()


@pytest.mark.slow
def test_a_collection_is_created_only_on_request(qdrant_url: str, encoder: RegionEncoder):
    place = {"url": qdrant_url, "collection": f"made-{uuid.uuid4().hex}", "model": encoder}
    with pytest.raises(StoreError, match="nothing there"):
        DefectStore(**place, create=False)
    DefectStore(**place).close()
    DefectStore(**place, create=False).close()


def test_a_new_store_needs_a_model(tmp_path: Path):
    with pytest.raises(StoreError, match="nothing there"):
        DefectStore(tmp_path / "s")


def test_a_store_is_a_folder_or_a_server(tmp_path: Path):
    with pytest.raises(InputError, match=r"store: expected a folder .*, got neither"):
        DefectStore()
    with pytest.raises(InputError, match="got both"):
        DefectStore(tmp_path / "s", url="http://localhost:6333")
    with pytest.raises(InputError, match="collection: expected"):
        DefectStore(tmp_path / "s", collection="")


def test_errors_name_a_store_without_its_key(tmp_path: Path, encoder: RegionEncoder):
    with pytest.raises(StoreError, match="nothing there") as error:
        DefectStore(tmp_path / "s")
    assert f"in {tmp_path / 's'}." in str(error.value)
    with pytest.raises(StoreError, match=r"server: .*, in http://localhost:1, collection c\.") as error:
        DefectStore(url="http://localhost:1", api_key="secret", collection="c", retries=0)
    assert "secret" not in str(error.value)


@pytest.mark.slow
def test_a_temporary_store_leaves_nothing_behind(
    encoder: RegionEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with DefectStore(":memory:", model=encoder) as store:
        store.add(scratched(99)[0])
        assert len(store)
    assert list(tmp_path.iterdir()) == []
