"""The constructor of a detector, made of its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from blemish._validation.anomalib_arguments import OF_DETECTORS, refuses

if TYPE_CHECKING:
    from blemish.detectors.settings import Settings

P = ParamSpec("P")


def constructor(settings: Callable[P, Settings]) -> Callable[Concatenate[Any, P], None]:
    """Return the `__init__` of a detector, whose arguments are the fields of its settings.

    anomalib's arguments that have no meaning here are refused with what to do instead.
    """

    def configure(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> None:
        check = refuses(type(self).__name__, OF_DETECTORS)(settings)
        self._configure(check(*args, **kwargs))

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = inspect.signature(settings)
    configure.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[own, *signature.parameters.values()], return_annotation=None
    )
    configure.__name__ = configure.__qualname__ = "__init__"
    configure.__doc__ = None
    return configure
