"""What does the station cost over a prediction in process, and does it keep up with many clients?

    python benchmarks/station_load.py --work /tmp/station-load
    python benchmarks/station_load.py --work /tmp/station-load --seconds 600

Images are drawn: tiles of 1024 x 1024 pixels, PNG files of 1.7 MB, and for one client JPEG files of 512 x 512 as well.
The station is a process of its own on this machine, and so are its clients, which take their part of the same cores.
One client: predictions in process (decoding included) and over HTTP take turns, with the same threads. Many clients:
images a second in process before and after, and through the station in between, with as many images at once. Beside
the clock's time the processor's is measured, in the station alone, which other programs on the machine disturb less;
the shortest of all times is what an idle machine takes.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from results import add_json_option, table, write

from blemish import Patchcore, load
from blemish.data.synthetic.demo import make_demo
from blemish.imaging.decode import decode
from blemish.station import InspectionFilter, InspectionService

N_WARM = 4  # the first images load and warm up


def prepared(work, *, image_size=1024, ending=".png"):
    """Return the model folder and the bytes of test images, JPEG or PNG."""
    root = make_demo(
        work / f"images-{image_size}", image_size=image_size, n_train=20, n_test=10, n_defective=2, categories=("tile",)
    )
    model = work / f"model-{image_size}"
    if not (model / "model.json").exists():
        Patchcore().fit(sorted((root / "tile" / "train" / "good").glob("*.png"))).save(model)
    images = [path.read_bytes() for path in sorted((root / "tile" / "test").glob("*/*.png"))]
    if ending != ".png":
        images = [bytes(cv2.imencode(ending, cv2.imdecode(np.frombuffer(data, np.uint8), 1))[1]) for data in images]
    return model, images


@contextmanager
def started(model, records, *options):
    """Yield the process of a station and its port; it is told to stop at the end, if it still runs."""
    command = [sys.executable, "-m", "blemish", "station", f"tile={model}", "--records", str(records), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment) as process:
        line = process.stdout.readline()
        try:
            yield process, int(line.rpartition(":")[2])
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=90)


def post(connection, data, path="/v1/models/tile:predict", headers=None):
    """Return the status and the document of one answer."""
    connection.request("POST", path, data, {"Content-Type": "application/octet-stream", **(headers or {})})
    answer = connection.getresponse()
    content = answer.read()
    return answer.status, json.loads(content) if content.startswith((b"{", b"[")) else {}


def one_client(model, images, records, *, threads, rounds):
    """Return milliseconds in process and over HTTP, in turns, and of the processor for an image on both sides."""
    detector = load(model, threads=threads)
    inside, over_http, cpu_inside, cpu_station = [], [], 0.0, 0.0
    with started(model, records, "--workers", "1", "--threads", str(threads)) as (process, port):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for number in range(rounds):
            data = images[number % len(images)]
            if number == N_WARM:
                cpu_station = cpu_seconds(process.pid)
            cpu, start = time.process_time(), time.perf_counter()
            score = detector.predict(decode(data)).score
            middle, cpu = time.perf_counter(), time.process_time() - cpu
            status, document = post(connection, data)
            end = time.perf_counter()
            assert status == 200, document
            assert abs(document["score"] - score) < 1e-6 * max(1, abs(score))
            if number >= N_WARM:
                cpu_inside += cpu
                inside.append(1000 * (middle - start))
                over_http.append(1000 * (end - middle))
            time.sleep(0.02)  # the station makes its thumbnail
        cpu_station = cpu_seconds(process.pid) - cpu_station
    per_image = 1000 / len(inside)
    return np.array(inside), np.array(over_http), [cpu_inside * per_image, cpu_station * per_image]


def of_one_client(model, images, records, threads, rounds):
    """Return the figures of one client."""
    inside, over_http, cpu = one_client(model, images, records, threads=threads, rounds=rounds)
    difference = over_http - inside
    return {
        "in process, ms (shortest, median)": [float(inside.min()), statistics.median(inside)],
        "over HTTP, ms (shortest, median)": [float(over_http.min()), statistics.median(over_http)],
        "processor in process and in the station, ms": cpu,
        "median difference, ms": statistics.median(difference),
        "its quartiles, ms": [float(x) for x in np.quantile(difference, [0.25, 0.75])],
        "images": len(inside),
    }


def in_process_rate(model, images, workers, seconds):
    """Return images a second of several threads in this process, and seconds of the processor for an image."""
    detector, done, end = load(model, threads=1), [0] * workers, time.perf_counter() + seconds
    cpu = time.process_time()

    def work(worker):
        while time.perf_counter() < end:
            detector.predict(decode(images[done[worker] % len(images)]))
            done[worker] += 1

    run_threads(work, workers)
    return sum(done) / seconds, (time.process_time() - cpu) / sum(done)


def run_threads(work, n):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def many_clients(model, images, records, *, clients, workers, seconds):
    """Return the answers (id, hash of the image, seconds) of many clients, refusals, memory over time, the seconds that
    it took, and those of the station's processor.
    """
    answers, refused, memory = [], [], []
    hashes = [hashlib.sha256(data).hexdigest() for data in images]
    with started(model, records, "--workers", str(workers), "--threads", "1") as (process, port):
        start, cpu = time.perf_counter(), cpu_seconds(process.pid)

        def work(client):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            number = client
            while time.perf_counter() - start < seconds:
                image = number % len(images)
                begin = time.perf_counter()
                status, document = post(connection, images[image])
                if status == 200:
                    answers.append((document["id"], hashes[image], time.perf_counter() - begin))
                else:
                    refused.append(status)
                number += clients

        def watch(_):
            while time.perf_counter() - start < seconds:
                memory.append(resident_mb(process.pid))
                time.sleep(seconds / 40)

        run_threads(lambda i: work(i) if i < clients else watch(i), clients + 1)
        elapsed, cpu = time.perf_counter() - start, cpu_seconds(process.pid) - cpu
    return answers, refused, memory, elapsed, cpu


def cpu_seconds(pid):
    """Return the seconds of the processor that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid):
    """Return the resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def lost(records, answers):
    """Return how many answers are not in the records with their image and map."""
    n_lost = 0
    with InspectionService(records) as station:
        for id_, sha256, _ in answers:
            try:
                inspection = station.records.get(id_)
                found = hashlib.sha256(station.image(inspection)).hexdigest() == sha256
                station.anomaly_map(inspection)
            except OSError:
                found = False
            n_lost += not found
        total = station.records.counts(InspectionFilter())["total"]
        assert station.database.first_broken_entry() is None
    return n_lost, total


def shown(columns):
    """Return a row of text for each figure, from the figures of each column; a list becomes several numbers."""
    names = next(iter(columns.values()))
    return [
        {"figure": name, **{title: text(name, column[name]) for title, column in columns.items()}} for name in names
    ]


def text(name, value):
    """Return one or several numbers as text."""
    form = ".0f" if "MB" in name else ".1f" if name.endswith("ms") or "ms (" in name else ".3g"
    numbers = value if isinstance(value, list) else [value]
    return ", ".join(format(x, form) if isinstance(x, float) else str(x) for x in numbers)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for images, a model and records")
    parser.add_argument("--rounds", type=int, default=100, help="images of the one client")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the many clients")
    add_json_option(parser, __file__)
    given = parser.parse_args()
    model, images = prepared(given.work)
    small = prepared(given.work, image_size=512, ending=".jpg")
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        one = {
            "PNG, 1024 x 1024": of_one_client(model, images, Path(folder) / "png", cores, given.rounds),
            "JPEG, 512 x 512": of_one_client(*small, Path(folder) / "jpeg", cores, given.rounds),
        }
        workers = min(2, cores)
        before, cpu_before = in_process_rate(model, images, workers, given.seconds / 3)
        records = Path(folder) / "many"
        answers, refused, memory, elapsed, cpu_station = many_clients(
            model, images, records, clients=given.clients, workers=workers, seconds=given.seconds
        )
        after, cpu_after = in_process_rate(model, images, workers, given.seconds / 3)
        n_lost, total = lost(records, answers)
    seconds = np.array([answer[2] for answer in answers])
    inside_rate, rate = (before + after) / 2, len(answers) / elapsed
    many = {
        "clients": given.clients,
        "images/s in process (before, after)": [before, after],
        "images/s through the station": rate,
        "share": rate / inside_rate,
        "processor for an image in process and in the station, ms": [
            500 * (cpu_before + cpu_after),
            1000 * cpu_station / len(answers),
        ],
        "median, p99 of an answer, s": [float(np.median(seconds)), float(np.quantile(seconds, 0.99))],
        "answers": len(answers),
        "refused": len(refused),
        "lost": n_lost,
        "twice": len(answers) - len({answer[0] for answer in answers}),
        "memory at a quarter, half, the end, MB": [memory[len(memory) // 4], memory[len(memory) // 2], memory[-1]],
    }
    assert total >= len(answers)
    tables = [
        table("One client", shown(one), notes="The difference is that of each image, in process and over HTTP."),
        table("Many clients", shown({"measured": many}), notes="Clients and station share the cores."),
    ]
    print(json.dumps({"one": one, "many": many}, indent=1))
    write(given.json, tables, {"one": one, "many": many})


if __name__ == "__main__":
    main()
