"""Two processes save into one folder at once, again and again, and a third reads; the result is printed as JSON.

python -m tests.double_saves FOLDER ROUNDS
"""

from __future__ import annotations

import json
import shutil
import sys
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from blemish.errors import BlemishError, ModelFileError
from blemish.modelfolder.folder import load_model
from tests.models import save_small


def saver(folder: Path, value: float, rounds: int, barrier: Barrier, errors: list[str]) -> None:
    for _ in range(rounds):
        barrier.wait(60)
        try:
            save_small(folder, value)
        except BlemishError as error:
            errors.append(str(error))
        barrier.wait(60)
        barrier.wait(60)  # the parent looks at the folder


def reader(folder: Path, stop: Event, errors: list[str]) -> None:
    while not stop.is_set():
        try:
            load_model(folder)
        except ModelFileError as error:
            if "nothing there" not in str(error):
                errors.append(str(error))


def value_of(folder: Path) -> float:
    return float(load_model(folder).tensors["bank.safetensors"]["memory_bank"][0, 0])


def main(root: Path, rounds: int) -> None:
    context = get_context("spawn")
    with context.Manager() as manager:
        barrier, stop = context.Barrier(3), context.Event()
        failed, unread = manager.list(), manager.list()
        folder = root / "m"
        jobs = [context.Process(target=saver, args=(folder, value, rounds, barrier, failed)) for value in (1.0, 2.0)]
        jobs.append(context.Process(target=reader, args=(folder, stop, unread)))
        for job in jobs:
            job.start()
        broken: list[str] = []
        winners = {1.0: 0, 2.0: 0}
        for i in range(rounds):
            barrier.wait(60)
            barrier.wait(60)
            try:
                winners[value_of(folder)] += 1
                names = sorted(path.name for path in root.iterdir())
                if names != ["m"] or sorted(path.name for path in folder.iterdir()) != FILES:
                    broken.append(f"{i}: {names}")
            except ModelFileError as error:
                broken.append(f"{i}: {error}")
            if i % 3 == 0:
                shutil.rmtree(folder)  # the next two make a new one
            barrier.wait(60)
        stop.set()
        for job in jobs:
            job.join(60)
        # The reader may meet the folder while this program deletes it.
        unread_while_saved = [text for text in unread if "got nothing" not in text]
        print(json.dumps({"broken": broken, "failed": list(failed), "unread": unread_while_saved, **winners}))


FILES = ["bank.safetensors", "model.json", "network.onnx"]

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
