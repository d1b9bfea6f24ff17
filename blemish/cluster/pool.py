"""A pool of actors that maps items in chunks: each item exactly once, in order, whatever dies.

Ray Data starts a task again for ever where an item ends its process. Here the items of a dead actor are divided, so
that an item that ends its process again and again is soon alone: it is named, and the rest goes on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from blemish.cluster.errors import ClusterError
from blemish.errors import BlemishError, message

Item = TypeVar("Item")
Result = TypeVar("Result")

# An item that was alone in so many processes that died is the cause: a node that dies takes one of them.
MAX_DEATHS = 3
# Parts that the items of a dead actor are divided into: three deaths find one of 64.
N_PARTS = 8
# Actors that die in a row before one could start.
MAX_FAILED_STARTS = 5
# Chunks for each actor that may be ahead of the first one that is not done: they wait in memory for it.
AHEAD = 8
GROW_S = 5.0
POLL_S = 1.0
# Without any actor for so long, there is no room on the cluster.
PATIENCE_S = 180.0


class Dead:
    """The result of an item whose process died, each time."""


@dataclass
class _Piece(Generic[Item]):
    """Items of one chunk that an actor gets at once.

    Attributes:
        first: index of the first item in the chunk.
        deaths: of actors that had this piece.
    """

    chunk: int
    first: int
    items: Sequence[Item]
    deaths: int = 0

    def divided(self) -> list[_Piece[Item]]:
        """Return the items in several pieces; an item that is alone stays so."""
        if len(self.items) == 1:
            return [_Piece(self.chunk, self.first, self.items, self.deaths + 1)]
        step = -(-len(self.items) // N_PARTS)
        starts = range(0, len(self.items), step)
        return [_Piece(self.chunk, self.first + start, self.items[start : start + step]) for start in starts]


@dataclass
class _Chunk(Generic[Result]):
    """Results of a chunk by index of the item."""

    n_items: int
    results: dict[int, Result | Dead] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether each item has its result."""
        return len(self.results) == self.n_items


class ActorPool(Generic[Item, Result]):
    """Maps items by actors of Ray.

    Args:
        make: starts an actor with the methods `ready()`, which returns once it is loaded, and `run(items)`, which
            returns a list of one result for each item.
        wanted: returns how many actors the cluster has room for now; asked again and again, since nodes come and go.
    """

    def __init__(self, make: Callable[[], Any], wanted: Callable[[], int]) -> None:
        self._make = make
        self._wanted = wanted
        self._actors: dict[Any, Any] = {}  # reference that is waited for, to actor
        self._pieces: dict[Any, _Piece[Item]] = {}  # the same reference, to the piece that the actor has
        self._idle: list[Any] = []
        self._queue: deque[_Piece[Item]] = deque()
        self._chunks: dict[int, _Chunk[Result]] = {}
        self._n_taken = self._failed_starts = 0
        self._grown_s = self._alive_s = float("-inf")

    def map(self, chunks: Iterator[Sequence[Item]]) -> Generator[list[Result | Dead], None, None]:
        """Yield the results of each chunk, in order; the actors end where the loop is left.

        Raises:
            ClusterError: if no actor can be started, or one returns no results.
            BlemishError: that an actor raised.
        """
        self._alive_s = time.monotonic()
        first = 0
        try:
            while self._fill(chunks, first):
                while first in self._chunks and self._chunks[first].is_done:
                    results = self._chunks.pop(first).results
                    yield [results[i] for i in range(len(results))]
                    first += 1
                if self._chunks:
                    self._step()
        finally:
            self._end()

    def _fill(self, chunks: Iterator[Sequence[Item]], first: int) -> bool:
        """Take chunks, not too many ahead of the first one that is not done; return whether any is left."""
        while self._n_taken - first < AHEAD * max(1, len(self._actors) + len(self._idle)):
            items = next(chunks, None)
            if items is None:
                break
            self._chunks[self._n_taken] = _Chunk(len(items))
            self._queue.append(_Piece(self._n_taken, 0, items))
            self._n_taken += 1
        return bool(self._chunks)

    def _step(self) -> None:
        """Start actors and pieces, and wait until one of them is done."""
        import ray

        self._grow()
        while self._idle and self._queue:
            actor, piece = self._idle.pop(), self._queue.popleft()
            reference = actor.run.remote(piece.items)
            self._actors[reference], self._pieces[reference] = actor, piece
        if not self._actors:
            time.sleep(POLL_S)  # until a node comes
        for reference in ray.wait(list(self._actors), num_returns=1, timeout=POLL_S)[0] if self._actors else ():
            self._handle(reference)
        if self._idle or self._pieces:
            self._alive_s = time.monotonic()
        elif time.monotonic() - self._alive_s > PATIENCE_S:
            todo = "Start nodes, or end other work on them; the command goes on where it stopped."
            got = f"none for {PATIENCE_S:.0f} s"
            raise ClusterError(message("cluster", "a node with room for a worker", got, todo=todo))

    def _grow(self) -> None:
        """Start as many actors as the cluster has room for."""
        now = time.monotonic()
        if now - self._grown_s < GROW_S:
            return
        self._grown_s = now
        for _ in range(self._wanted() - len(self._actors) - len(self._idle)):
            self._start()

    def _start(self) -> None:
        actor = self._make()
        self._actors[actor.ready.remote()] = actor

    def _handle(self, reference: Any) -> None:
        """Take the result of a piece, or the news that an actor is ready; or divide what a dead actor had."""
        import ray

        actor, piece = self._actors.pop(reference), self._pieces.pop(reference, None)
        try:
            results = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            ray.kill(actor)
            self._lost(piece, error)
            return
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, BlemishError):
                raise error.cause from error
            got = last_line(error)
            raise ClusterError(
                message("worker", "results", got, todo="This is a fault of Blemish: report it.")
            ) from error
        self._failed_starts = 0
        self._idle.append(actor)
        if piece is not None:
            done = self._chunks[piece.chunk].results
            done.update({piece.first + i: result for i, result in enumerate(results)})

    def _lost(self, piece: _Piece[Item] | None, error: Exception) -> None:
        """Start another actor, and divide the items of the one that died."""
        if piece is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                got = f"{MAX_FAILED_STARTS} that ended: {last_line(error)}"
                raise ClusterError(message("cluster", "a worker that starts", got)) from error
        elif len(piece.items) == 1 and piece.deaths + 1 >= MAX_DEATHS:
            self._chunks[piece.chunk].results[piece.first] = Dead()
        else:
            self._queue.extendleft(reversed(piece.divided()))
        self._start()

    def _end(self) -> None:
        import ray

        for actor in [*self._actors.values(), *self._idle]:
            ray.kill(actor)
        self._actors, self._idle = {}, []


def last_line(error: Exception) -> str:
    """Return the last line of an error's text, at most 300 characters: its cause, after the traceback of a node."""
    return str(error).strip().splitlines()[-1].strip()[:300]
