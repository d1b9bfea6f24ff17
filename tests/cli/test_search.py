"""The commands of the store of defects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blemish.imaging.decode import load
from tests.images import good, scratched, small_patchcore, write
from tests.stores import blotched


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of labelled folders."""
    for seed in range(200, 204):
        write(tmp_path / "old" / "scratch" / f"{seed}.png", scratched(seed)[0])
        write(tmp_path / "old" / "blotch" / f"{seed}.png", blotched(seed))
    return tmp_path / "old"


@pytest.mark.slow
def test_index_similar_label_and_groups(run, saved: Path, images: Path, tmp_path: Path):
    store = tmp_path / "s"
    code, out, _ = run("index", saved, images, "--store", store, "--labels", "from-folders", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["images"], document["new_regions"], document["left_out"]) == (8, document["regions"], [])
    code, out, _ = run("index", saved, images, "--store", store)
    assert (code, "8 images, 0 new regions" in out) == (0, True)
    part, page = write(tmp_path / "new.png", scratched(300)[0]), tmp_path / "page.png"
    code, out, err = run("similar", saved, part, "--store", store, "-k", 3, "--sheet", page, "--json")
    assert code == 0
    document = json.loads(out)
    assert [match["label"] for match in document["matches"]] == ["scratch"] * 3
    assert document["query"]["path"] == str(part)
    assert (document["suggestion"]["label"], document["suggestion"]["is_novel"]) == ("scratch", False)
    assert load(page).shape[1] > 4 * 200
    assert str(page) in err
    id_ = document["matches"][0]["id"]
    code, out, _ = run("label", "--store", store, "--as", "Kratzer", "--by", "Ann", id_)
    assert (code, out.strip()) == (0, "1 labelled Kratzer.")
    code, out, _ = run("groups", "--store", store, "--least-similarity", 0.9, "--json")
    assert code == 0
    (groups,) = json.loads(out).values()
    assert {label for group in groups for label in group["labels"]} == {"scratch", "blotch", "Kratzer"}
    code, out, _ = run("similar", saved, part, "--store", store)
    assert (code, "Probably" in out, id_ in out) == (0, True, True)


@pytest.mark.slow
def test_masks_and_figures_are_not_indexed(run, saved: Path, images: Path, tmp_path: Path):
    write(images / "masks" / "scratch" / "200.png", scratched(200)[1])
    write(images / "scratch" / "201_GT.png", scratched(201)[1])
    assert run("predict", saved, images / "scratch" / "200.png", "--out", images / "figures")[0] == 0
    code, out, err = run("index", saved, images, "--store", tmp_path / "s", "--labels", "from-folders", "--json")
    assert (code, json.loads(out)["images"]) == (0, 8)
    assert err.startswith("not read: ")
    assert all(name in err for name in ("masks/scratch/200.png", "201_GT.png", "0000-200.png"))
    write(images / "ng" / "0.png", scratched(0)[0])
    code, _, err = run("index", saved, images, "--store", tmp_path / "t", "--good", images)
    assert (code, "says good" in err or "says defective" in err) == (2, True)


@pytest.mark.slow
def test_a_good_image_offers_force(run, saved: Path, images: Path, tmp_path: Path, fitted):
    store, part = tmp_path / "s", tmp_path / "good.png"
    run("index", saved, images, "--store", store)
    write(part, next(p for p in map(good, range(100, 130)) if not fitted.predict(p).regions))
    code, _, err = run("similar", saved, part, "--store", store)
    assert (code, "an anomalous region" in err, "--force" in err) == (2, True, True)
    code, out, _ = run("similar", saved, part, "--store", store, "--force", "--json")
    assert (code, json.loads(out)["query"]["forced"]) == (0, True)


@pytest.mark.slow
def test_unreadable_images_are_left_out(run, saved: Path, images: Path, tmp_path: Path):
    (images / "scratch" / "empty.png").write_bytes(b"")
    code, out, _ = run("index", saved, images, "--store", tmp_path / "s")
    assert (code, "8 images" in out, "empty.png" in out) == (3, True, True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["groups", "similar", "suggest", "reindex"])
def test_a_store_that_does_not_exist_is_refused(run, saved: Path, images: Path, tmp_path: Path, command: str):
    part = next(images.rglob("*.png"))
    arguments = {"groups": [], "similar": [saved, part], "suggest": [saved, part], "reindex": [saved]}[command]
    code, _, err = run(command, *arguments, "--store", tmp_path / "none")
    assert (code, "store: expected one that was made, got nothing there" in err) == (2, True)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_suggest_and_reindex(run, saved: Path, images: Path, tmp_path: Path, good_paths: list[Path]):
    store, part = tmp_path / "s", write(tmp_path / "new.png", scratched(300)[0])
    run("index", saved, images, "--store", store, "--labels", "from-folders")
    code, out, err = run("suggest", saved, part, tmp_path / "none.png", "--store", store, "--json")
    assert (code, "none.png" in err) == (3, True)
    rows = [(row["path"], row["label"], "problem" in row) for row in json.loads(out)]
    assert rows == [(str(part), "scratch", False), (str(tmp_path / "none.png"), None, True)]
    other = small_patchcore(seed=1).fit(good_paths).save(tmp_path / "other")
    code, _, err = run("similar", other, part, "--store", store, "--category", "part")
    assert (code, "blemish reindex" in err) == (2, True)
    code, out, _ = run("reindex", other, "--store", store, "--json")
    assert (code, json.loads(out)["images"]) == (0, 8)
    code, out, _ = run("suggest", other, part, "--store", store)
    assert (code, "Probably scratch" in out) == (0, True)


@pytest.mark.slow
def test_other_good_images_are_needed_once(run, saved: Path, images: Path, tmp_path: Path, good_paths):
    folder = good_paths[0].parent
    moved = folder.rename(folder.with_name("moved"))
    try:
        code, _, err = run("index", saved, images, "--store", tmp_path / "s")
        assert (code, "give their folder once (--good)" in err) == (2, True)
        code, _, _ = run("index", saved, images, "--store", tmp_path / "s", "--good", moved)
        assert code == 0
        code, out, _ = run("index", saved, images, "--store", tmp_path / "s")
        assert (code, "0 new regions" in out) == (0, True)
    finally:
        moved.rename(folder)
