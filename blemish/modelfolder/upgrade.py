"""Headers of earlier format versions, brought to the present one when a model folder is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMAT_VERSION = 2

RENAMED_SETTINGS = {"false_alarm_rate": "false_positive_rate", "whole_picture": "score_fusion"}


def upgraded(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header of an earlier format version as the present version writes it; others as they are.

    Args:
        header: the content of `model.json`, whose format_version, settings and thresholds were checked for their type.
    """
    result = dict(header)
    for version in range(result["format_version"], FORMAT_VERSION):
        result = UPGRADES[version](result)
    return result


def _from_version_1(header: dict[str, Any]) -> dict[str, Any]:
    """Version 1 (0.1.0) said false_alarm_rate and whole_picture."""
    return {
        **header,
        "format_version": 2,
        "settings": {RENAMED_SETTINGS.get(name, name): value for name, value in header["settings"].items()},
        "thresholds": {RENAMED_SETTINGS.get(name, name): value for name, value in header["thresholds"].items()},
    }


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_version_1}
