"""The fit of one category over nodes: the model of one machine, byte by byte, whatever dies."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from blemish import Padim, Patchcore, prepare_defect_search
from blemish.cluster import FitResult, fit_many, plan_fits
from blemish.cluster.connection import Node
from blemish.cluster.node_tasks import DiedError, NodeTasks, check_seen
from blemish.cluster.spread import facts_over_nodes, fit_over_nodes, inputs_here, look_here
from blemish.detectors.patchcore import fit as fitting
from blemish.errors import InputError
from blemish.ops import merge_reduce
from blemish.types import Sample, no_progress
from tests.cluster.conftest import started
from tests.cluster.content import content
from tests.contract.command_line import call
from tests.images import cut_off, good, small_patchcore, write_goods

if TYPE_CHECKING:
    from collections.abc import Callable

N = 14


class HereTasks:
    """Runs each task at once, in this process.

    Attributes:
        fragile: name of an image whose process always dies; "" for none.
    """

    n_ahead = 3

    def __init__(self, fragile: str = "") -> None:
        self.fragile = fragile

    def shared(self, value: object) -> Any:
        return value

    def submit(self, function: Callable[..., Any], *args: Any, n_returns: int = 1) -> Any:
        if function in (look_here, inputs_here) and any(sample.path.name == self.fragile for sample in args[0]):
            return DiedError("died") if function is inputs_here else (None, DiedError("died"))
        return function(*args)

    def result(self, reference: Any) -> Any:
        if isinstance(reference, DiedError):
            raise reference
        return reference


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 3 images of 144 patches, of which 1,000 are held."""
    monkeypatch.setattr(merge_reduce, "CHUNK_ROWS", 400)


def samples_of(paths: list[Path]) -> tuple[Sample, ...]:
    return tuple(Sample(path, "train") for path in paths)


def over_nodes(detector: Patchcore, paths: list[Path], tasks: Any) -> Patchcore:
    facts = facts_over_nodes(samples_of(paths), None, tasks)
    fit_over_nodes(detector, samples_of(paths), facts, tasks, no_progress)
    return detector


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"score_fusion": True, "calibration": "tail", "num_neighbors": 3}, {"max_rows": 500_000}],
    ids=["fusion", "held"],
)
def test_the_model_is_that_of_one_machine(
    changes: dict[str, Any], tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
):
    """Two images are broken, one of them only when it is decoded; chunks then begin within blocks."""
    monkeypatch.setattr(fitting, "MAX_CALIBRATION", 8)
    paths = write_goods(tmp_path / "images", N)
    paths[2].write_bytes(b"no image")
    cut_off(paths[4], good(4))
    settings = {"max_rows": 1000, **changes}
    alone = small_patchcore(**settings).fit(paths)
    spread = over_nodes(small_patchcore(**settings), paths, HereTasks())
    assert [problem.path for problem in spread.problems] == [paths[2], paths[4]]
    assert spread.problems == alone.problems
    for name, detector in (("alone", alone), ("spread", spread)):
        detector.save(tmp_path / name)
    assert content(tmp_path / "spread") == content(tmp_path / "alone")


@pytest.mark.slow
def test_an_image_that_ends_its_process_is_left_out_and_named(tmp_path: Path, small_chunks: None):
    paths = write_goods(tmp_path / "images", N)
    spread = over_nodes(small_patchcore(max_rows=1000), paths, HereTasks("006.png"))
    assert [problem.path for problem in spread.problems] == [paths[6]]
    assert "got a process that died each time that it had this image" in spread.problems[0].text
    small_patchcore(max_rows=1000).fit(paths[:6] + paths[7:]).save(tmp_path / "alone")
    spread.save(tmp_path / "spread")
    assert content(tmp_path / "spread") == content(tmp_path / "alone")


