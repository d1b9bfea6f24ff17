"""Queries of a folder with made-up vectors."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import REGION, Filter, Point
from blemish.search.encoder import DIMS
from blemish.search.queries import groups, nearest, reference_distances, suggest

ALL = Filter(equals={"kind": [REGION]})


def at(angle: float) -> np.ndarray:
    """A unit vector in the plane of the first two axes."""
    vector = np.zeros(DIMS[REGION], np.float32)
    vector[:2] = np.cos(angle), np.sin(angle)
    return vector


def region(n: int, angle: float, *, image: str, score: float = 1.0, label: str | None = None) -> Point:
    payload = {
        "kind": REGION,
        "category": "c",
        "path": f"{image}.png",
        "sha256": image,
        "box": [0, 0, 1, 1],
        "area_px": 1,
        "contour": "0,0",
        "score": score,
        "p_value": 0.5,
        "model": "m",
        "time": "2026-01-01T00:00:00+00:00",
    }
    return Point(str(uuid.UUID(int=n)), {REGION: at(angle)}, payload | ({"label": label} if label else {}))


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[EdgeBackend]:
    made = EdgeBackend(tmp_path / "s", DIMS)
    yield made
    made.close()


def test_one_image_does_not_fill_an_answer(backend: EdgeBackend):
    backend.insert([region(n, 0.001 * n, image="many") for n in range(1, 40)])
    backend.insert([region(n, 0.5 + n / 1000, image=f"p{n}") for n in range(50, 53)])
    found = nearest(backend, REGION, at(0.0), 3, ALL)
    assert [one.defect.path for one in found] == ["many.png", "p50.png", "p51.png"]
    assert found[0].similarity == pytest.approx(np.cos(0.001), abs=1e-6)
    assert len(nearest(backend, REGION, at(0.0), 30, ALL)) == 4


def test_references_are_distances_of_the_worst_regions_to_other_images(backend: EdgeBackend):
    backend.insert(
        [
            region(1, 0.0, image="a", score=9.0),
            region(2, 0.1, image="a", score=1.0),
            region(3, 0.3, image="b"),
            region(4, 1.0, image="c"),
        ]
    )
    found = sorted(reference_distances(backend, ALL))
    np.testing.assert_allclose(found, sorted([1 - np.cos(0.3), 1 - np.cos(0.2), 1 - np.cos(0.7)]), atol=1e-5)


def test_references_of_a_large_store_are_a_sample(backend: EdgeBackend):
    backend.insert([region(n, n / 100, image=f"p{n}") for n in range(1, 30)])
    assert len(reference_distances(backend, ALL, n_images=5)) == 5


def test_labelled_neighbours_vote_and_the_others_do_not(backend: EdgeBackend):
    backend.insert([region(1, 0.0, image="a"), region(2, 0.2, image="b", label="dent")])
    near = suggest(backend, at(0.01), 10, ALL, np.full(30, 0.5))
    assert (near.label, near.confidence, len(near.matches)) == ("dent", 1.0, 1)
    far = suggest(backend, at(3.0), 10, ALL, np.full(30, 0.5))
    assert (far.label, far.is_novel, far.confidence) == (None, True, 0.0)
    assert far.votes == {"dent": 1.0}
    unlabelled = suggest(backend, at(0.0), 10, Filter(equals={"label": ["none"]}), np.full(30, 0.5))
    assert (unlabelled.label, unlabelled.is_novel) == (None, True)


def test_groups_have_names_and_the_most_typical_first(backend: EdgeBackend):
    backend.insert([region(n, 0.01 * n, image=f"p{n}", label="dent" if n == 3 else None) for n in range(1, 6)])
    backend.insert([region(9, 2.0, image="p9")])
    first, second = groups(backend, ALL, 0.9, np.array([]))
    assert (first.name, len(first.members), first.n_unlabelled, dict(first.labels)) == ("dent", 5, 4, {"dent": 1})
    assert first.members[0].id == str(uuid.UUID(int=3))
    angles = 0.01 * np.arange(1, 6)
    pairs = np.cos(angles[:, None] - angles)[~np.eye(5, dtype=bool)]
    assert first.similarity == pytest.approx(pairs.mean(), abs=1e-5)
    assert (second.name, second.similarity) == (None, 1.0)
    assert first.to_dict()["n_unlabelled"] == 4
    assert len(groups(backend, ALL, None, np.array([]))) == 6
