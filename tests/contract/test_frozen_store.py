"""A store of defects that 0.1.0 wrote, opened with the frozen model that wrote it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blemish import DefectStore, Patchcore, StoreError
from tests.contract import drawn
from tests.contract.conftest import GOLDEN

if TYPE_CHECKING:
    from tests.contract.conftest import Case, Frozen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The store of two scratches and two blotches, unpacked."""
    with tarfile.open(GOLDEN / "store.tar.xz") as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path / "store"


@pytest.fixture
def model(unpacked: Callable[[str], Frozen]) -> Patchcore:
    return Patchcore.load(unpacked("patchcore").folder, threads=1)


@pytest.mark.slow
def test_labels_are_read_and_set_without_a_model(folder: Path):
    for label in ("scratch", "scuff"):
        with DefectStore(folder) as store:
            assert (store.categories, len(store), store.count(kind="image")) == (("stripes",), 4, 4)
            defects = list(store.defects(label=label))
            assert [(one.kind, one.labelled_by) for one in defects] == [("region", "Ann")] * 2
            assert {one.kind for one in store.defects(kind="image")} == {"image"}
            assert sum(len(group.members) for group in store.groups(least_similarity=0.8)) == 4
            store.label([one.id for one in defects], "scuff", by="Ann")


@pytest.mark.slow
def test_the_model_that_wrote_it_goes_on(folder: Path, model: Patchcore):
    for new in (1, 0):
        with DefectStore(folder, model=model) as store:
            assert store.category == "stripes"
            assert store.add(drawn.scratched(200), force=True).new == 0
            assert store.add(drawn.scratched(300), label="scratch", force=True).new == new
            assert (len(store), store.count(kind="image")) == (5, 5)
            for seed, make in (("scratch", drawn.scratched), ("blotch", drawn.blotched)):
                assert store.similar(make(301), k=1, force=True)[0].defect.label == seed
            first = next(store.defects(label="blotch"))
            assert {one.defect.kind for one in store.duplicates(first, least_similarity=-1)} == {"image"}
            assert store.similar(first, k=1)[0].defect.label == "blotch"


@pytest.mark.slow
def test_another_model_is_refused_and_reindexing_keeps_the_labels(patchcore: Case, folder: Path):
    with DefectStore(folder, model=patchcore.fitted, category="stripes") as store:
        with pytest.raises(StoreError, match=r"blemish reindex MODEL --store .*labels are kept"):
            store.similar(drawn.scratched(300))
        done = store.reindex()
        assert (done.images, len(done.left_out)) == (0, 4)  # the images were arrays
        assert len(list(store.defects(label="scratch"))) == 2
    with DefectStore(folder, model=patchcore.fitted) as store:
        assert store.add(drawn.scratched(200), label="scratch", force=True).new == 1
        assert store.similar(drawn.scratched(300), k=1, force=True)[0].defect.label == "scratch"
        assert store.remove(store.encode(drawn.scratched(200)).sha256) == 2
