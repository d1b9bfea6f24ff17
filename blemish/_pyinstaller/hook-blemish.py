"""What PyInstaller can't see: modules that are loaded by name, templates, weights, and engines where installed."""

from __future__ import annotations

import importlib.util

from PyInstaller.utils.hooks import collect_data_files, collect_dynamic_libs, collect_submodules

from blemish.backbones.registry import SOURCES

# They run beside other programs, or only build: an application that needs one names it.
LEFT_OUT = ("blemish._pyinstaller", "blemish.interop.anomalib.engine", "blemish.interop.anomalib.compare")
ENGINES = ("qdrant_edge", "filelock", "onnxruntime", "kornia_rs")

datas = collect_data_files("blemish")
binaries = []
hiddenimports = collect_submodules("blemish", filter=lambda name: not name.startswith(LEFT_OUT))
weights = {file.member.partition("/")[0] for source in SOURCES.values() for file in source.files if file.member}
for package in sorted(weights):
    if importlib.util.find_spec(package) is not None:
        datas += collect_data_files(package)
        hiddenimports.append(package)
for package in ENGINES:
    if importlib.util.find_spec(package) is not None:
        binaries += collect_dynamic_libs(package)
        hiddenimports.append(package)
