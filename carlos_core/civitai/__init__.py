"""CivitAI: look-ups, downloads and metadata. Nothing here runs unless the user asks for it."""

from .client import CivitaiClient
from .fetch import CivitaiLora
from .keys import ApiKey, find_key
from .types import Model, Version, VersionFile

__all__ = ["ApiKey", "CivitaiClient", "CivitaiLora", "Model", "Version", "VersionFile", "find_key"]
