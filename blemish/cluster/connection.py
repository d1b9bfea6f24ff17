"""Connection to a Ray cluster, its nodes, and the checks that they can do the work: versions, and files that they see.

Ray is never started or joined unasked. Where it is started here it sends no usage statistics, serves no dashboard, and
leaves no file behind.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from blemish._version import __version__
from blemish.cluster.errors import ClusterError
from blemish.errors import InputError, install, message

NEEDED = ("ray", "pyarrow", "fsspec")
ANSWER_S = 5.0
REPORT_S = 120.0
SHOWN = 3
# Of the folder for temporary files: paths of Ray's sockets are 65 longer, and have 103 characters at most on macOS.
MAX_TMPDIR_CHARS = 38


@dataclass(frozen=True)
class Node:
    """A node of a cluster that runs tasks.

    Attributes:
        address: for people: the IP address, with the first digits of the node's id, since several may share a machine.
    """

    id: str
    address: str
    n_cpus: int
    memory_bytes: int


class NodeReport(NamedTuple):
    """What a node says of itself.

    Attributes:
        versions: of Python and of Blemish; "none" where it is not installed.
        unseen: the files out of those asked for that it does not have, or has with another size.
    """

    versions: tuple[str, str]
    unseen: list[str]


def check_installed() -> None:
    """Raise InputError unless Ray and what reads and writes files for it are installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        todo = f"{install('blemish[cluster]')}, on every node."
        raise InputError(message("cluster", "its packages", f"no {', '.join(missing)}", todo=todo))


def versions() -> tuple[str, str]:
    """Return the versions of Python and of Blemish, which all nodes must share."""
    return ".".join(platform.python_version_tuple()[:2]), __version__


def check_versions(expected: tuple[str, str]) -> None:
    """Raise InputError if this machine, which may have joined late, has other versions than the driver's."""
    if versions() != expected:
        python, blemish = expected
        got = "Python {} and Blemish {}".format(*versions())
        todo = "Install the same on each node."
        raise InputError(
            message("node", f"Python {python} and Blemish {blemish}", got, where=socket.gethostname(), todo=todo)
        )


@contextmanager
def connected(address: str | None, *, n_cpus: int | None = None) -> Iterator[list[Node]]:
    """Connect to a cluster for the time of a context; yield its nodes.

    Args:
        address: HOST:PORT of a cluster; "auto" for the one that this machine belongs to; None to start Ray on this
            machine alone, which is stopped at the end. A program that called `ray.init` itself keeps its connection.
        n_cpus: tasks at once where Ray is started here; one per core by default.

    Raises:
        InputError: if Ray is not installed.
        ClusterError: if no cluster answers there, or it is of another version of Ray or Python.
    """
    check_installed()
    import ray

    if ray.is_initialized():
        yield nodes()
        return
    if address is not None:
        check_address(address)
    with _started_here(n_cpus) if address is None else nullcontext({"address": address}) as arguments:
        _join(address, arguments)
        try:
            yield nodes()
        finally:
            ray.shutdown()


@contextmanager
def _started_here(n_cpus: int | None) -> Iterator[dict[str, Any]]:
    """Yield arguments of `ray.init` that start Ray on this machine, and remove its files at the end.

    Ray would keep a token in the home folder, which not every process has, and its logs in the folder for temporary
    files: it keeps them where RAY_TMPDIR says.
    """
    variables = {"RAY_USAGE_STATS_ENABLED": "0"}  # no data leaves the machine unasked
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        variables["RAY_AUTH_TOKEN"] = _token()
    with _temporary_folder() as folder, _environment(variables):
        yield {"address": "local", "num_cpus": n_cpus, "include_dashboard": False, "_temp_dir": folder}


def _temporary_folder() -> AbstractContextManager[str | None]:
    """Return a context with a folder that is removed at its end; with None where RAY_TMPDIR names one that is kept."""
    if "RAY_TMPDIR" in os.environ:
        return nullcontext(None)
    is_long = sys.platform != "win32" and len(tempfile.gettempdir()) > MAX_TMPDIR_CHARS
    return tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp" if is_long else None, ignore_cleanup_errors=True)


