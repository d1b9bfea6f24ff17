"""Predictions and defects of many images on real nodes of Ray: each once, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish import DefectStore, Patchcore, Prediction
from blemish.cluster import index_many, pool, predict, predictions, read_map, read_mask
from blemish.cluster.listing import ImageFile, find_files, outermost
from blemish.cluster.maps import map_columns, mask_columns
from blemish.cluster.pool import ActorPool, Dead
from blemish.cluster.rows import MERGED, Parts, error_row, named
from blemish.data.outputs import output_png, save_output
from blemish.errors import InputError, SaveError
from tests.cluster.conftest import started
from tests.contract.command_line import call
from tests.images import good, scratched, write, write_goods

PREDICTED: dict[str, Any] = {
    "score": 1.0,
    "label": True,
    "threshold": 0.5,
    "p_value": 0.1,
    "pixel_threshold": 0.5,
    "regions": (),
    "peak_xy": (0, 0),
}
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: no Parquet files")


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    """The rows by path; no path comes twice."""
    rows = pq.read_table(path).to_pylist()
    assert Counter(row["path"] for row in rows).most_common(1)[0][1] == 1
    return {row["path"]: row for row in rows}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and scratched images in folders, a broken one, a figure of Blemish, and a file that is no image."""
    root = tmp_path_factory.mktemp("images")
    write_goods(root / "day2", 5)
    for i in range(3):
        write(root / "day10" / f"{i}.png", scratched(i)[0])
    (root / "broken.jpg").write_bytes(b"no image")
    save_output(root / "figure.png", good(7))
    (root / "notes.txt").write_text("none")
    (root / ".hidden.png").write_bytes(b"hidden")
    return root


