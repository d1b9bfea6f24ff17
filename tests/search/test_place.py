"""Where a store is."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.errors import InputError
from blemish.search.place import Place


def place(**changes: object) -> Place:
    said = {"folder": None, "url": None, "api_key": None, "collection": "c", "timeout_s": 1.0, "retries": 0}
    return Place(**{**said, **changes})  # type: ignore[arg-type]


def test_it_is_a_folder_or_a_server():
    with pytest.raises(InputError, match=r"store: expected a folder .*, got neither"):
        place()
    with pytest.raises(InputError, match="got both"):
        place(folder="s", url="http://localhost")
    with pytest.raises(InputError, match="collection: expected"):
        place(folder="s", collection="")


def test_errors_name_it_without_its_key():
    assert place(folder=Path("a") / "s").name == str(Path("a") / "s")
    server = place(url="http://localhost:6333", api_key="secret")
    assert server.name == "http://localhost:6333, collection c"
    assert "secret" not in repr(server)
