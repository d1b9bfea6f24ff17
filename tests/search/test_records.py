"""The records of the store of defects."""

from __future__ import annotations

import json

import numpy as np

from blemish.search.records import Found, Group, Match, StoredDefect, Suggestion

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
    plain = StoredDefect.from_payload(Found("i", PAYLOAD))
    assert (plain.box, plain.label, plain.labelled_by, plain.forced) == ((1, 2, 3, 4), None, None, False)
    np.testing.assert_array_equal(plain.contour, [[1, 2], [3, 4]])
    named = StoredDefect.from_payload(Found("i", PAYLOAD | {"label": "x", "labelled_by": "Ann", "forced": True}))
    assert (named.label, named.labelled_by, named.forced) == ("x", "Ann", True)


def test_all_that_is_said_fits_in_json():
    one = StoredDefect.from_payload(Found("i", PAYLOAD))
    match = Match(one, 0.5)
    said = Suggestion("x", 0.9, {"x": 0.9, "y": 0.1}, False, 0.3, (match,))
    group = Group(None, (one,), {}, 1.0)
    read = json.loads(json.dumps([match.to_dict(), said.to_dict(), group.to_dict()]))
    assert read[0]["similarity"] == 0.5
    assert read[0]["box"] == [1, 2, 3, 4]
    assert read[1]["matches"][0]["id"] == "i"
    assert (read[2]["n"], read[2]["n_unlabelled"]) == (1, 1)
