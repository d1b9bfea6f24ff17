"""Lets torchvision be imported beside a CPU build of torch: declares the operators that its own library would bring.

torchvision from PyPI is built for CUDA. Beside a CPU build of torch its library does not load, and importing it fails
at `torchvision::nms` and others, which anomalib never calls. `install(site_packages)` writes a hook into an environment
for measuring; no part of the package uses it.

    python benchmarks/torchvision_shim.py /path/to/venv
"""

from __future__ import annotations

import sys
from pathlib import Path

HOOK = '''
import importlib.abc, sys


class _Declare(importlib.abc.MetaPathFinder):
    """Declares the operators when torchvision is first imported, and not before: torch takes seconds to load."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for schema in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width,"
            " int sampling_ratio, bool aligned) -> Tensor",
            "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width)"
            " -> (Tensor, Tensor)",
            "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width,"
            " int sampling_ratio) -> (Tensor, Tensor)",
            "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width)"
            " -> (Tensor, Tensor)",
            "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h,"
            " SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups,"
            " SymInt offset_groups, bool use_mask) -> Tensor",
        ):
            try:
                library.define(schema)
            except RuntimeError:  # the library did load, and has them
                pass
        torch._blemish_torchvision_library = library  # kept alive: it takes its operators with it
        return None


sys.meta_path.insert(0, _Declare())
'''


def install(venv: Path) -> Path:
    """Write the hook into a virtual environment, where Python runs it at every start, and return its path."""
    (packages,) = sorted(venv.glob("lib/python3*/site-packages"))
    path = packages / "blemish_torchvision_shim.py"
    path.write_text(HOOK, encoding="utf-8")
    (packages / "blemish_torchvision_shim.pth").write_text("import blemish_torchvision_shim\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    print(install(Path(sys.argv[1])))
