"""Damage stores in a folder, one file each, and open them: is a loss ever silent, and does the process live?

    python benchmarks/damaged_stores.py --stores 500 --json out.json

Each store is a copy of one with 51 regions of 17 images; one of its files is damaged at random: bits, zeros, parts
cut, moved or lost, numbers of JSON. Half of the stores were closed (they have a seal), half were killed while they were
open.
A process opens each and reads all regions. What it answers is compared with what was acknowledged. Exits with 1 if a
loss was silent, or the process crashed, took over 10 s of processor time or over 1.5 GB, or any other exception than a
`BlemishError` was raised.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from results import add_json_option, table
from results import write as write_results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blemish import DefectStore
from blemish.errors import BlemishError
from blemish.search.backends.edge import EdgeBackend
from blemish.search.backends.interface import IMAGE, REGION, Filter, Point
from blemish.search.backends.ledger import digest_of
from blemish.search.backends.seal import SEAL
from blemish.search.encoder import DIMS, NAME

N_IMAGES, REGIONS = 17, 3
LIMIT_S, LIMIT_BYTES = 10.0, 1_500_000_000
KINDS = ("bit", "bits", "zeros", "ones", "cut", "doubled", "moved", "lost", "number", "empty", "random")


def template(folder):
    """Write a store of 51 regions of 17 images; return what it acknowledged."""
    rng = np.random.default_rng(0)
    backend = EdgeBackend(folder, DIMS)
    meta = {"format_version": 2, "descriptor": NAME, "dims": DIMS, "models": {"part": {"id": "m", "good": {}}}}
    backend.write_meta(meta)
    for i in range(N_IMAGES):
        points = [point(rng, IMAGE, i, 0)] + [point(rng, REGION, i, n) for n in range(REGIONS)]
        backend.insert(points)
        backend.set_payload([points[-1].id], {"label": f"type {i % 5}"})
    backend.close()
    return acknowledged(folder)


def point(rng, kind, i, n):
    vector = rng.standard_normal(DIMS[kind]).astype(np.float32)
    payload = {
        "kind": kind, "category": "part", "path": f"/images/{i}.png", "sha256": f"{i:064x}", "image_hw": [96, 96],
        "p_value": 0.01, "model": "m", "time": "2026-01-01T00:00:00.000+00:00", "label": f"type {i % 7}",
        "box": [n, i, 8, 8], "area_px": 64, "contour": "1,1 2,2 3,3", "score": float(rng.random()), "forced": False,
    }  # fmt: skip
    id_ = f"{2 * i + (kind == IMAGE):08x}-0000-4000-8000-{n:012x}"
    return Point(id_, {kind: vector / np.linalg.norm(vector)}, payload)


def acknowledged(folder):
    """Return the digest of each point of a store, and its labels."""
    with DefectStore(folder) as store:
        backend = store._backend
        return {
            found.id: digest_of(found.payload, {kind: found.vector})
            for kind in DIMS
            for found in backend.scan(Filter().with_equals(kind=kind), using=kind)
        }


def damage(folder, rng):
    """Damage one file; return its name and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in {"lock", "holder"})
    path, kind = rng.choice(files), rng.choice(KINDS)
    size = path.stat().st_size
    if kind == "lost":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        os.truncate(path, rng.randrange(size) if size else 0)
    elif kind == "number" and path.suffix == ".json":
        text = path.read_text()
        numbers = list(re.finditer(r"\d+", text))
        if numbers:
            found = rng.choice(numbers)
            new = rng.choice(["0", "1", "999999999999", "4294967296", "18446744073709551615", "-1", "1048576"])
            path.write_text(text[: found.start()] + new + text[found.end() :])
    else:
        overwrite(path, kind, rng)
    return f"{path.relative_to(folder)}: {kind}"


