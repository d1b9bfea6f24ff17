"""Rows of predictions in Parquet files: parts while a run goes on, and one file at its end."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blemish._io.files import atomic_write, save_error, sync_folder
from blemish.cluster.listing import ImageFile, key_of
from blemish.cluster.maps import MAP, MASK, map_columns, mask_columns
from blemish.errors import InputError, message

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from blemish.types import Prediction

FORMAT = "1"
# Columns by which a run knows an image.
KEY = ("path", "size_bytes", "version")
# Rows that are in memory at once while results are merged; with maps and masks each has 100 kB and more.
BATCH, BATCH_WITH_EXTRAS = 16_384, 256
# Rows of all parts: from the moment that it is there, the parts count no more.
MERGED = "merged.parquet"


def schema(metadata: Mapping[str, str], extras: Collection[str] = ()) -> pa.Schema:
    """Return the columns of the results; `extras` are those out of anomaly_map and mask that were asked for."""
    import pyarrow as pa

    box = [(name, pa.int32()) for name in ("x", "y", "width", "height")]
    region = pa.struct([*box, ("area_px", pa.int64()), ("score", pa.float64())])
    columns = [
        ("path", pa.string()),
        ("score", pa.float64()),
        ("label", pa.bool_()),
        ("outcome", pa.string()),
        ("p_value", pa.float64()),
        ("regions", pa.list_(region)),
        ("drift", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("error", pa.string()),
        ("size_bytes", pa.int64()),
        ("version", pa.string()),
    ]
    if MAP in extras:
        columns += [("map_height", pa.int32()), ("map_width", pa.int32()), (MAP, pa.binary())]
    if MASK in extras:
        columns += [(MASK, pa.binary())]
    return pa.schema(columns, metadata={f"blemish.{name}": value for name, value in metadata.items()})


def prediction_row(prediction: Prediction, extras: Collection[str] = ()) -> dict[str, Any]:
    """Return the columns of a prediction, with `extras` as of `schema`."""
    height, width = prediction.anomaly_map.shape
    regions = [
        {**dict(zip(("x", "y", "width", "height"), box, strict=True)), "area_px": area_px, "score": score}
        for box, area_px, score, _, _ in prediction.regions
    ]
    columns = {
        **(map_columns(prediction) if MAP in extras else {}),
        **(mask_columns(prediction) if MASK in extras else {}),
    }
    return {
        **columns,
        "score": prediction.score,
        "label": prediction.label,
        "outcome": prediction.outcome,
        "p_value": prediction.p_value,
        "regions": regions,
        "drift": prediction.drift,
        "height": height,
        "width": width,
    }


def error_row(text: str) -> dict[str, Any]:
    """Return the columns of an image without a prediction."""
    return {"outcome": "not read", "regions": [], "error": text}


def named(row: Mapping[str, Any], file: ImageFile) -> dict[str, Any]:
    """Return a row with the columns that name its image."""
    return {**row, "path": file.path, "size_bytes": file.size, "version": file.version}


class Parts:
    """The parts of results in a folder beside them, and results of an earlier run.

    Rows of earlier runs count where their image is still the same and was read; others are made again.

    Args:
        out: the Parquet file.
        metadata: what the results say of the model; rows of another one do not count.
        extras: as of `schema`.

    Raises:
        InputError: if the parts are of another model or version.
    """

    def __init__(self, out: Path, metadata: Mapping[str, str], extras: Collection[str] = ()) -> None:
        self.out = out
        self.folder = folder_of(out)
        self._end_merge()
        self._metadata = {"format": FORMAT, **metadata}
        self._schema = schema(self._metadata, extras)
        self._batch = BATCH_WITH_EXTRAS if extras else BATCH
        self._before = sorted(self.folder.glob("part-*.parquet"))
        for part in self._before:
            if not self._is_ours(part):
                todo = "Remove that folder, or choose another file for the results."
                got = "those of another model or version, or of other columns"
                raise InputError(message("parts", "those of this model", got, where=self.folder, todo=todo))
        if out.is_file() and self._is_ours(out):
            self._before.insert(0, out)
        self._n_parts = 1 + max((int(part.stem[5:]) for part in self._before if part != out), default=-1)
        self._new: list[Path] = []

    def _is_ours(self, path: Path) -> bool:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            held = pq.read_schema(path)
        except (OSError, pa.ArrowException):
            return False
        stated, expected = held.metadata or {}, self._schema.metadata
        return held.names == self._schema.names and all(stated.get(key) == expected[key] for key in expected)

    def done_keys(self) -> NDArray[np.uint64]:
        """Return the keys of the images that earlier runs have rows of, sorted (n,) uint64."""
        keys = [key for table, _ in self._rows_before([*KEY, "error"]) for key in _keys(table)]
        return np.sort(np.array(keys, np.uint64))

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a part.

        Raises:
            SaveError: if it can't be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self._schema), sink)
        path = self.folder / f"part-{self._n_parts:08}.parquet"
        atomic_write(path, sink.getvalue().to_pybytes(), name="results")
        self._n_parts += 1
        self._new.append(path)

    def merge(self, wanted: NDArray[np.uint64]) -> int:
        """Write the results: rows of earlier runs whose images are wanted, then those of this run; return their number.

        Raises:
            SaveError: if they can't be written.
        """
        import pyarrow.parquet as pq

        temporary, n_rows = self.folder / "merged.tmp", 0
        try:
            with pq.ParquetWriter(temporary, self._schema) as writer:
                for table in self._rows(wanted):
                    writer.write_table(table)
                    n_rows += table.num_rows
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(self.folder / MERGED)
            sync_folder(self.folder)
        except OSError as error:
            raise save_error("results", self.out, error) from error
        self._end_merge()
        return n_rows

    def _end_merge(self) -> None:
        """Put merged rows in the place of the results; those of a run that was killed at this point too."""
        merged = self.folder / MERGED
        if not merged.exists():
            return
        try:
            for path in self.folder.glob("part-*.parquet"):
                path.unlink()
            merged.replace(self.out)
            sync_folder(self.out.parent)
        except OSError as error:
            raise save_error("results", self.out, error) from error

    def _rows(self, wanted: NDArray[np.uint64]) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        for table, keys in self._rows_before():
            kept = np.isin(keys, wanted)
            yield table.filter(kept)
        for path in self._new:
            yield from map(_table, pq.ParquetFile(path).iter_batches(self._batch))

    def _rows_before(self, columns: list[str] | None = None) -> Iterator[tuple[pa.Table, NDArray[np.uint64]]]:
        """Yield rows without an error of earlier runs, all columns or some of them, and the keys of their images."""
        import pyarrow.parquet as pq

        for path in self._before:
            for batch in pq.ParquetFile(path).iter_batches(self._batch, columns=columns):
                table = _table(batch)
                table = table.filter(table.column("error").is_null())
                yield table, _keys(table)


def folder_of(out: Path) -> Path:
    """Return the folder that holds the parts of results while they are made."""
    return out.with_name(f"{out.name}.parts")


def _table(batch: pa.RecordBatch) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches([batch])


def _keys(table: pa.Table) -> NDArray[np.uint64]:
    columns = (table.column(name).to_pylist() for name in KEY)
    return np.array([key_of(ImageFile(*row)) for row in zip(*columns, strict=True)], np.uint64)
