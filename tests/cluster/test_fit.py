"""Fits and tests of many categories on real nodes of Ray, and what is refused before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blemish import load, prepare_defect_search
from blemish.cluster import ClusterError, FitResult, PlannedFit, connection, fit_many, plan_fits, tasks
from blemish.cluster.connection import Node, NodeReport, check_address, check_nodes, check_reports, versions
from blemish.cluster.plan import schedule
from blemish.data.synthetic.demo import make_demo
from blemish.errors import InputError
from tests.cluster.conftest import started
from tests.cluster.content import content
from tests.contract.command_line import call
from tests.images import good, small_patchcore, write, write_goods

if TYPE_CHECKING:
    from blemish import Patchcore


def small(**changes: Any) -> Patchcore:
    return small_patchcore(**{"threads": None, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three categories, one image of the second broken, and one that has no image that can be read."""
    root = tmp_path_factory.mktemp("categories")
    found = {name: write_goods(root / name, n) for name, n in (("a", 6), ("b", 7), ("c", 8))}
    found["b"][2].write_bytes(b"no image")
    found["d"] = write_goods(root / "d", 3)
    for path in found["d"]:
        path.write_bytes(b"no image")
    return found


def by_category(results: list[FitResult]) -> dict[str, str]:
    return {result.category: result.status for result in results}


@pytest.mark.slow
def test_models_are_those_of_one_machine_and_a_second_run_goes_on(
    nodes: Any, data: dict[str, list[Path]], tmp_path: Path
):
    ended: list[str] = []
    results = fit_many(data, tmp_path / "models", detector=small(), each=lambda result: ended.append(result.category))
    assert by_category(results) == {"a": "fitted", "b": "fitted", "c": "fitted", "d": "failed"}
    assert sorted(ended) == sorted(data)
    failed = results[3]
    assert failed.error.startswith("good images: expected at least 2, got 0 that can be read and 3 broken")
    assert "002.png" in results[1].left_out[0]
    for name in "abc":
        alone = small(threads=2).fit(data[name])
        prepare_defect_search(alone)
        alone.save(tmp_path / "alone" / name)
        assert content(tmp_path / "models" / name) == content(tmp_path / "alone" / name)
    before = {name: (tmp_path / "models" / name / "model.json").read_bytes() for name in "abc"}
    write(data["a"][0], good(99))
    (tmp_path / "models" / "c" / "bank.safetensors").write_bytes(b"damaged")
    results = fit_many(data, tmp_path / "models", detector=small())
    assert by_category(results) == {"a": "fitted", "b": "unchanged", "c": "failed", "d": "failed"}
    assert results[2].error.startswith("model: expected a model folder to replace, got other files: bank.safetensors")
    assert "002.png" in results[1].left_out[0]
    assert (tmp_path / "models" / "b" / "model.json").read_bytes() == before["b"]
    assert content(tmp_path / "models" / "a") != json.loads(before["a"])
    shutil.rmtree(tmp_path / "models" / "c")
    results = fit_many({"b": data["b"], "c": data["c"]}, tmp_path / "models", detector=small(seed=1))
    assert by_category(results) == {"b": "fitted", "c": "fitted"}


@pytest.mark.slow
def test_a_category_that_no_node_has_room_for_is_named(nodes: Any, data: dict[str, list[Path]], tmp_path: Path):
    result, other = fit_many({"c": data["c"], "a": data["a"]}, tmp_path / "models", detector=small(threads=3))
    assert result.status == other.status == "failed"
    assert result.error.startswith("cluster: expected a node with 3 CPUs and ")
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_a_plan_places_fits_by_their_memory():
    images = {name: [Path(f"{name}{i}") for i in range(6)] for name in "abcde"}
    n_bytes = plan_fits(images, small(), [], timed=False).fits[0].n_bytes
    assert n_bytes > small().estimated_bytes(6)
    nodes = [Node("1", "one", 4, 2 * n_bytes), Node("2", "two", 1, 9 * n_bytes)]
    assert plan_fits(images, small(), nodes, timed=False).n_at_once == 3
    assert plan_fits(images, small(), [Node("1", "one", 4, n_bytes - 1)], timed=False).no_room == tuple("abcde")
    seconds, n_at_once = schedule([PlannedFit(name, 6, n_bytes, 10.0) for name in "abcde"], nodes, 1)
    assert (seconds, n_at_once) == (20.0, 3)