@pytest.mark.slow
def test_rows_are_the_predictions_and_a_second_run_makes_the_missing_ones(
    nodes: Any, saved: Path, images: Path, tmp_path: Path
):
    root = shutil.copytree(images, tmp_path / "images")
    out = tmp_path / "results.parquet"
    code, printed, err = call("cluster", "predict", saved, root, "--out", out, "--maps", "--masks", "--json")
    assert code == 3
    assert err.count("error: image: expected ") == 2
    document = json.loads(printed)
    rows = rows_of(out)
    names = [Path(path).relative_to(root).as_posix() for path in rows]
    days = [*(f"day2/{i:03}.png" for i in range(5)), *(f"day10/{i}.png" for i in range(3))]
    assert names == ["broken.jpg", *days, "figure.png"]
    assert (document["n_images"], document["n_new"], document["n_unread"]) == (10, 10, 2)
    assert document["n_defective"] == sum(bool(row["label"]) for row in rows.values()) >= 3
    assert [Path(path).name for path in document["left_out"]] == ["broken.jpg", "figure.png"]
    assert "figure or mask that Blemish wrote" in rows[str(root / "figure.png")]["error"]
    detector = Patchcore.load(saved)
    for name in days:
        row, expected = rows[str(root / name)], detector.predict(root / name)
        assert row["score"] == expected.score
        assert (row["label"], row["p_value"], row["outcome"]) == (expected.label, expected.p_value, expected.outcome)
        assert (row["height"], row["width"], row["drift"], row["error"]) == (96, 96, expected.drift, None)
        boxes = [tuple(region[key] for key in ("x", "y", "width", "height")) for region in row["regions"]]
        assert boxes == [region.box for region in expected.regions]
        np.testing.assert_allclose(read_map(row), expected.anomaly_map, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(read_mask(row), expected.mask)
    with pytest.raises(
        InputError, match=r"anomaly_map: expected one in the row, got none, in .*broken.jpg\. Take a row"
    ):
        read_map(rows[str(root / "broken.jpg")])
    assert pq.read_schema(out).metadata[b"blemish.threshold"] == repr(detector.threshold).encode()
    assert not (tmp_path / "results.parquet.parts").exists()

    write(root / "day2" / "100.png", good(100))
    write(root / "day10" / "0.png", good(101))
    (root / "day10" / "2.png").unlink()
    (root / "broken.jpg").write_bytes((root / "day2" / "001.png").read_bytes())
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in sorted(images.rglob("*.png")):
            archive.write(path, path.relative_to(images).as_posix())
    url, unread = f"zip://day2::file://{tmp_path / 'images.zip'}", []
    result = predict(
        saved,
        [root, root / "day2", url],
        out,
        maps=True,
        masks=True,
        unread=lambda path, error: unread.append((Path(path).name, "figure or mask" in error)),
    )
    again = rows_of(out)
    assert (result.n_images, result.n_new, result.n_unread) == (15, 9, 1)
    assert unread == [("figure.png", True)]
    row = again.pop(f"zip://day2/003.png::file://{tmp_path / 'images.zip'}")
    assert row["score"] == detector.predict(images / "day2" / "003.png").score
    archived = {path for path in again if path.startswith("zip://")}
    assert len(archived) == 4
    expected_paths = (rows.keys() | {str(root / "day2" / "100.png")}) - {str(root / "day10" / "2.png")}
    assert again.keys() - archived == expected_paths
    assert again[str(root / "day10" / "0.png")]["score"] == detector.predict(good(101)).score
    assert again[str(root / "broken.jpg")]["error"] is None
    assert again[str(root / "day2" / "004.png")] == rows[str(root / "day2" / "004.png")]


def test_maps_and_masks_are_read_back_or_refused():
    mask = np.zeros((40, 60), np.bool_)
    mask[3:9, 5:50] = True
    anomaly_map = np.linspace(0, 70_000, 400 * 600, dtype=np.float32).reshape(400, 600)
    prediction = Prediction(**PREDICTED, anomaly_map=anomaly_map, mask=mask)
    row = {**map_columns(prediction), **mask_columns(prediction), "height": 40, "width": 60, "path": "a.png"}
    found = read_map(row)
    assert found.shape == (213, 320)
    assert found.max() == np.finfo(np.float16).max
    assert found[:150].max() == pytest.approx(anomaly_map[: 150 * 400 // 213].max(), rel=0.01)
    np.testing.assert_array_equal(read_mask(row), mask)
    assert not read_mask({**row, "mask": None}).any()
    for damaged, text in (
        (b"none", "anomaly_map: expected bytes compressed by zlib, got .*, in a.png"),
        (zlib.compress(b"12"), r"anomaly_map: expected 136320 bytes of values, got others \(2\), in a.png"),
        (zlib.compress(bytes(1 << 20)), r"anomaly_map: expected 136320 bytes of values, got others \(136321\)"),
    ):
        with pytest.raises(InputError, match=text):
            read_map({**row, "anomaly_map": damaged})
    for damaged, text in ((b"none", "got none"), (output_png(mask[1:]), r"got \(39, 60\)")):
        with pytest.raises(InputError, match=rf"mask: expected a PNG file of \(40, 60\), {text}, in a.png"):
            read_mask({**row, "mask": damaged})
    with pytest.raises(InputError, match=r"mask: expected one in the row, got none\. .* made with masks"):
        read_mask({"height": 40, "width": 60})


def numbers(n: int, size: int = 8) -> list[list[int]]:
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]


def pool_of(kind: type, n: int = 2, *arguments: Any) -> ActorPool[int, Any]:
    import ray

    actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(kind)
    return ActorPool(lambda: actor.remote(*arguments), lambda: n)


@pytest.mark.slow
def test_an_item_that_ends_its_process_is_found_and_the_rest_goes_on(nodes: Any):
    class Fragile:
        def ready(self) -> None:
            """Loaded."""

        def run(self, items: Sequence[int]) -> list[int]:
            if 21 in items:
                os.kill(os.getpid(), signal.SIGSEGV)
            return [item * item for item in items]

    results = [result for chunk in pool_of(Fragile).map(iter(numbers(50))) for result in chunk]
    assert isinstance(results[21], Dead)
    assert [result for i, result in enumerate(results) if i != 21] == [i * i for i in range(50) if i != 21]


@pytest.mark.slow
def test_each_item_comes_once_and_in_order_whatever_is_killed(nodes: Any, tmp_path: Path):
    """Workers are killed at random moments, and then one of the nodes that they run on."""

    class Slow:
        def ready(self) -> None:
            import ray

            node = ray.get_runtime_context().get_node_id()
            (tmp_path / f"{os.getpid()}").write_text(node)

        def run(self, items: Sequence[int]) -> list[int]:
            time.sleep(0.05 * len(items))
            return [item * item for item in items]

    extra = started(nodes)
    results: list[Any] = []
    for i, chunk in enumerate(pool_of(Slow, 3).map(iter(numbers(200)))):
        results += chunk
        if i in {3, 6, 9}:
            pid = max((int(path.name) for path in tmp_path.iterdir()), default=0)
            (tmp_path / str(pid)).unlink()
            os.kill(pid, signal.SIGKILL)
        if i == 11:
            nodes.remove_node(extra, allow_graceful=False)
    assert results == [i * i for i in range(200)]


@pytest.mark.slow
def test_a_worker_that_never_starts_ends_the_run(nodes: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "MAX_FAILED_STARTS", 2)

    class Broken:
        def __init__(self) -> None:
            raise ValueError("no model here")

        def ready(self) -> None:
            """Never."""

    with pytest.raises(Exception, match=r"cluster: expected a worker that starts, got 2 that ended: .*no model here"):
        list(pool_of(Broken).map(iter(numbers(9))))


KILLED = """
import sys
from blemish.cluster import predictions
predictions.PART_ROWS, predictions.CHUNK = 8, 4
predictions.predict(sys.argv[1], [sys.argv[2]], sys.argv[3], address=sys.argv[4])
"""


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_rows_that_count(nodes: Any, saved: Path, tmp_path: Path):
    for i in range(40):
        write(tmp_path / "images" / f"{i}.png", good(i))
    out = tmp_path / "r.parquet"
    command = [sys.executable, "-c", KILLED, saved, tmp_path / "images", out, nodes.address]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    while not list((tmp_path / "r.parquet.parts").glob("part-*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    n_rows = sum(pq.read_metadata(path).num_rows for path in (tmp_path / "r.parquet.parts").glob("part-*.parquet"))
    assert n_rows >= 8
    assert not out.exists()
    result = predict(saved, [tmp_path / "images"], out)
    assert (result.n_images, result.n_new) == (40, 40 - n_rows)
    assert len(rows_of(out)) == 40


@pytest.mark.slow
def test_results_of_another_model_are_made_again_and_its_parts_are_refused(tmp_path: Path):
    out = tmp_path / "r.parquet"
    file = ImageFile("/a.png", 3, "1")
    (tmp_path / "r.parquet.parts").mkdir()
    parts = Parts(out, {"model": "one"})
    parts.write([named({"score": 1.0, "regions": []}, file)])
    parts.write([named(error_row("broken"), ImageFile("/b.png", 3, "1"))])
    with pytest.raises(
        InputError, match="parts: expected those of this model, got those of another model or version, or of"
    ):
        Parts(out, {"model": "two"})
    again = Parts(out, {"model": "one"})
    keys = again.done_keys()
    assert len(keys) == 1, "an image with an error is tried again"
    again.write([named({"score": 2.0, "regions": []}, ImageFile("/b.png", 3, "1"))])
    assert again.merge(keys) == 2
    assert [row["path"] for row in pq.read_table(out).to_pylist()] == ["/a.png", "/b.png"]
    assert len(Parts(out, {"model": "two"}).done_keys()) == 0
    assert len(Parts(out, {"model": "one"}, ("mask",)).done_keys()) == 0, "rows without masks are made again"
    assert len(Parts(out, {"model": "one"}).done_keys()) == 2


def test_a_merge_that_was_killed_is_ended_by_the_next_run(tmp_path: Path):
    out, folder = tmp_path / "r.parquet", tmp_path / "r.parquet.parts"
    folder.mkdir()
    parts = Parts(out, {"model": "one"})
    parts.write([named({"score": 1.0, "regions": []}, ImageFile("/a.png", 3, "1"))])
    shutil.copy(folder / "part-00000000.parquet", folder / MERGED)  # killed after the merge, before the rename
    assert len(Parts(out, {"model": "one"}).done_keys()) == 1
    assert out.is_file()
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_opened_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("no")

    write_goods(tmp_path, 2)
    (tmp_path / "notes").write_text("secret")
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.open", refuse)
    assert [Path(file.path).name for file in find_files([str(tmp_path)], {})] == ["000.png", "001.png"]


def test_folders_are_listed_once_in_natural_order(tmp_path: Path):
    write_goods(tmp_path / "b", 2)
    write_goods(tmp_path / "b" / "10", 1)
    write_goods(tmp_path / "b" / "9", 1)
    (tmp_path / "b" / "10" / "loop").symlink_to(tmp_path / "b")
    write_goods(tmp_path / "b" / "@eaDir", 1)  # a file server's own
    (tmp_path / "b" / "9" / "000.png").rename(tmp_path / "b" / "9" / "000.jfif")
    (tmp_path / "b" / "9" / "notes").write_text("BM, no image")
    write_goods(tmp_path / "elsewhere", 1)
    (tmp_path / "b" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "b" / "nothing").symlink_to(tmp_path / "none")
    found = list(find_files([str(tmp_path / "b"), str(tmp_path / "b" / "9")], {}))
    names = [Path(file.path).relative_to(tmp_path).as_posix() for file in found]
    assert names == ["b/000.png", "b/001.png", "b/9/000.jfif", "b/10/000.png", "b/linked/000.png"]
    assert all(file.size > 0 and file.version for file in found)
    assert outermost(["s3://a/b", "s3://a/bc", "s3://a/b/c"]) == ["s3://a/b", "s3://a/bc"]
    with pytest.raises(InputError, match="images: expected a folder or a file, got nothing of that name, in"):
        list(find_files([str(tmp_path / "none")], {}))
    with pytest.raises(InputError, match="images: expected a folder that can be read, got Protocol not known: nofs"):
        list(find_files(["nofs://a"], {}))


def test_a_second_run_of_one_process_lists_anew():
    """File systems such as S3's remember what they listed, and fsspec keeps them."""
    fsspec = pytest.importorskip("fsspec")
    names = ["/plant/0.png"]

    class Remembering(fsspec.AbstractFileSystem):  # type: ignore[misc, name-defined]
        protocol = "remembering"

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "size": 0, "type": "directory"}

        def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
            rows = [{"name": name, "size": 1, "type": "file", "mtime": 1} for name in names]
            return self.dircache.setdefault("all", rows)

    fsspec.register_implementation("remembering", Remembering, clobber=True)
    assert len(list(find_files(["remembering://plant"], {}))) == 1
    names.append("/plant/1.png")
    assert len(list(find_files(["remembering://plant"], {}))) == 2


@pytest.mark.slow
def test_the_command_plans_and_refuses_folders_without_images(nodes: Any, saved: Path, images: Path, tmp_path: Path):
    out = tmp_path / "r.parquet"
    code, printed, err = call("cluster", "predict", saved, images, "--out", out, "--dry-run", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(printed)
    assert (plan["n_images"], plan["n_at_once"]) == (10, 2)
    assert plan["seconds"] > 0
    assert not out.exists()
    (tmp_path / "empty").mkdir()
    for option in ((), ("--dry-run",)):
        code, _, err = call("cluster", "predict", saved, tmp_path / "empty", "--out", out, *option)
        assert code == 2
        assert "images: expected images (.png, .jpg" in err
    assert not out.exists()


def test_two_runs_into_one_file_are_refused(tmp_path: Path):
    out = tmp_path / "r.parquet"
    with (
        predictions.working_folder(out),
        pytest.raises(SaveError, match="lock"),
        predictions.working_folder(out),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(SaveError, match="results: expected to be written, got 'Is a directory'"),
        predictions.working_folder(tmp_path),
    ):
        pass


@pytest.mark.slow
def test_a_store_in_a_folder_is_refused(saved: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="ray is not installed: nothing runs on a cluster")
    image = write(tmp_path / "images" / "0.png", scratched(0)[0])
    code, _, err = call("index", saved, image.parent, "--store", tmp_path / "store", "--cluster", "auto")
    assert code == 2
    assert "store: expected one that all nodes reach, got a folder" in err


@pytest.mark.slow
def test_regions_are_those_of_one_machine_and_come_once(nodes: Any, qdrant_url: str, saved: Path, tmp_path: Path):
    images = []
    for i in range(20):
        label = ("scratch", "dent")[i % 2]
        images.append((write(tmp_path / label / f"{i}.png", scratched(i)[0]), label))
    (tmp_path / "broken.png").write_bytes(b"no image")
    images.insert(0, (tmp_path / "broken.png", None))
    found = {}
    for name in ("one", "many"):
        collection = f"t{uuid.uuid4().hex}"
        with DefectStore(
            url=qdrant_url, model=Patchcore.load(saved), category="stripes", collection=collection
        ) as store:
            if name == "one":
                for path, label in images[1:]:
                    store.add(path, label=label, labelled_by="folder")
            else:
                added = list(index_many(store, saved, images, url=qdrant_url, collection=collection))
                assert "8 bytes that are none of these" in str(added[0])
                assert [Path(row.path).name for row in added[1:]] == [path.name for path, _ in images[1:]]
                assert sum(row.new for row in added[1:]) == store.count() > 0
                again = list(index_many(store, saved, images, url=qdrant_url, collection=collection))
                assert sum(row.new for row in again[1:]) == 0
            found[name] = {(defect.id, defect.label, Path(defect.path).name) for defect in store.defects()}
    assert found["many"] == found["one"]
