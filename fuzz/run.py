"""Fuzz the readers: no crash, no run over 10 s, no more than 1.5 GB, every refusal a `BlemishError`.

    python -m fuzz.run --seconds 60                 # all targets, a minute each, by seeded mutation
    python -m fuzz.run --seconds 3600 --jobs 4      # by hand, an hour each
    python -m fuzz.run --target network --seconds 3600 --seed 7
    python -m fuzz.run --target network --atheris   # guided by coverage; pip install atheris

Each target runs in a process of its own with limits of memory and time. An input that breaks one is kept in
`fuzz/found/`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import subprocess
import sys
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIMIT_BYTES = 1_500_000_000
LIMIT_S = 10.0
FOUND = Path(__file__).parent / "found"


def mutated(corpus: list[bytes], rng: random.Random) -> bytes:
    """Return a file of the corpus with changes; of a zip mostly in one of its files, so that it stays a whole zip."""
    data = rng.choice(corpus)
    if not data.startswith(b"PK") or rng.random() < 0.1:
        return changed(data, corpus, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        members = {info.filename: old.read(info) for info in old.infolist()}
        chosen = rng.choice(list(members))
        for name, content in members.items():
            new.writestr(name, changed(content, list(members.values()), rng) if name == chosen else content)
    return made.getvalue()


def changed(whole: bytes, corpus: list[bytes], rng: random.Random) -> bytes:
    """Return bytes with one to eight changes: bits, numbers, parts cut, doubled, moved or spliced."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not data:
            break
        at, other, length = rng.randrange(len(data)), rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64))
        kind = rng.randrange(7)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[other : other + length]
        elif kind == 4:
            data[at : at + length] = data[other : other + length]
        elif kind == 5:
            donor = rng.choice(corpus) or b"\0"
            start = rng.randrange(len(donor))
            data[at : at + length] = donor[start : start + length]
        else:
            del data[rng.randrange(len(data)) :]
    return bytes(data)


def limited(n_bytes: int) -> None:
    """Limit the memory of this process, beyond what it has mapped already."""
    import resource

    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + n_bytes, mapped + n_bytes))


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def run_target(name: str, seconds: float, seed: int) -> int:
    """Mutate and read for some seconds; print a summary as JSON, and return the exit code."""
    from blemish.errors import BlemishError
    from fuzz.targets import TARGETS

    warnings.simplefilter("ignore")
    target, rng = TARGETS[name], random.Random(seed)
    corpus = target.corpus()
    if sys.platform == "linux":
        limited(LIMIT_BYTES)
    n_read = n_refused = 0
    slowest, faults = 0.0, []
    end = time.monotonic() + seconds
    current = FOUND / f"{name}-{seed}.running"
    FOUND.mkdir(exist_ok=True)
    while time.monotonic() < end:
        data = mutated(corpus, rng)
        current.write_bytes(data)  # what a crash leaves behind
        start = time.process_time()
        try:
            target.read(data)
            n_read += 1
        except BlemishError as error:
            n_refused += 1
            fault = "out of memory" if "fits into memory" in str(error) else ""
        except Exception as error:  # what is looked for
            fault = f"{type(error).__name__}: {error}"[:200]
        else:
            fault = ""
        took = time.process_time() - start
        slowest = max(slowest, took)
        if took > LIMIT_S:
            fault = f"took {took:.0f} s"
        if fault:
            faults.append(fault)
            (FOUND / f"{name}-{seed}-{n_read + n_refused + len(faults)}").write_bytes(data)
    current.unlink()
    summary = {"target": name, "read": n_read, "refused": n_refused, "faults": len(faults), "slowest_s": slowest}
    print(json.dumps({**summary, "peak_mb": peak_bytes() >> 20, "first": faults[:3]}))
    return 1 if faults else 0


def run_atheris(name: str, seconds: float) -> None:
    """Fuzz one target guided by coverage, until the time is over or a fault is found."""
    import atheris

    with atheris.instrument_imports():
        from blemish.errors import BlemishError
        from fuzz.targets import TARGETS
    target = TARGETS[name]
    place = FOUND / f"corpus-{name}"
    place.mkdir(parents=True, exist_ok=True)
    for i, data in enumerate(target.corpus()):
        (place / str(i)).write_bytes(data)

    def once(data: bytes) -> None:
        with contextlib.suppress(BlemishError):
            target.read(data)

    options = [f"-max_total_time={seconds:.0f}", f"-timeout={LIMIT_S:.0f}", f"-rss_limit_mb={LIMIT_BYTES >> 20}"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={FOUND}/{name}-", str(place)], once)
    atheris.Fuzz()


def main() -> int:
    """Run one target here, or each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", help="one target, in this process")
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    given = parser.parse_args()
    if given.atheris:
        run_atheris(given.target, given.seconds)
        return 0
    if given.target:
        return run_target(given.target, given.seconds, given.seed)
    from fuzz.targets import TARGETS

    def run(name: str) -> int:
        command = [sys.executable, "-m", "fuzz.run", "--target", name]
        command += ["--seconds", str(given.seconds), "--seed", str(given.seed)]
        code = subprocess.run(command, check=False).returncode
        if code not in (0, 1):
            print(json.dumps({"target": name, "crashed": code}), flush=True)
        return code

    with ThreadPoolExecutor(given.jobs) as pool:
        return 1 if any(pool.map(run, TARGETS)) else 0


if __name__ == "__main__":
    sys.exit(main())
