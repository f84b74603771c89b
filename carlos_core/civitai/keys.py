"""The user's CivitAI key: where it is found, and how it is kept out of everything but one header."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import CivitaiError

KEY_VARIABLE = "CIVITAI_API_KEY"
HOW_TO_GIVE_A_KEY = (
    f"Make a key in your account's settings at civitai.com and give it in the environment variable {KEY_VARIABLE}, "
    "or in the file user/carlos/civitai_key.txt of ComfyUI."
)

_HIDDEN = "***"


class ApiKey:
    """A secret that no text shows: `repr`, `str` and formatting give asterisks."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        """Raises CivitaiError for what cannot be a key; the message does not repeat it."""
        # Checked here also because requests quotes a header that it refuses.
        if not re.fullmatch(r"[!-~]{8,256}", secret):
            raise CivitaiError("The CivitAI key is not a key: 8 to 256 letters and digits without blanks.", HOW_TO_GIVE_A_KEY)
        self._secret = secret

    def __repr__(self) -> str:
        return f"ApiKey({_HIDDEN})"

    def __reduce__(self) -> str:
        raise TypeError("A key is not to be written down.")

    @property
    def authorization(self) -> str:
        """Value of the Authorization header."""
        return f"Bearer {self._secret}"

    def redacted(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self._secret, _HIDDEN)


def find_key(key_file: Path | None = None) -> ApiKey | None:
    """The key of the environment variable CIVITAI_API_KEY, otherwise of `key_file`; None if neither has one.

    Raises CivitaiError if there is something that is not a key, or a file that cannot be read.
    """
    secret = os.environ.get(KEY_VARIABLE, "").strip()
    if not secret and key_file is not None and key_file.is_file():
        try:
            secret = key_file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            secret = "\0"
    return ApiKey(secret) if secret else None
