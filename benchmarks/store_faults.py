"""Kill -9 during a load: is every region there that was acknowledged, and none twice?

    BLEMISH_QDRANT=path/to/qdrant python benchmarks/store_faults.py --kills 10 --json out.json

A writer adds images of three regions each through `DefectStore` and prints the number of each one after `add` has
returned. It is killed at a random moment, again and again, and starts from the first image each time, until all are
in: in a folder, then on a real server; then the server is killed and started again while one writer goes on. After each
kill every acknowledged region must be there with its label and vector, and no id or place twice. Exits with 1 if not,
or if no kill came during a load.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from results import add_json_option, table
from results import write as write_results

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blemish import DefectStore, Patchcore
from blemish.search import RegionEncoder
from blemish.search.backends.interface import REGION, Filter
from blemish.search.encoder import normalized
from tests.images import scratched, small_patchcore, write_goods
from tests.qdrant_server import VARIABLE, QdrantServer, binary

REGIONS = 3


def place_of(text):
    return {"url": text, "collection": "faults", "retries": 8} if text.startswith("http") else {"folder": text}


def made_up(template, i):
    """Return image number i: the template with vectors, boxes and a hash of its own."""
    rng = np.random.default_rng(i)
    sha256 = f"{i:064x}"
    regions = []
    for n in range(REGIONS):
        encoded = template.regions[0]
        vector = normalized(rng.standard_normal(len(encoded.vector)).astype(np.float32))
        region = encoded.region._replace(box=(n, i % 50, 8, 8))
        regions.append(encoded._replace(vector=vector, sha256=sha256, region=region))
    return template._replace(path=Path(f"/images/{i}.png"), sha256=sha256, regions=tuple(regions))


def write(model, place, total):
    """Add the images in order, and print the number of each once it is stored."""
    with DefectStore(**place_of(place), model=Patchcore.load(model)) as store:
        template = store.encode(scratched(1)[0], force=True)
        for i in range(total):
            store.add_encoded(made_up(template, i), label=f"type {i % 7}")
            print(i, flush=True)


def start_writer(model, place, total):
    command = [sys.executable, __file__, "--write", str(model), "--place", place, "--images", str(total)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(output):
    """Return the number of images that were acknowledged in whole lines."""
    lines = [line for line in output.split("\n")[:-1] if line]
    return int(lines[-1]) + 1 if lines else 0


def check_store(encoder, place, template, n_acknowledged):
    """Return the errors of a store, none if each acknowledged region is there once, and its number of regions."""
    wrong = []
    with DefectStore(**place_of(place), model=encoder) as store:
        points = list(store._backend.scan(Filter(equals={"kind": [REGION]}), using=REGION))
    ids = Counter(point.id for point in points)
    places = Counter((point.payload["sha256"], tuple(point.payload["box"])) for point in points)
    wrong += [f"{key} {n} times" for counted in (ids, places) for key, n in counted.items() if n > 1]
    stored = {(point.payload["sha256"], tuple(point.payload["box"])): point for point in points}
    for i in range(n_acknowledged):
        for region in made_up(template, i).regions:
            point = stored.get((region.sha256, region.region.box))
            label = f"type {i % 7}"
            if point is None:
                wrong.append(f"image {i}: a region is missing")
            elif point.payload.get("label") != label or not np.allclose(point.vector, region.vector, atol=1e-5):
                wrong.append(f"image {i}: another label or vector")
    return wrong, len(points)


def kill_writers(encoder, model, place, template, total, kills, rng):
    """Kill writer after writer; return the result row."""
    result, most = {"kills": 0, "acknowledged at kills": [], "wrong": []}, 0
    for n in range(kills + 1):
        writer = start_writer(model, place, total)
        first = writer.stdout.readline()  # it is at work; where it is killed is up to chance from here
        if n < kills:
            time.sleep(rng.uniform(0, 1.5))
            writer.kill()
        rest = writer.stdout.read()
        code = writer.wait()
        n_acknowledged = acknowledged(first + rest)
        result["kills"] += n < kills and n_acknowledged < total  # later ones interrupt nothing
        most = max(most, n_acknowledged)
        wrong, n_found = check_store(encoder, place, template, most)
        result["wrong"] += wrong
        result["acknowledged at kills"].append(n_acknowledged * REGIONS)
        if n == kills:
            result |= {"regions at the end": n_found, "expected": total * REGIONS, "last writer's exit": code}
    return result


def kill_server(server, encoder, model, template, total, kills, rng):
    """Kill the server under one writer, which continues when it is back; return the result row."""
    result = {"kills": 0, "acknowledged at kills": [], "wrong": []}
    output: list[str] = []
    writer = start_writer(model, server.url, total)
    reader = threading.Thread(target=lambda: output.extend(writer.stdout))
    reader.start()
    while not output and writer.poll() is None:
        time.sleep(0.05)
    for _ in range(kills):
        time.sleep(rng.uniform(0.3, 2.0))
        if writer.poll() is not None:
            break
        server.kill()
        result["kills"] += 1
        time.sleep(0.3)
        n_acknowledged = acknowledged("".join(output))
        server.start()
        wrong, _ = check_store(encoder, server.url, template, n_acknowledged)
        result["wrong"] += wrong
        result["acknowledged at kills"].append(n_acknowledged * REGIONS)
    code = writer.wait()
    reader.join()
    wrong, n_found = check_store(encoder, server.url, template, acknowledged("".join(output)))
    result["wrong"] += wrong
    return result | {"regions at the end": n_found, "expected": total * REGIONS, "last writer's exit": code}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    add_json_option(parser, __file__)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write is not None:
        write(arguments.write, arguments.place, arguments.images)
        return
    program = binary()
    if program is None:
        sys.exit(f"set {VARIABLE} to a Qdrant server's program")
    rng, rows = random.Random(arguments.seed), {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        detector = small_patchcore().fit(write_goods(home / "good"))
        model = detector.save(home / "model")
        encoder = RegionEncoder(Patchcore.load(model))
        encoder.fit()
        template = encoder.encode(scratched(1)[0], force=True)
        common = (template, arguments.images, arguments.kills, rng)
        rows["writer killed, folder"] = kill_writers(encoder, model, str(home / "store"), *common)
        server = QdrantServer(program, home / "qdrant").start()
        rows["writer killed, server"] = kill_writers(encoder, model, server.url, *common)
        server.kill()
        server = QdrantServer(program, home / "qdrant2").start()
        rows["server killed"] = kill_server(server, encoder, model, *common)
        server.kill()
    failed = False
    for name, row in rows.items():
        whole = row["regions at the end"] == row["expected"] and row["last writer's exit"] == 0
        failed |= bool(row["wrong"]) or not whole or not row["kills"]
        if not row["kills"]:
            print(f"{name}: the load was over before the first kill; give more --images")
        print(
            f"{name}: {row['kills']} kills after {row['acknowledged at kills']} acknowledged regions; "
            f"wrong: {row['wrong'][:3] or 'nothing'}; at the end {row['regions at the end']} of {row['expected']}"
        )
    shown = [
        {"killed": name, "kills": row["kills"], "wrong": str(row["wrong"] or "nothing")} for name, row in rows.items()
    ]
    write_results(arguments.json, [table("kill -9 during a load", shown, formats={"kills": ["d"]})], rows)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
