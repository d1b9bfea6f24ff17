"""Records of the store of defects."""

from __future__ import annotations

import json

import numpy as np

from blemish.search import Group, Match, StoredDefect, Suggestion
from blemish.search.backends.interface import StoredPoint

PAYLOAD = {
    "kind": "region",
    "category": "c",
    "path": "a.png",
    "sha256": "0",
    "box": [1, 2, 3, 4],
    "area_px": 5,
    "contour": "1,2 3,4",
    "score": 6,
    "p_value": 0.5,
    "model": "m",
    "time": "t",
}


def test_a_record_is_read_from_a_payload_with_and_without_a_label():
    plain = StoredDefect.from_point(StoredPoint("i", PAYLOAD))
    assert (plain.box, plain.label, plain.labelled_by, plain.forced) == ((1, 2, 3, 4), None, None, False)
    np.testing.assert_array_equal(plain.contour, [[1, 2], [3, 4]])
    named = StoredDefect.from_point(StoredPoint("i", PAYLOAD | {"label": "x", "labelled_by": "Ann", "forced": True}))
    assert (named.label, named.labelled_by, named.forced) == ("x", "Ann", True)


def test_all_records_fit_in_json():
    one = StoredDefect.from_point(StoredPoint("i", PAYLOAD))
    match = Match(one, 0.5)
    suggestion = Suggestion("x", 0.9, {"x": 0.9, "y": 0.1}, False, 0.3, (match,))
    group = Group(None, (one,), {}, 1.0)
    read = json.loads(json.dumps([match.to_dict(), suggestion.to_dict(), group.to_dict()]))
    assert read[0]["similarity"] == 0.5
    assert read[0]["box"] == [1, 2, 3, 4]
    assert read[1]["matches"][0]["id"] == "i"
    assert (read[2]["n"], read[2]["n_unlabelled"]) == (1, 1)
