"""Instruction sets of the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from blemish.runtime.precision import has_instructions


@pytest.fixture(autouse=True)
def _forget():
    has_instructions.cache_clear()
    yield
    has_instructions.cache_clear()


def test_one_of_the_names_is_enough(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags\t\t: fpu avx2 amx_bf16 amx_tile\n")
    assert has_instructions("avx512_bf16", "amx_bf16")
    assert not has_instructions("avx512_bf16")
    assert not has_instructions("amx")


def test_without_a_list_nothing_is_claimed(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert not has_instructions("amx_bf16")
