"""The store of defects in a folder: adding, asking, labelling, and opening it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blemish import DefectStore, InputError, StoreError
from tests.contract import drawn, names

if TYPE_CHECKING:
    from tests.contract.conftest import Case

MAKERS = {"scratch": drawn.scratched, "blotch": drawn.blotched}


@pytest.fixture(scope="session")
def made(cases: Callable[[str], Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four scratches and four blotches, and a store of them; no test changes it."""
    place = tmp_path_factory.mktemp("made")
    with DefectStore(place / "store", model=cases("Patchcore").fitted) as store:
        for seed in range(200, 204):
            for label, make in MAKERS.items():
                store.add(drawn.write(place / label / f"{seed}.png", make(seed)), label=label, labelled_by="Ann")
    return place


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A store of four scratches and four blotches of its own."""
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


@pytest.mark.slow
def test_what_was_added_is_there(patchcore: Case, tmp_path: Path):
    path = drawn.write(tmp_path / "part.png", drawn.scratched(300))
    found = patchcore.fitted.predict(path)
    with DefectStore(tmp_path / "store", model=patchcore.fitted, category="stripes") as store:
        added = store.add(path, label="scratch", labelled_by="Ann")
        assert added.new == len(added.ids) == len(found.regions) == len(store)
        worst = store.get(added.ids)[0]
        region = found.regions[0]
        assert (worst.box, worst.area_px, worst.score) == (region.box, region.area_px, pytest.approx(region.score))
        assert (worst.path, worst.category, worst.label, worst.labelled_by) == (str(path), "stripes", "scratch", "Ann")
        assert (store.count(kind="image"), store.categories) == (1, ("stripes",))


@pytest.mark.slow
def test_adding_twice_changes_nothing(patchcore: Case, folder: Path, made: Path):
    with DefectStore(folder, model=patchcore.fitted) as store:
        before = [one.to_dict() for one in store.defects()]
        again = store.add(made / "scratch" / "200.png")
        assert (again.new, again.labelled) == (0, 0)
        assert [one.to_dict() for one in store.defects()] == before


@pytest.mark.slow
def test_a_copy_under_another_name_is_the_same_image(patchcore: Case, folder: Path, tmp_path: Path):
    with DefectStore(folder, model=patchcore.fitted) as store:
        n = len(store)
        assert store.add(drawn.write(tmp_path / "copy.png", drawn.scratched(200))).new == 0
        assert len(store) == n


@pytest.mark.slow
@pytest.mark.parametrize("label", list(MAKERS))
def test_the_most_similar_are_of_its_kind(patchcore: Case, folder: Path, label: str):
    with DefectStore(folder, model=patchcore.fitted) as store:
        image = MAKERS[label](300)
        found = store.similar(image, k=3, force=True)
        assert [match.defect.label for match in found] == [label] * 3
        assert [match.similarity for match in found] == sorted((one.similarity for one in found), reverse=True)
        assert len({match.defect.path for match in found}) == 3
        said = store.suggest(image, k=3, force=True)
        assert (said.label, getattr(said, names.NOVEL)) == (label, False)
        assert 0.5 < said.confidence <= 1
        assert {one.defect.label for one in store.similar(image, label="blotch", force=True)} == {"blotch"}


@pytest.mark.slow
def test_a_store_opened_again_answers_the_same(patchcore: Case, folder: Path):
    answers = []
    for _ in range(2):
        with DefectStore(folder, model=patchcore.fitted) as store:
            answers.append([(one.defect.id, one.similarity) for one in store.similar(drawn.scratched(300), k=4)])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 4


@pytest.mark.slow
def test_a_store_is_opened_by_the_same_model_once_it_was_saved_and_loaded(patchcore: Case, folder: Path):
    with DefectStore(folder, model=patchcore.kind.load(patchcore.saved)) as store:
        assert store.similar(drawn.scratched(300), k=1)[0].defect.label == "scratch"


@pytest.mark.slow
def test_a_store_is_opened_by_a_loaded_model_again(patchcore: Case, tmp_path: Path):
    for image in (drawn.scratched(200), drawn.scratched(300)):
        with DefectStore(tmp_path / "store", model=patchcore.kind.load(patchcore.saved)) as store:
            store.add(image, label="scratch")
            assert store.count(kind="image", label="scratch") >= 1


@pytest.mark.slow
def test_labels_can_be_set_and_taken_away_without_a_model(folder: Path):
    with DefectStore(folder) as store:
        one, *_ = store.defects(label="scratch")
        n = len(list(store.defects(label="scratch")))
        assert store.label([one.id], "scuff", by="Ben") == 1
        assert [(found.label, found.labelled_by) for found in store.get([one.id])] == [("scuff", "Ben")]
        assert len(list(store.defects(label="scratch"))) == n - 1
        store.label([one.id], None)
        assert [found.id for found in store.defects(unlabelled=True)] == [one.id]
        with pytest.raises(InputError, match="id"):
            store.label(["none"], "scuff")
        with pytest.raises(StoreError, match="model"):
            store.add(drawn.scratched(300))


@pytest.mark.slow
def test_groups_are_what_looks_alike(folder: Path):
    with DefectStore(folder) as store:
        groups = store.groups(least_similarity=0.85)
        assert sum(len(group.members) for group in groups) == len(store)
        assert {group.name for group in groups} == set(MAKERS)
        assert [len(group.members) for group in groups] == sorted((len(one.members) for one in groups), reverse=True)


@pytest.mark.slow
def test_duplicates_and_removal(patchcore: Case, folder: Path):
    with DefectStore(folder, model=patchcore.fitted) as store:
        n = len(store)
        one, *_ = store.defects(label="scratch")
        assert all(match.defect.sha256 != one.sha256 for match in store.duplicates(one, least_similarity=-1))
        removed = store.remove(one.sha256)
        assert removed >= 1
        assert len(store) == n - removed


@pytest.mark.slow
def test_good_patches_beside_a_defect(patchcore: Case, folder: Path, good_paths: list[Path]):
    with DefectStore(folder, model=patchcore.fitted) as store:
        found = store.similar_good(drawn.scratched(300), k=3)
        assert {one.path for one in found} <= set(map(str, good_paths))
        assert len({one.path for one in found}) == 3


@pytest.mark.slow
def test_an_image_without_a_region_must_be_forced(patchcore: Case, tmp_path: Path):
    image = next(one for one in map(drawn.good, range(100, 130)) if not patchcore.fitted.predict(one).regions)
    with DefectStore(":memory:", model=patchcore.fitted) as store:
        added = store.add(image)
        assert (added.ids, len(store), store.count(kind="image")) == ((), 0, 1)
        assert added.note
        with pytest.raises(InputError, match="force"):
            store.similar(image)
        assert len(store.add(image, force=True).ids) == 1
        assert next(iter(store.defects())).forced


@pytest.mark.slow
def test_reindexing_keeps_labels(patchcore: Case, folder: Path, good_paths: list[Path]):
    other = patchcore.make(seed=1, coreset_sampling_ratio=0.05).fit(good_paths)
    with DefectStore(folder, model=other) as store:
        with pytest.raises(StoreError, match="reindex"):
            store.similar(drawn.scratched(300))
        done = store.reindex()
        assert (done.images, done.left_out) == (8, ())
        assert store.similar(drawn.scratched(300), k=1)[0].defect.label == "scratch"
        assert {one.label for one in store.defects()} == set(MAKERS)


@pytest.mark.slow
def test_a_store_that_is_not_there_or_in_use_says_so(patchcore: Case, folder: Path, tmp_path: Path):
    with pytest.raises(StoreError, match="nothing there"):
        DefectStore(tmp_path / "none")
    with pytest.raises(StoreError, match="nothing there"):
        DefectStore(tmp_path / "none", model=patchcore.fitted, create=False)
    assert not (tmp_path / "none").exists()
    with DefectStore(folder), pytest.raises(StoreError, match="open in process"):
        DefectStore(folder)


@pytest.mark.slow
def test_any_detectors_maps_will_do(cases: Callable[[str], Case], tmp_path: Path):
    case = cases("EfficientAd")
    with DefectStore(tmp_path / "store", model=case.fitted) as store:
        for seed in (200, 201):
            assert store.add(drawn.scratched(seed), label="scratch", force=True).new >= 1
        assert store.similar(drawn.scratched(300), k=1, force=True)[0].defect.label == "scratch"
