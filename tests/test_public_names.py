"""The face of the package: exactly these names, each with a word about it, and none that costs time to import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import blemish

PUBLIC = [
    "BlemishError",
    "DataError",
    "DefectStore",
    "EfficientAd",
    "Engine",
    "FetchError",
    "Folder",
    "ImageError",
    "InputError",
    "MVTec",
    "MVTecAD",
    "Manifest",
    "ModelFileError",
    "NotFittedError",
    "Padim",
    "Patchcore",
    "Prediction",
    "Report",
    "Sample",
    "SaveError",
    "StoreError",
    "__version__",
    "export",
    "load",
    "prepare_defect_search",
    "verify",
]
HEAVY = (
    "cv2",
    "jinja2",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "qdrant_client",
    "qdrant_edge",
    "rich",
    "torch",
    "typer",
)


def loaded_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running `code`."""
    command = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_the_names_are_these():
    assert sorted(blemish.__all__) == sorted(PUBLIC)


def test_dir_leaks_nothing():
    assert sorted(dir(blemish)) == sorted(PUBLIC)


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_each_name_is_there_and_documented(name: str):
    found = getattr(blemish, name)
    assert inspect.isclass(found) or name in {"export", "load", "prepare_defect_search", "verify"}
    assert found.__module__.startswith("blemish.")
    text = inspect.getdoc(found)
    # A dataclass without a docstring gets its own signature as one.
    assert text
    assert not text.startswith(f"{name}(")


@pytest.mark.parametrize(
    "name", ["DefectStore", "EfficientAd", "Engine", "Folder", "MVTecAD", "Manifest", "Padim", "Patchcore"]
)
def test_each_public_method_is_documented(name: str):
    members = inspect.getmembers_static(getattr(blemish, name)) if sys.version_info >= (3, 11) else ()
    for member, value in members:
        if not member.startswith("_") and not inspect.getdoc(value):
            pytest.fail(f"{name}.{member} says nothing")


def test_the_version_is_text():
    assert blemish.__version__.split(".")[0].isdigit()


def test_another_name_is_refused():
    with pytest.raises(AttributeError, match="module 'blemish' has no attribute 'Cflow'"):
        _ = blemish.Cflow


def test_importing_loads_nothing_heavy():
    assert not loaded_after("import blemish\nblemish.__version__, dir(blemish)") & set(HEAVY)


@pytest.mark.slow
def test_patchcore_needs_no_torch_and_no_plots():
    loaded = loaded_after("from blemish import Engine, MVTecAD, Patchcore\nPatchcore()")
    assert not loaded & {
        "jinja2",
        "torch",
        "matplotlib",
        "qdrant_client",
        "qdrant_edge",
        "rich",
        "typer",
        "sklearn",
        "scipy",
        "pandas",
    }
