"""Encoding the images of a store again with another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.search.model_id import model_id
from blemish.search.reindex import overlap
from tests.images import scratched, small_patchcore, write
from tests.stores import Opener, blotched


@pytest.mark.slow
def test_reindexing_keeps_labels_and_makes_the_vectors_of_the_other_model(
    opened: Opener, good_paths: list[Path], tmp_path: Path
):
    paths = [write(tmp_path / f"{seed}.png", scratched(seed)[0]) for seed in (200, 201)]
    gone = write(tmp_path / "gone.png", blotched(200))
    with opened() as store:
        for path in (*paths, gone):
            store.add(path, label=path.stem, labelled_by="Ann")
        times = {one.sha256: one.time for one in store.defects()}
    gone.unlink()
    other = small_patchcore(seed=1).fit(good_paths)
    with opened(model=other, category=None) as store:
        done = store.reindex()
        assert (done.images, done.left_out) == (2, (f"{gone}: no longer there",))
        found = store.similar(scratched(300)[0], k=9)
        assert sorted({one.defect.label for one in found}) == ["200", "201"]
        assert {one.defect.model for one in found} == {model_id(other)}
        assert {one.defect.time for one in found} <= set(times.values())
        assert {one.defect.labelled_by for one in found} == {"Ann"}
        assert store.count(kind="image") == 3
        assert store.reindex().images == 0


@pytest.mark.slow
def test_reindexing_continues_after_a_kill(opened: Opener, good_paths: list[Path], tmp_path: Path):
    paths = [write(tmp_path / f"{seed}.png", scratched(seed)[0]) for seed in (200, 201, 202)]
    with opened() as store:
        for path in paths:
            store.add(path, label=path.stem)
    other = small_patchcore(seed=1).fit(good_paths)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "encoding again":
            raise KeyboardInterrupt

    with opened(model=other, category=None) as store, pytest.raises(KeyboardInterrupt):
        store.reindex(progress=stop)
    with opened(model=other, category=None) as store:
        assert store.reindex().images == 2
        assert sorted({one.label or "" for one in store.defects()}) == ["200", "201", "202"]
        assert store.count(kind="image") == 3
        assert len({one.model for one in store.defects()}) == 1


def test_overlap_of_boxes():
    assert overlap((0, 0, 4, 4), (2, 3, 9, 9)) == 2
    assert overlap((0, 0, 4, 4), (4, 0, 4, 4)) == 0
