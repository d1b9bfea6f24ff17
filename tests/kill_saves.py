"""Run by test_modelfile: kill a save before each of its steps on the disk, and print what is left as JSON.

It is a program of its own because it forks: the process that runs the tests has threads.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from blemish.errors import ModelFileError
from blemish.modelfolder.folder import load_model
from tests.models import save_small

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def save_until(folder: Path, value: float, step: int) -> None:
    """Save, and die as by kill -9 before the step of that number."""
    real_fsync, count = os.fsync, 0

    def tick(event: str, _: Any) -> None:
        nonlocal count
        if event in STEPS:
            count += 1
            if count == step:
                os._exit(9)

    def fsync(handle: int) -> None:
        tick("open", ())
        real_fsync(handle)

    os.fsync = fsync
    sys.addaudithook(tick)
    save_small(folder, value)
    os._exit(0)


def left(folder: Path) -> str:
    """Return which model can be loaded."""
    try:
        model = load_model(folder)
    except ModelFileError as error:
        return "none" if "nothing there" in str(error) else f"BROKEN: {error}"
    return str(float(model.tensors["bank.safetensors"]["memory_bank"][0, 0]))


def main(root: Path) -> None:
    save_small(root / "template", 1.0)
    outcomes = []
    for start in ("absent", "model", "killed between the renames"):
        for step in range(1, 200):
            home = root / f"{start[:3]}-{step}"
            home.mkdir()
            if start != "absent":
                shutil.copytree(root / "template", home / ("m" if start == "model" else ".m.blemish-old"))
            child = os.fork()
            if child == 0:
                save_until(home / "m", 2.0, step)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            outcome = {"start": start, "step": step, "code": code, "left": left(home / "m")}
            outcome["target"] = (home / "m").exists()
            save_small(home / "m", 3.0)
            outcome["next"] = left(home / "m")
            outcome["litter"] = [p.name for p in home.iterdir() if p.name != "m"]
            outcomes.append(outcome)
            if code == 0:
                break
    sys.stdout.write(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
