"""anomalib: checkpoints in and out, acceleration, and the comparison with an installed one."""

from blemish.interop.anomalib.acceleration import accelerate
from blemish.interop.anomalib.checkpoints import export_checkpoint, import_checkpoint

__all__ = ["accelerate", "export_checkpoint", "import_checkpoint"]
