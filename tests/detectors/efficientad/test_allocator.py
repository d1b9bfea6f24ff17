"""Memory is kept inside the block alone, and nothing else changes."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from blemish.detectors.efficientad.allocator import kept_memory


def test_work_goes_on_inside_and_after():
    with kept_memory():
        inside = np.ones(10_000_000).sum()
    assert inside == np.ones(10_000_000).sum()


def test_an_error_comes_through():
    with pytest.raises(ZeroDivisionError), kept_memory():
        _ = 1 / 0


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("it was asked for"))
    with kept_memory():
        pass
