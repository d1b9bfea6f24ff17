"""Arguments of anomalib are refused with their replacement; no argument of this package is."""

from __future__ import annotations

import inspect

import pytest

from blemish import EfficientAd, Engine, Folder, MVTecAD, Patchcore
from blemish._validation.anomalib_arguments import OF_DATA_SETS, OF_DETECTORS, OF_ENGINE
from blemish.errors import InputError

REFUSED = [
    *((cls, name) for cls in (Patchcore, EfficientAd) for name in OF_DETECTORS),
    *((Engine, name) for name in OF_ENGINE),
    *((cls, name) for cls in (MVTecAD, Folder) for name in OF_DATA_SETS),
    (MVTecAD, "seed"),
]


@pytest.mark.parametrize(("cls", "name"), REFUSED)
def test_each_is_refused_with_advice_and_is_no_argument_of_ours(cls, name):
    with pytest.raises(
        InputError, match=rf"^{name}: expected to be left out, got 'x', in {cls.__name__}\(\.\.\.\)\. \w+"
    ):
        cls(**{name: "x"})
    assert name not in inspect.signature(cls).parameters


def test_a_long_value_is_cut():
    with pytest.raises(InputError, match=r"got 'x{59}, in Engine"):
        Engine(task="x" * 1000)


@pytest.mark.parametrize("cls", [Patchcore, EfficientAd, Engine, MVTecAD, Folder])
def test_a_word_that_nobody_knows_is_pythons_error(cls):
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        cls(colour="red")
    assert len(inspect.signature(cls).parameters) > 2