@pytest.mark.slow
def test_a_path_that_a_node_does_not_see_is_named(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_goods(tmp_path / "unseen")
    monkeypatch.chdir(tmp_path)
    paths = sorted(Path("/proc/self/cwd/unseen").iterdir())
    with pytest.raises(
        Exception, match=r"files: expected to be seen by each node, got none of /proc/self/cwd/unseen/000"
    ):
        fit_many({"unseen": paths}, tmp_path / "models", detector=small())


@pytest.mark.slow
def test_arrays_and_names_that_are_no_folder_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="data: expected files, got an array"):
        fit_many({"a": [good(0)]}, tmp_path, detector=small())
    with pytest.raises(InputError, match=r"category: expected a name that a folder can have, got '\.\./a'"):
        fit_many({"../a": []}, tmp_path, detector=small())
    with pytest.raises(InputError, match="data: expected at least one category, got none"):
        plan_fits({}, small(), [])


@pytest.mark.parametrize("address", ["ray://localhost:1", "nowhere", "localhost:x"])
def test_an_address_of_another_form_is_refused(address: str):
    with pytest.raises(ClusterError, match="address: expected HOST:PORT or auto, got "):
        check_address(address)


@pytest.mark.slow
def test_a_ray_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch):
    ray = pytest.importorskip("ray", reason="ray is not installed: nothing runs on a cluster")

    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(
            ClusterError, match=r"cluster: expected Ray to start here, got The current node timed .* Try again"
        ),
        connection.connected(None),
    ):
        pass


def test_an_address_where_nothing_listens_is_named():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ClusterError, match=f"cluster: expected an answer, got .*, in 127.0.0.1:{port}"):
        check_address(f"127.0.0.1:{port}")


def test_a_node_of_another_version_or_without_a_file_is_named():
    same = NodeReport(versions(), [])
    check_reports({"10.0.0.1": same, "10.0.0.2": same})
    with pytest.raises(
        ClusterError, match=r"node: expected Python .* and Blemish .*, got .* 0\.0\.1, in 10\.0\.0\.2\."
    ):
        check_reports({"10.0.0.1": same, "10.0.0.2": NodeReport((versions()[0], "0.0.1"), [])})
    with pytest.raises(ClusterError, match=r"got Python 2\.7 and Blemish none, in 10\.0\.0\.2"):
        check_reports({"10.0.0.2": NodeReport(("2.7", "none"), [])})
    unseen = [f"/data/{i}.png" for i in range(5)]
    with pytest.raises(
        ClusterError, match=r"none of /data/0\.png, /data/1\.png, /data/2\.png and 2 more on 10\.0\.0\.2"
    ):
        check_reports({"10.0.0.1": same, "10.0.0.2": NodeReport(versions(), unseen)})
    with pytest.raises(ClusterError, match="cluster: expected a node with a CPU, got none"):
        check_nodes([], {})


def test_packages_that_are_missing_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"no ray, pyarrow, fsspec\. Run `pip install 'blemish\[cluster\]'`, on every"):
        connection.check_installed()