@pytest.mark.slow
def test_what_can_not_be_spread_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="spread: expected patchcore, whose fit is a map and a merge, got padim"):
        fit_many({"a": []}, tmp_path, detector=Padim(image_size=96), spread=True)
    with pytest.raises(InputError, match=r"images: expected to be seen by the node, got 1 of 1 that it does not see"):
        check_seen([Sample(tmp_path / "none.png", "train")])


def test_a_plan_states_the_tasks_of_a_category_that_is_spread():
    images = {"large": [Path(f"{i}.png") for i in range(600)], "small": [Path("a.png")]}
    detector = Patchcore()
    nodes = [Node("1", "one", 4, 8 << 30), Node("2", "two", 2, 8 << 30)]
    plan = plan_fits(images, detector, nodes, timed=False, spread=True)
    large, small = plan.fits
    assert (large.n_tasks, small.n_tasks, small.is_spread) == (6, 1, False)
    assert large.n_bytes == detector.estimated_bytes(600)
    assert 300 << 20 < large.task_bytes < 1 << 30
    assert plan.n_at_once == 6
    little = [Node("1", "one", 4, large.task_bytes - 1)]
    assert plan_fits(images, detector, little, timed=False, spread=True).no_room == ("large",)


@pytest.mark.slow
def test_workers_and_a_node_that_die_change_nothing(nodes: Any, tmp_path: Path, small_chunks: None):
    """The work is on the two nodes beside that of this process, whose death would end all."""
    paths = write_goods(tmp_path / "images", 30)
    extra = started(nodes)
    tasks = NodeTasks(1, 100 << 20, 3)
    killed: list[int] = []

    def kill(stage: str, done: int, total: int) -> None:
        nonlocal extra
        if stage == "reading images" and done >= 12 and not killed:
            pids = tasks.submit(pid_here)
            killed.append(tasks.result(pids))
            os.kill(killed[0], signal.SIGKILL)
        if stage == "reading images" and done >= 20 and extra is not None:
            nodes.remove_node(extra, allow_graceful=False)
            extra = None

    detector = small_patchcore(max_rows=1000, score_fusion=True, threads=1)
    facts = facts_over_nodes(samples_of(paths), None, tasks)
    fit_over_nodes(detector, samples_of(paths), facts, tasks, kill)
    tasks.close()
    assert killed
    assert extra is None
    detector.save(tmp_path / "spread")
    small_patchcore(max_rows=1000, score_fusion=True).fit(paths).save(tmp_path / "alone")
    assert content(tmp_path / "spread") == content(tmp_path / "alone")


def pid_here() -> int:
    return os.getpid()


@pytest.mark.slow
def test_categories_are_spread_or_not_by_their_size_and_go_on(nodes: Any, tmp_path: Path):
    data = {"few": write_goods(tmp_path / "few", 4), "many": write_goods(tmp_path / "many", 9)}
    detector = small_patchcore(max_rows=1000, threads=None)
    stages: list[str] = []
    results = fit_many(
        data, tmp_path / "models", detector=detector, spread=True, progress=lambda stage, *_: stages.append(stage)
    )
    assert [result.status for result in results] == ["fitted", "fitted"], results
    assert "reading images" in stages
    for name, paths in data.items():
        alone = small_patchcore(max_rows=1000).fit(paths)
        prepare_defect_search(alone)
        alone.save(tmp_path / "alone" / name)
        assert content(tmp_path / "models" / name) == content(tmp_path / "alone" / name)
    again: list[FitResult] = fit_many(data, tmp_path / "models", detector=detector, spread=True)
    assert [result.status for result in again] == ["unchanged", "unchanged"]
    code, out, _ = call("cluster", "fit", tmp_path / "many", "--out", tmp_path / "m", "--spread", "--dry-run", "--json")
    assert (code, json.loads(out)["fits"][0]["task_bytes"]) == (0, 0)
    code, _, err = call("cluster", "fit", tmp_path / "many", "--out", tmp_path / "m", "--spread", "--model", "padim")
    assert code == 2
    assert "spread: expected patchcore" in err
