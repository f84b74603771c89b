"""Lines and bars of the libraries that say nothing to people who index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor bars of diffusers and transformers: about files that are here, and parts that a LoRA lacks."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (level, has_bars) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if has_bars:
                library.enable_progress_bar()
