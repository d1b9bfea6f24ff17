"""Does the station keep what it answered when it is killed, when the disk is full, and under hostile clients?

    python benchmarks/station_faults.py --work /tmp/station-faults
    python benchmarks/station_faults.py --work /tmp/station-faults --kills 50 --disk /mnt/small

Images are drawn, 256 x 256 pixels. --disk is an empty file system of some 100 MB that may be filled; without it that
row is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from results import add_json_option, table, write
from station_load import cpu_seconds, lost, post, prepared, run_threads, started

from blemish.station import InspectionFilter, InspectionService, StationSettings

N_CLIENTS = 8


def sent_until_it_ends(port, images, answers, *, stop=None):
    """Let clients send images until the station does not answer any more, or `stop` is set; collect the answers."""

    def work(client):
        number = client
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            while stop is None or not stop.is_set():
                data = images[number % len(images)]
                status, document = post(connection, data)
                if status == 200:
                    answers.append((document["id"], hashlib.sha256(data).hexdigest(), 0.0))
                number += N_CLIENTS

    run_threads(work, N_CLIENTS)


def seconds_to_ready(process_started, process, port):
    """Return the seconds from the start of a station to its first readiness, and those of the processor."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/readyz")
    assert connection.getresponse().status == 200
    return time.perf_counter() - process_started, cpu_seconds(process.pid)


def kills(model, images, folder, n):
    """Kill the station at random moments under load; all answers have to be there in the end."""
    answers, waits, rng = [], [], np.random.default_rng(0)
    for _ in range(n):
        start = time.perf_counter()
        with started(model, folder / "kills", "--workers", "2", "--threads", "1") as (process, port):
            waits.append(seconds_to_ready(start, process, port))
            threading.Timer(float(rng.uniform(0.05, 2.0)), process.kill).start()
            sent_until_it_ends(port, images, answers)
            assert process.wait(timeout=30) == -signal.SIGKILL
    n_lost, total = lost(folder / "kills", answers)
    (wait, cpu), most = np.median(waits, axis=0), np.max(waits, axis=0)[0]
    ready = f"ready again after {wait:.1f} s (median; {most:.1f} s at most), {cpu:.1f} s of the processor"
    return {
        "what": f"kill -9 at {n} random moments, {N_CLIENTS} clients",
        "answered": len(answers),
        "lost": n_lost,
        "result": f"{total} in the records, none of a half image; {ready}",
    }


def terminated(model, images, folder):
    """Tell the station to stop under load: what it accepted is answered."""
    answers, stop = [], threading.Event()
    with started(model, folder / "stop", "--workers", "2", "--threads", "1") as (process, port):
        threading.Timer(2.0, lambda: process.send_signal(signal.SIGTERM)).start()
        sent_until_it_ends(port, images, answers, stop=stop)
        code = process.wait(timeout=60)
    n_lost, total = lost(folder / "stop", answers)
    result = f"exit code {code}; {total} in the records, {total - len(answers)} of them without an answer"
    return {"what": f"SIGTERM, {N_CLIENTS} clients", "answered": len(answers), "lost": n_lost, "result": result}


def damaged(model, images, folder):
    """Damage pages of the database; the next start has to build it again."""
    answers, stop, records = [], threading.Event(), folder / "damaged"
    with started(model, records, "--workers", "2", "--threads", "1") as (_, port):
        threading.Timer(4.0, stop.set).start()
        sent_until_it_ends(port, images, answers, stop=stop)
    path = records / "station.sqlite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = os.urandom(8192)
    path.write_bytes(data)
    start = time.perf_counter()
    with started(model, records) as (process, port):
        seconds, cpu = seconds_to_ready(start, process, port)
    n_lost, _ = lost(records, answers)
    result = f"built again from the files, ready after {seconds:.1f} s, {cpu:.1f} s of the processor"
    return {"what": "two damaged database pages", "answered": len(answers), "lost": n_lost, "result": result}


