"""Usage data that engines send to their makers unless they are told not to: nothing leaves this machine unasked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# ONNX Runtime reads it when it is imported; without it, 1.32 writes a device id into the home folder and sends events.
ONNXRUNTIME = "ORT_DISABLE_TELEMETRY"
# OpenVINO sends an event when it is imported; where this package is missing it has a stub of it, which does not.
OPENVINO = "openvino_telemetry"


def disable_onnxruntime() -> None:
    """Tell ONNX Runtime, here and in processes that start here, to send nothing; who set the variable decides."""
    os.environ.setdefault(ONNXRUNTIME, "1")


@contextmanager
def without_openvino() -> Iterator[None]:
    """Let OpenVINO be imported within the context, and send nothing."""
    is_known = OPENVINO in sys.modules
    sys.modules.setdefault(OPENVINO, None)  # type: ignore[arg-type]  # the import system's sign that there is none
    try:
        yield
    finally:
        if not is_known:
            del sys.modules[OPENVINO]
