"""Where a command finds its files: in a ComfyUI, or in CARLOS_HOME and the folders that are named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import storage
from ..errors import DatabaseError, LoraError
from .comfyui import ComfyUI, Listing, listing_of

if TYPE_CHECKING:
    from ..clip.lazy_encoder import LazyEncoder
    from ..database.database import MetricsDatabase
    from ..loras.library import LoraLibrary
    from ..loras.matching import Resolved
    from ..progress import OnProgress
    from ..search.searcher import Searcher

BUNDLED = "bundled"
_DATABASE, _LORA = ".parquet", ".safetensors"


@dataclass(frozen=True)
class Places:
    """Folders and files of a command."""

    encoders: tuple[Path, ...]
    """Where CLIP weights are looked for; the first is where they are fetched to."""

    pictures: tuple[Path, ...]
    """Where pictures of measured LoRAs are kept."""

    cache: Path
    library_file: Path
    """Where what is known of the LoRA files is kept."""

    databases: Mapping[str, Path] = field(default_factory=dict)
    """The databases of ComfyUI's list, by name."""

    loras: tuple[tuple[str, Path], ...] = ()
    """(name, path) of each LoRA file at hand."""

    listing: Listing | None = None
    """What ComfyUI lists; None without a ComfyUI."""

    def database_path(self, name: str) -> Path:
        """Path of a database, by its path or by its name in ComfyUI's list, whether it is there or not."""
        listed = self.databases.get(name) or self.databases.get(f"{name}{_DATABASE}")
        is_plain = name == Path(name).name and not Path(name).exists()
        return listed if listed is not None and is_plain else Path(name)

    def open_database(self, name: str) -> MetricsDatabase:
        """A database by its path, its name in ComfyUI's list, or "bundled". Raises DatabaseError."""
        from ..database.database import load_database
        from ..database.published import load_bundled_database

        if name == BUNDLED:
            return load_bundled_database()
        path = self.database_path(name)
        if not path.exists():
            known = f" ComfyUI lists {', '.join(self.databases)}." if self.databases else ""
            raise DatabaseError(f"There is no database {name}.", f"Give the path of a .parquet file, or 'bundled'.{known}")
        return load_database(path)

    def encoder(self, database: MetricsDatabase) -> LazyEncoder:
        """The encoder of a database, loaded when it is needed."""
        from ..clip.lazy_encoder import LazyEncoder
        from ..clip.loading import load_encoder

        return LazyEncoder(database.check_encoder(), database.dimension, partial(load_encoder, folders=self.encoders))

    def searcher(self, database: MetricsDatabase, prompts: Path | None = None) -> Searcher:
        """A searcher that knows which LoRAs are at hand. prompts: a prompt set for the signatures."""
        from ..clip import signature_file
        from ..clip.signatures import SignatureCache
        from ..prompts.prompt_set import load_prompt_set
        from ..search.searcher import Searcher

        own = None if database.encoder_id is None else self.encoder(database)
        signatures = SignatureCache(self.cache / signature_file.FOLDER)
        chosen = None if prompts is None else load_prompt_set(prompts)
        installed = self.installed(database)
        return Searcher(database, encoder=own, prompts=chosen, signatures=signatures, installed=installed)

    @cached_property
    def library(self) -> LoraLibrary:
        """All LoRA files at hand, with what is known without reading them whole."""
        from ..loras.library import scan

        return scan(self.loras, self.library_file, hash_files=False)

    def hashed_library(self, on_progress: OnProgress | None = None) -> LoraLibrary:
        """All LoRA files at hand with their hashes: new ones are read whole, once."""
        from ..loras.library import scan

        return scan(self.loras, self.library_file, on_progress)

    def resolved(self, database: MetricsDatabase) -> dict[str, Resolved]:
        """lora_id -> its file, or why none can be used; for the rows about which there is something to say."""
        return self.library.resolve(database.identities) if self.loras else {}

    def installed(self, database: MetricsDatabase) -> dict[str, str]:
        """lora_id -> name of its file."""
        return {lora_id: where.name for lora_id, where in self.resolved(database).items() if where.name is not None}


def places_of(comfyui: ComfyUI | None, loras: Sequence[Path] | None = None) -> Places:
    """The places of a command. loras: folders of LoRA files, besides ComfyUI's. Raises CarlosError for what is not there."""
    own = tuple(entry for folder in loras or () for entry in files_in(folder))
    if comfyui is None:
        home = storage.home()
        index = home / "loras.sqlite"
        return Places((storage.encoders_directory(),), (home / "pictures",), storage.cache_directory(), index, loras=own)
    listing = listing_of(comfyui)
    return Places(
        encoders=listing.encoders,
        pictures=listing.pictures,
        cache=listing.cache,
        library_file=listing.library_file,
        databases=listing.databases,
        loras=(*listing.loras, *own),
        listing=listing,
    )


def files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name with "/" between folders, path) of the LoRA files in a folder and those below, by name. Raises LoraError.

    Links to folders are followed, each folder once.
    """
    if not folder.is_dir():
        raise LoraError(f"There is no folder {folder}.", "Check the path.")
    seen: set[str] = set()
    found = []
    for parent, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        names[:] = [] if real in seen else sorted(names)
        found += [] if real in seen else [Path(parent) / name for name in files if name.lower().endswith(_LORA)]
        seen.add(real)
    yield from sorted((path.relative_to(folder).as_posix(), path.absolute()) for path in found)
