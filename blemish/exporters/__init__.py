"""Export of a fitted detector as one graph of another format, and the comparison of that with the model."""

from blemish.exporters.comparison import Verification
from blemish.exporters.saving import export, verify

__all__ = ["Verification", "export", "verify"]
