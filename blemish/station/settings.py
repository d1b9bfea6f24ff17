"""Settings of an inspection station."""

from __future__ import annotations

from dataclasses import dataclass

from blemish.errors import InputError, message
from blemish.runtime.cores import usable_cores

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class StationSettings:
    """Limits and places of an inspection station.

    Attributes:
        n_workers: images inspected at once; None for two, or one on a single core.
        threads: for the network of each worker; None for the cores divided among the workers.
        max_queue: accepted images that may wait; more are refused.
        max_bytes: of an image file.
        max_pixels: of an image, checked in its header before anything is decoded.
        durable: whether the disk is waited for (fsync) before the answer. Without it a process that is killed loses
            nothing, a power cut the last seconds.
        max_age_days: inspections without a review are removed when they are older; None for never.
        keep_every: of the parts that people call good, one in so many is kept to compare versions of a model, and never
            learnt from; None for none. The images of one part id stay together.
        max_total_bytes: the oldest inspections without a review are removed while all files take more; None for any.

    Raises:
        InputError: if a number is out of range.
    """

    n_workers: int | None = None
    threads: int | None = None
    max_queue: int = 64
    max_bytes: int = 64 * MIB
    max_pixels: int = 50_000_000
    durable: bool = True
    max_age_days: float | None = None
    max_total_bytes: int | None = None
    keep_every: int | None = 5

    def __post_init__(self) -> None:
        """Check that each number is above 0."""
        for name, value in vars(self).items():
            if value is not None and value <= 0 and name != "durable":
                raise InputError(message(name, "a number above 0", repr(value)))

    @property
    def workers(self) -> int:
        """The number of workers."""
        return self.n_workers or min(2, usable_cores())

    @property
    def threads_of_worker(self) -> int:
        """The number of threads of each worker's network."""
        return self.threads or max(1, usable_cores() // self.workers)
