"""What a store says of itself: its version, how its vectors are made, and against which good images and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blemish._version import __version__
from blemish.errors import StoreError, message
from blemish.search.encoder import DIMS, NAME
from blemish.search.normal_statistics import NormalStatistics
from blemish.search.points import now
from blemish.search.records import MAKE

if TYPE_CHECKING:
    from blemish.search.encoder import RegionEncoder
    from blemish.search.records import Backend

FORMAT_VERSION = 1
UNBOUND = "none"
DEFAULT = "part"
DAMAGED = "Put it back from a copy, or index the images into a new store."
REINDEX = (
    "Open it with that model, rebuild it with `blemish reindex MODEL --store ...`, or name another kind of part with "
    "category= (--category)."
)


@dataclass
class Meta:
    """What was read of it and agreed with.

    Attributes:
        models: kind of part to the "id" of the model that describes it and what "good" images look like.
        name: of the store, for errors.
    """

    models: dict[str, dict[str, Any]]
    name: str

    @classmethod
    def of(cls, backend: Backend, describer: RegionEncoder | None, name: str) -> Meta:
        """Return what the store says of itself; a new one is given its say.

        Raises:
            StoreError: if it is of another version or way of describing, or new and there is no model to fill it with.
        """
        read = backend.read_meta()
        if read is None:
            if describer is None:
                raise StoreError(message("store", "one that was made", "nothing there", where=name, todo=MAKE))
            made = cls({}, name)
            made.write(backend)
            return made
        version, descriptor = read.get("format_version"), read.get("descriptor")
        if version != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            todo = "Update blemish." if newer else "Index the images into a new store."
            got = f"{version!r}, made with blemish {read.get('made_with')}"
            raise StoreError(message("format_version", str(FORMAT_VERSION), got, where=name, todo=todo))
        if descriptor != NAME or read.get("dims") != DIMS:
            todo = "Index the images into a new store."
            raise StoreError(message("descriptor", NAME, repr(descriptor), where=name, todo=todo))
        return cls(_models(read, name), name)

    def category_of(self, describer: RegionEncoder | None) -> str:
        """Return the kind of part that a model describes, else the only one there is, else "part"."""
        if describer is not None:
            return next((name for name, known in self.models.items() if known["id"] == describer.model_id), DEFAULT)
        return next(iter(self.models)) if len(self.models) == 1 else DEFAULT

    def model_of(self, category: str) -> str:
        """Return the id of the model that describes a kind of part."""
        return str(self.models[category]["id"]) if category in self.models else UNBOUND

    def teach(self, describer: RegionEncoder, category: str) -> bool:
        """Tell the describer what good images of this kind looked like when the first one was stored.

        Returns:
            Whether the store knows; if not, the describer has to learn it.

        Raises:
            StoreError: if the store's vectors of this kind were made with another model: they can't be compared.
        """
        if category not in self.models:
            return False
        self.check(describer.model_id, category)
        if describer.good is None:
            describer.good = NormalStatistics.from_dict(self.models[category]["good"], where=self.name)
        return True

    def check(self, model: str, category: str) -> None:
        """Refuse to compare what one model described with what another one did.

        Raises:
            StoreError: if this kind of part was described by another model.
        """
        known = self.model_of(category)
        if known not in {UNBOUND, model}:
            got = f"{model}, for {category}"
            raise StoreError(message("model", f"the store's, {known}", got, where=self.name, todo=REINDEX))

    def bind(self, backend: Backend, describer: RegionEncoder, category: str) -> str:
        """Return the model's id, after making it that of this kind of part if there was none.

        Raises:
            StoreError: if there is another one.
        """
        if not self.teach(describer, category):
            # Another station may have bound it since this one opened the store.
            self.models |= _models(backend.read_meta() or {"models": {}}, self.name)
            if not self.teach(describer, category):
                self.rebind(backend, describer, category)
        return describer.model_id

    def rebind(self, backend: Backend, describer: RegionEncoder, category: str) -> None:
        """Make this the model of a kind of part, whichever was."""
        assert describer.good is not None, "learn() comes first"
        self.models[category] = {"id": describer.model_id, "good": describer.good.to_dict()}
        self.write(backend)

    def write(self, backend: Backend) -> None:
        """Write it into the store."""
        said: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "descriptor": NAME,
            "dims": DIMS,
            "made_with": __version__,
            "written": now(),
            "models": self.models,
        }
        backend.write_meta(said)


def _models(read: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    try:
        return {str(category): {"id": str(one["id"]), "good": one["good"]} for category, one in read["models"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(message("store", "models", repr(error), where=name, todo=DAMAGED)) from error