def overwrite(path, kind, rng):
    """Change bytes where the file has data, mostly in its first kilobytes."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        data = file.read(1 << 16)
        used = max(1, len(data.rstrip(b"\0")))
        for _ in range(8 if kind == "bits" else 1):
            at, length = rng.randrange(used), rng.choice((1, 4, 8, 64, 512))
            old = data[at : at + length]
            new = {
                "bit": lambda old=old: bytes([old[0] ^ (1 << rng.randrange(8))]) if old else b"\1",
                "bits": lambda old=old: bytes([old[0] ^ (1 << rng.randrange(8))]) if old else b"\1",
                "zeros": lambda length=length: bytes(length),
                "ones": lambda length=length: b"\xff" * length,
                "doubled": lambda old=old: old * 2,
                "moved": lambda length=length: data[rng.randrange(used) :][:length],
            }.get(kind, lambda length=length: rng.randbytes(length))()
            file.seek(at)
            file.write(new)
        file.truncate(max(size, file.tell()))


def processor_s():
    """Return the processor time of this process and of those that it started: others use the machine too."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def serve():
    """Open each store whose folder is read from stdin; print as JSON what happened."""
    for line in sys.stdin:
        start = processor_s()
        try:
            points, text = acknowledged(line.strip()), ""
        except BlemishError as error:
            points, text = None, f"{type(error).__name__}: {error}"
        except BaseException as error:
            points, text = None, f"TRACEBACK {type(error).__name__}: {error}"[:300]
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({"points": points, "text": text, "s": processor_s() - start, "peak": peak}), flush=True)


class Opener:
    """A process that opens stores, and is started again when one ended it."""

    def __init__(self):
        self.process = None

    def open(self, folder):
        """Return the answer of the process, or {"crash": exit code}, or {"hang": True}."""
        if self.process is None:
            command = [sys.executable, __file__, "--serve"]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 6 * LIMIT_S)
        line = self.process.stdout.readline() if ready else ""
        if line:
            answer = json.loads(line)
            if answer["peak"] > LIMIT_BYTES:
                self.end()
            return answer
        self.process.kill()
        answer = {"crash": self.process.wait()} if ready else {"hang": True}
        self.end()
        return answer

    def end(self):
        """Kill the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def verdict(answer, expected):
    """Return one word for what happened."""
    if "crash" in answer:
        return "crashed"
    if "hang" in answer or answer["s"] > LIMIT_S:
        return "too slow"
    if answer["peak"] > LIMIT_BYTES:
        return "too much memory"
    if answer["text"].startswith("TRACEBACK"):
        return "traceback"
    if answer["text"]:
        return "refused"
    return "nothing lost" if answer["points"] == expected else "silent loss"


def copied(folder, target):
    """Copy a folder with its holes."""
    subprocess.run(["cp", "-r", "--sparse=always", folder, target], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    add_json_option(parser, __file__)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    rng, opener, rows, bad = random.Random(arguments.seed), Opener(), [], 0
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        expected = template(home / "closed")
        copied(home / "closed", home / "killed")
        (home / "killed" / SEAL).unlink()
        for state in ("closed", "killed"):
            counts, worst = Counter(), {"s": 0.0, "peak": 0}
            for _ in range(arguments.stores // 2):
                copied(home / state, home / "s")
                what = damage(home / "s", rng)
                answer = opener.open(home / "s")
                word = verdict(answer, expected)
                counts[word] += 1
                worst = {key: max(value, answer.get(key, 0)) for key, value in worst.items()}
                if word not in {"refused", "nothing lost"}:
                    print(f"{state}: {word}: {what}: {str(answer)[:300]}")
                shutil.rmtree(home / "s")
            bad += sum(counts.values()) - counts["refused"] - counts["nothing lost"]
            row = {word: counts[word] for word in ("refused", "nothing lost", "silent loss", "traceback", "crashed")}
            row |= {"over 10 s": counts["too slow"], "over 1.5 GB": counts["too much memory"]}
            rows.append({"store": f"{state} store, damaged", "stores": sum(counts.values()), **row})
            print(rows[-1], worst)
        opener.end()
    formats = {name: ["d"] for name in rows[0] if name != "store"}
    write_results(arguments.json, [table("damaged stores", rows, formats=formats)], {row["store"]: row for row in rows})
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
