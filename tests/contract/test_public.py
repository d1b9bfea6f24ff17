"""The names that users import, and how errors relate."""

from __future__ import annotations

import blemish

NAMES = {
    "BlemishError", "DataError", "DefectStore", "EfficientAd", "Engine", "FetchError", "Folder", "ImageError",
    "InputError", "MVTec", "MVTecAD", "Manifest", "ModelFileError", "NotFittedError", "Patchcore", "Prediction",
    "Report", "Sample", "SaveError", "StoreError", "__version__",
}  # fmt: skip


def test_the_public_names_are_there():
    assert set(blemish.__all__) >= NAMES
    assert set(dir(blemish)) == set(blemish.__all__)
    for name in NAMES:
        assert getattr(blemish, name)
    assert blemish.MVTec is blemish.MVTecAD


def test_errors_can_be_caught_as_one_and_as_pythons_own():
    builtin = {
        "DataError": ValueError, "FetchError": OSError, "ImageError": OSError, "InputError": ValueError,
        "ModelFileError": ValueError, "NotFittedError": RuntimeError, "SaveError": OSError, "StoreError": OSError,
    }  # fmt: skip
    for name, kind in builtin.items():
        found = getattr(blemish, name)
        assert issubclass(found, blemish.BlemishError)
        assert issubclass(found, kind)
    assert issubclass(blemish.DataError, blemish.InputError)