@pytest.mark.slow
def test_a_process_that_dies_is_started_again_and_named_if_it_always_dies(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One process ends itself while a mark is absent, as a native crash would end it; one always does."""
    monkeypatch.setattr(tasks, "MAX_RETRIES", 1)
    recovers, never = tasks.task_of(dying_once).remote(str(tmp_path / "mark")), tasks.task_of(dying).remote()
    assert tasks.outcome_of(recovers) == "alive"
    outcome = tasks.outcome_of(never)
    assert outcome.text.startswith("task: expected a result, got a process or node that died 2 times: ")


def dying_once(mark: str) -> str:
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return "alive"


def dying() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.slow
def test_a_node_that_dies_costs_no_category(nodes: Any, data: dict[str, list[Path]], tmp_path: Path):
    extra = [started(nodes)]

    def kill(result: FitResult) -> None:
        if extra:
            nodes.remove_node(extra.pop(), allow_graceful=False)

    many = {f"{name}{i}": data[name] for name in "abc" for i in range(3)}
    results = fit_many(many, tmp_path / "models", detector=small(), each=kill)
    assert set(by_category(results).values()) == {"fitted"}
    assert not extra


@pytest.mark.slow
def test_ctrl_c_ends_ray_that_was_started_here_and_leaves_whole_models(data: dict[str, list[Path]], tmp_path: Path):
    pytest.importorskip("ray", reason="ray is not installed: nothing runs on a cluster")
    for i in range(9):
        shutil.copytree(data["a"][0].parent, tmp_path / "data" / f"c{i}" / "train" / "good")
    command = [sys.executable, "-m", "blemish", "cluster", "fit", "data", "--out", "models", "--image-size", "96"]
    lines: list[str] = []
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("c") and not lines:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
            lines.append(line)
    assert process.returncode == 130
    assert lines[-1] == "interrupted\n"
    models = [path for path in (tmp_path / "models").iterdir() if path.is_dir()]
    assert 1 <= len(models) < 9
    for model in models:
        load(model)


@pytest.mark.slow
def test_the_command_plans_fits_and_reports(nodes: Any, data: dict[str, list[Path]], tmp_path: Path):
    root = data["a"][0].parent.parent
    code, out, err = call("cluster", "fit", root / "a", root / "c", "--out", tmp_path / "m", "--dry-run", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert [(row["category"], row["n_images"]) for row in plan["fits"]] == [("a", 6), ("c", 8)]
    assert plan["n_at_once"] == 2
    assert plan["seconds"] > 0
    assert not (tmp_path / "m").exists()
    options = ("--image-size", 96, "--layers", "blocks.4,blocks.10", "--json")
    code, out, err = call("cluster", "fit", root / "a", root / "d", "--out", tmp_path / "m", *options)
    assert code == 2
    assert "error: d: good images: expected at least 2" in err
    rows = {row["category"]: row for row in json.loads(out)}
    assert {name: row["status"] for name, row in rows.items()} == {"a": "fitted", "d": "failed"}
    assert (tmp_path / "m" / "a" / "model.json").is_file()
    code, _, err = call("cluster", "fit", root / "a", root / "a", "--out", tmp_path / "m")
    assert code == 2
    assert "category: expected one of the name a, got two" in err


TIMES = {"fit_s", "test_s", "predict_ms"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn categories, and one without an image to test on."""
    root = tmp_path_factory.mktemp("benchmark")
    make_demo(root, image_size=96, n_train=6, n_test=2, n_defective=1, categories=("grid", "tile"))
    shutil.copytree(root / "tile", root / "untested")
    for folder in (root / "untested" / "test").iterdir():
        shutil.rmtree(folder)
    return root


def without_times(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    for row in [*document["categories"].values(), document["average"]]:
        for name in TIMES & row.keys():
            del row[name]
    return document


@pytest.mark.slow
def test_benchmark_on_a_cluster_has_the_numbers_of_one_machine(nodes: Any, root: Path, tmp_path: Path):
    options = ("--root", root, "--image-size", 96, "--layers", "blocks.4,blocks.10")
    codes = {}
    for name, cluster in (("one", ()), ("many", ("--cluster", nodes.address))):
        files = ("--json", tmp_path / f"{name}.json", "--report", tmp_path / f"{name}.html")
        codes[name], printed, err = call("benchmark", *options, *cluster, *files)
        assert "grid" in printed
        assert "error: untested: test images: expected at least one, got none" in err
        assert "data:image/jpeg" in (tmp_path / f"{name}.html").read_text()
    assert codes == {"one": 2, "many": 2}
    one, many = (without_times(tmp_path / f"{name}.json") for name in ("one", "many"))
    assert many == one
    assert list(many["categories"]) == ["grid", "tile"]