def full_disk(model, images, disk):
    """Fill the disk under load, then free it: refused with 507 meanwhile, and nothing that was answered is lost."""
    answers, statuses, records = [], {}, disk / "records"
    filler = disk / "filler"
    with started(model, records, "--workers", "2", "--threads", "1") as (_, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(60):
            if number == 20:
                with filler.open("wb") as file, contextlib.suppress(OSError):
                    while file.write(bytes(1 << 16)):
                        file.flush()
            if number == 40:
                filler.unlink()
            data = images[number % len(images)]
            status, document = post(connection, data)
            statuses[status] = statuses.get(status, 0) + 1
            if status == 200:
                answers.append((document["id"], hashlib.sha256(data).hexdigest(), 0.0))
        last = status
    n_lost, _ = lost(records, answers)
    counts = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
    result = f"{counts}; {last} after space was freed"
    return {"what": "full disk, then space again", "answered": len(answers), "lost": n_lost, "result": result}


def clock(model, images, folder):
    """Let the clock jump back and forth between inspections: order, claims and files stay."""
    now, rng, answers = time.time(), np.random.default_rng(0), []
    settings = StationSettings(n_workers=1, threads=1)
    with InspectionService(folder / "clock", {"tile": model}, settings=settings) as station:
        for number in range(40):
            jump = float(rng.choice([-400, -1, 1, 400]) * 86_400)
            with (
                patch("time.time", lambda jump=jump: now + jump),
                patch("time.time_ns", lambda jump=jump: int((now + jump) * 1e9)),
            ):
                found = station.inspect(images[number % len(images)])
                assert station.records.next_to_review(f"person {number}") is not None
            answers.append((found.id, found.sha256, 0.0))
        numbers = [one.number for one in station.records.page(InspectionFilter(), limit=40)]
        assert numbers == sorted(numbers, reverse=True)
    n_lost, _ = lost(folder / "clock", answers)
    result = "numbers rise by one, each part can be claimed for review"
    return {"what": "clock jumps by up to 400 days, 40 times", "answered": 40, "lost": n_lost, "result": result}


def hostile(model, images, folder, n):
    """Send damaged and hostile uploads; the station answers each with a reason and goes on."""
    rng, statuses = np.random.default_rng(0), {}
    with started(model, folder / "hostile", "--workers", "2", "--threads", "1") as (process, port):
        for number in range(n):
            data, headers = hostile_body(rng, images[number % len(images)])
            with contextlib.suppress(http.client.HTTPException, ConnectionError):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                status, _ = post(connection, data, headers=headers)
                statuses[status] = statuses.get(status, 0) + 1
                connection.close()
        assert process.poll() is None
        status, _ = post(http.client.HTTPConnection("127.0.0.1", port), images[0])
        assert status == 200
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    assert not any(status >= 500 for status in statuses), counts
    return {"what": f"{n} broken or hostile uploads", "answered": statuses.get(200, 0), "lost": 0, "result": counts}


def hostile_body(rng, data):
    """Return a body that is damaged at random or lies about itself, and its headers."""
    body, kind = bytearray(data), int(rng.integers(7))
    if kind == 0:
        body = body[: int(rng.integers(len(body)))]
    elif kind == 1:
        for _ in range(int(rng.integers(1, 40))):
            body[int(rng.integers(len(body)))] = int(rng.integers(256))
    elif kind == 2:
        body[16:24] = b"\x00\x01\x00\x00" * 2  # a header of 65,536 x 65,536 pixels
    elif kind == 3:
        return bytes(rng.integers(0, 256, int(rng.integers(5000)), dtype=np.uint8)), {}
    elif kind == 4:
        part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="../../etc/passwd\x00"\r\n\r\n'
        return part + bytes(body[:200]), {"Content-Type": "multipart/form-data; boundary=b"}
    elif kind == 5:
        return b"--b\r\n" * 5000, {"Content-Type": "multipart/form-data; boundary=b"}
    else:
        return bytes(body), {"Content-Type": "x" * 2000, "X-Forwarded-For": "'; DROP TABLE inspections; --"}
    return bytes(body), {}


def slow(model, images, folder, n):
    """Let many clients send a byte now and then; others are answered as before."""
    seconds = []
    with started(model, folder / "slow", "--workers", "2", "--threads", "1") as (_, port):
        sockets = []
        for _ in range(n):
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall(b"POST /v1/models/tile:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
            sockets.append(one)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(40):
            for one in sockets:
                with contextlib.suppress(OSError):
                    one.sendall(b"x")
            start = time.perf_counter()
            status, _ = post(connection, images[number % len(images)])
            assert status == 200
            seconds.append(time.perf_counter() - start)
        for one in sockets:
            one.close()
    result = f"the others are answered after {np.median(seconds):.2f} s, {max(seconds):.2f} s at most"
    return {"what": f"{n} clients that send a byte now and then", "answered": 40, "lost": 0, "result": result}


def twice(model, folder):
    """Start a second station on the same records: it says so and ends."""
    with started(model, folder / "twice") as _:
        command = [sys.executable, "-m", "blemish", "station", "--records", str(folder / "twice"), "--port", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another station has open" in done.stderr
    result = f"exit code {done.returncode}, one line that names the folder; the first goes on"
    return {"what": "a second station on the same records", "answered": 0, "lost": 0, "result": result}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for images, a model and records")
    parser.add_argument("--disk", type=Path, help="an empty file system of some 100 MB that may be filled")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--uploads", type=int, default=1000)
    add_json_option(parser, __file__)
    given = parser.parse_args()
    model, images = prepared(given.work, image_size=256)
    folder = given.work / f"records-{time.time_ns()}"
    tried = [
        lambda: kills(model, images, folder, given.kills),
        lambda: terminated(model, images, folder),
        lambda: damaged(model, images, folder),
        *([] if given.disk is None else [lambda: full_disk(model, images, given.disk)]),
        lambda: clock(model, images, folder),
        lambda: hostile(model, images, folder, given.uploads),
        lambda: slow(model, images, folder, 50),
        lambda: twice(model, folder),
    ]
    rows = []
    for one in tried:
        rows.append(one())
        print(rows[-1], flush=True)
    notes = "Lost: answers whose record, image (by SHA-256) or map is not there afterwards."
    write(given.json, [table("What was tried", rows, notes=notes)], rows)


if __name__ == "__main__":
    main()
