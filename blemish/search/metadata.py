"""Metadata of a store: format version, encoder, and the model and statistics of good images of each category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish._version import __version__
from blemish.errors import StoreError, message
from blemish.search.backends.qdrant import CREATE_STORE
from blemish.search.encoder import DIMS, NAME
from blemish.search.normal_statistics import NormalStatistics
from blemish.search.payload import utc_now

if TYPE_CHECKING:
    from blemish.search.backends.interface import Backend
    from blemish.search.encoder import RegionEncoder

FORMAT_VERSION = 2
NO_MODEL = "none"
DEFAULT_CATEGORY = "part"
NEW_STORE = "Index the images into a new store."
RESTORE = "Put it back from a copy, or index the images into a new store."
REINDEX = (
    "Open it with that model, rebuild it with `blemish reindex MODEL --store ...` (labels are kept), or name another "
    "category with category= (--category)."
)


@dataclass
class Metadata:
    """Metadata as it was read and checked.

    Attributes:
        models: category to the "id" of its model and the statistics of "good" images.
    """

    models: dict[str, dict[str, Any]]
    name: str

    @classmethod
    def open(cls, backend: Backend, encoder: RegionEncoder | None, name: str) -> Metadata:
        """Return the metadata of a store; those of a new one are written. StoreError if it is of another version or
        encoder, or new and there is no model.
        """
        stored = backend.read_meta()
        if stored is None:
            if encoder is None:
                raise StoreError(message("store", "one that was made", "nothing there", where=name, todo=CREATE_STORE))
            created = cls({}, name)
            created.write(backend)
            return created
        return cls.of(stored, name)

    @classmethod
    def of(cls, stored: dict[str, Any], name: str) -> Metadata:
        """Return metadata as they are stored. StoreError if they are of another version or encoder, or damaged."""
        version, descriptor = stored.get("format_version"), stored.get("descriptor")
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            got = f"{version!r}, made with blemish {stored.get('made_with')}"
            todo = "Update blemish." if newer else NEW_STORE
            raise StoreError(message("format_version", str(FORMAT_VERSION), got, where=name, todo=todo))
        if descriptor != NAME or stored.get("dims") != DIMS:
            raise StoreError(message("descriptor", NAME, repr(descriptor), where=name, todo=NEW_STORE))
        return cls(_models(stored, name), name)

    def category_of(self, encoder: RegionEncoder | None) -> str:
        """Return the category of a model, else the only one in the store, else "part"."""
        if encoder is not None:
            return next((name for name, model in self.models.items() if model["id"] in encoder.ids), DEFAULT_CATEGORY)
        return next(iter(self.models)) if len(self.models) == 1 else DEFAULT_CATEGORY

    def model_id(self, category: str) -> str:
        """Return the id of a category's model."""
        return str(self.models[category]["id"]) if category in self.models else NO_MODEL

    def load_statistics(self, encoder: RegionEncoder, category: str) -> bool:
        """Give the encoder the statistics of good images of a category.

        Returns:
            Whether the store has them; if not, the encoder has to be fitted.
        """
        if category not in self.models:
            return False
        self.check_model(encoder.ids, category)
        if encoder.normal is None:
            encoder.normal = NormalStatistics.from_dict(self.models[category]["good"], where=self.name)
        return True

    def check_model(self, ids: Sequence[str], category: str) -> None:
        """Raise unless the vectors of a category are of the model with one of these ids."""
        stored = self.model_id(category)
        if stored not in {NO_MODEL, *ids}:
            got = f"{ids[0]}, for {category}"
            raise StoreError(message("model", f"the store's, {stored}", got, where=self.name, todo=REINDEX))

    def bind(self, backend: Backend, encoder: RegionEncoder, category: str) -> str:
        """Return the id of a category's model, after making the encoder's model that of a new category. StoreError if
        the category is of another model.
        """
        if not self.load_statistics(encoder, category):
            # Another station may have bound it since this one opened the store.
            self.models |= _models(backend.read_meta() or {"models": {}}, self.name)
            if not self.load_statistics(encoder, category):
                self.rebind(backend, encoder, category)
        return self.model_id(category)

    def rebind(self, backend: Backend, encoder: RegionEncoder, category: str) -> None:
        """Make the encoder's model that of a category, whichever was."""
        assert encoder.normal is not None, "fit() comes first"
        self.models[category] = {"id": encoder.model_id, "good": encoder.normal.to_dict()}
        self.write(backend)

    def write(self, backend: Backend) -> None:
        """Write the metadata into the store."""
        content = {
            "format_version": FORMAT_VERSION,
            "descriptor": NAME,
            "dims": DIMS,
            "made_with": __version__,
            "written": utc_now(),
            "models": self.models,
        }
        backend.write_meta(content)


def _models(stored: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    try:
        return {
            str(category): {"id": str(model["id"]), "good": model["good"]}
            for category, model in stored["models"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(message("store", "models", repr(error), where=name, todo=RESTORE)) from error