@cache
def _token() -> str:
    """Return the secret that only processes started from here know; Ray reads it once in a process."""
    return secrets.token_hex(32)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the time of a context, unless they are set; Ray adds some itself."""
    before = set(os.environ)
    os.environ.update({name: value for name, value in variables.items() if name not in before})
    try:
        yield
    finally:
        for name in set(os.environ) - before:
            if name.startswith("RAY_"):
                del os.environ[name]


def _join(address: str | None, arguments: Mapping[str, Any]) -> None:
    import ray

    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **arguments)
    except Exception as error:  # Ray raises bare ones
        got = " ".join(str(error).split())[:300]
        todo = "Start one with `ray start --head`, and use the same versions of Python and Ray on each node."
        if address is None:
            todo = "Try again: a node must start within 30 s, which a machine with much other work may not do."
        wanted = "Ray to start here" if address is None else "one that can be joined"
        raise ClusterError(message("cluster", wanted, got, where=address, todo=todo)) from error


def check_address(address: str) -> None:
    """Raise ClusterError unless a program listens at the address: Ray itself would try for a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        todo = "Run the command on a machine of the cluster, or with `ray job submit`."
        raise ClusterError(message("address", "HOST:PORT or auto", repr(address), todo=todo))
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        todo = "Check the address, or start Ray there with `ray start --head`."
        raise ClusterError(message("cluster", "an answer", repr(str(error)), where=address, todo=todo)) from error


def nodes() -> list[Node]:
    """Return the nodes that run tasks now, of the cluster that is connected."""
    import ray

    found = [
        Node(
            id=node["NodeID"],
            address=f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})",
            n_cpus=int(node["Resources"].get("CPU", 0)),
            memory_bytes=int(node["Resources"].get("memory", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted((node for node in found if node.n_cpus), key=lambda node: node.id)


def check_nodes(given: Sequence[Node], files: Mapping[str, int], *, storage: Mapping[str, Any] | None = None) -> None:
    """Raise unless every node has these versions, and sees these files.

    Args:
        files: path or URL to size in bytes; -1 where it is not known.
        storage: options of the file systems of URLs.

    Raises:
        ClusterError: if there is no node, or one differs; the text names it.
    """
    if not given:
        todo = "Add one: `ray start --address=HOST:PORT`."
        raise ClusterError(message("cluster", "a node with a CPU", "none", todo=todo))
    check_reports(_reports(given, files, storage or {}))


def check_reports(reports: Mapping[str, NodeReport]) -> None:
    """Raise ClusterError if a node's versions are not those here, or it does not see a file.

    Args:
        reports: by the address of the node.
    """
    own = versions()
    for address, report in reports.items():
        if report.versions != own:
            expected, got = (f"Python {python} and Blemish {blemish}" for python, blemish in (own, report.versions))
            todo = "Install the same on each node."
            raise ClusterError(message("node", expected, got, where=address, todo=todo))
    lines = [_unseen(address, report.unseen) for address, report in reports.items() if report.unseen]
    if lines:
        todo = "Mount the same folder at the same path on each node."
        raise ClusterError(message("files", "to be seen by each node", "; ".join(lines), todo=todo))


def _unseen(address: str, paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"none of {', '.join(paths[:SHOWN])}{more} on {address}"


def _reports(given: Sequence[Node], files: Mapping[str, int], storage: Mapping[str, Any]) -> dict[str, NodeReport]:
    """Return the reports by address, without nodes that died meanwhile."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = ray.put(dict(files))
    remote = ray.remote(num_cpus=0, max_retries=3)(_reporter(storage))
    started = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote(asked)
        for node in given
    ]
    answers = {node.address: _answer(node, reference) for node, reference in zip(given, started, strict=True)}
    return {address: answer for address, answer in answers.items() if answer is not None}


def _answer(node: Node, reference: Any) -> NodeReport | None:
    """Return the report of a node; None if it died."""
    import ray

    try:
        return NodeReport(*ray.get(reference, timeout=REPORT_S))
    except ray.exceptions.TaskUnschedulableError:
        return None
    except ray.exceptions.RayError as error:
        if node.id not in {alive.id for alive in nodes()}:
            return None
        got = " ".join(str(error).split())[:300]
        raise ClusterError(message("node", "an answer", got, where=node.address)) from error


def _reporter(storage: Mapping[str, Any]) -> Callable[[Mapping[str, int]], tuple[tuple[str, str], list[str]]]:
    """Return the function that a node runs; it is sent as code, since Blemish may be absent there."""

    def report(files: Mapping[str, int]) -> tuple[tuple[str, str], list[str]]:
        import os
        import platform

        try:
            from blemish._version import __version__ as version
        except ImportError:
            version = "none"

        def size_of(path: str) -> int:
            if "://" not in path and "::" not in path:
                return os.stat(path).st_size  # noqa: PTH116  # no import of ours
            import fsspec

            system, name = fsspec.core.url_to_fs(path, **storage)
            return int(system.size(name))

        def is_seen(path: str, size: int) -> bool:
            try:
                return size in (-1, size_of(path))
            except Exception:  # of any file system
                return False

        python = ".".join(platform.python_version_tuple()[:2])
        return (python, version), [path for path, size in files.items() if not is_seen(path, size)]

    return report
