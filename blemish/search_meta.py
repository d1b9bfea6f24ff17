"""What a store says of itself: its version, how its vectors were made, and by which model for each kind of part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish._version import __version__
from blemish.errors import StoreError, message
from blemish.search_describe import NAME
from blemish.search_points import now
from blemish.search_records import MAKE

if TYPE_CHECKING:
    from blemish.search_describe import Describer
    from blemish.search_records import Backend

FORMAT_VERSION = 1
UNBOUND = "none"
DEFAULT = "part"
REINDEX = (
    "Open it with that model, rebuild it with `blemish reindex MODEL --store ...`, or name another kind of part with "
    "category= (--category)."
)


@dataclass
class Meta:
    """What was read of it and agreed with.

    Attributes:
        dims: name of each vector to its length.
        models: kind of part to the id of the model that describes it.
        name: of the store, for errors.
    """

    dims: dict[str, int]
    models: dict[str, str]
    name: str

    @classmethod
    def of(cls, backend: Backend, describer: Describer | None, name: str) -> Meta:
        """Return what the store says of itself; a new one is given its say.

        Raises:
            StoreError: if it is of another version or way of describing, or new and there is no model to make it with.
        """
        read = backend.read_meta()
        if read is None:
            if describer is None:
                raise StoreError(message("store", "one that was made", "nothing there", where=name, todo=MAKE))
            made = cls(dict(describer.dims), {}, name)
            made.write(backend)
            return made
        version, descriptor = read.get("format_version"), read.get("descriptor")
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            todo = "Update blemish." if newer else "Index the pictures into a new store."
            got = f"{version!r}, made with blemish {read.get('made_with')}"
            raise StoreError(message("format_version", str(FORMAT_VERSION), got, where=name, todo=todo))
        try:
            made = cls({str(k): int(v) for k, v in read["dims"].items()}, dict(read["models"]), name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            todo = "Put it back from a copy, or index the pictures into a new store."
            raise StoreError(message("store", "dims and models", repr(error), where=name, todo=todo)) from error
        if descriptor != NAME:
            todo = "Index the pictures into a new store."
            raise StoreError(message("descriptor", NAME, repr(descriptor), where=name, todo=todo))
        return made

    def category_of(self, describer: Describer | None) -> str:
        """Return the kind of part that a model describes, else the only one there is, else "part"."""
        if describer is not None:
            return next((name for name, known in self.models.items() if known == describer.model_id), DEFAULT)
        return next(iter(self.models)) if len(self.models) == 1 else DEFAULT

    def model_of(self, category: str) -> str:
        """Return the id of the model that describes a kind of part."""
        return self.models.get(category, UNBOUND)

    def check(self, describer: Describer, category: str) -> None:
        """Refuse a model whose vectors could not be compared with those that are there.

        Raises:
            StoreError: if it is another one than the store's for this kind of part.
        """
        if self.dims != dict(describer.dims):
            got = f"a model that describes with {dict(describer.dims)}"
            raise StoreError(message("vectors", f"{self.dims} numbers", got, where=self.name, todo=REINDEX))
        known = self.models.get(category)
        if known is not None and known != describer.model_id:
            got = f"{describer.model_id}, for {category}"
            raise StoreError(message("model", f"the store's, {known}", got, where=self.name, todo=REINDEX))

    def bind(self, backend: Backend, describer: Describer, category: str) -> str:
        """Return the model's id, after making it that of this kind of part if there was none.

        Raises:
            StoreError: if there is another one.
        """
        self.check(describer, category)
        if category not in self.models:
            # Another station may have bound it since this one opened the store.
            read = backend.read_meta() or {}
            self.models = {**self.models, **read.get("models", {})}
            self.check(describer, category)
            if category not in self.models:
                self.models[category] = describer.model_id
                self.write(backend)
        return describer.model_id

    def write(self, backend: Backend) -> None:
        """Write it into the store."""
        said: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "descriptor": NAME,
            "dims": self.dims,
            "models": self.models,
            "made_with": __version__,
            "written": now(),
        }
        backend.write_meta(said)
