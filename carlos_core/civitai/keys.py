"""The user's CivitAI key: where it is found, and how it is kept out of everything but one header."""

from __future__ import annotations

import base64
import html
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

    __slots__ = ("_forms", "_secret")

    def __init__(self, secret: str) -> None:
        """Raises CivitaiError for what cannot be a key; the message does not repeat it."""
        # Checked here also because requests quotes a header that it refuses.
        if not re.fullmatch(r"[!-~]{8,256}", secret):
            raise CivitaiError("The CivitAI key is not a key: 8 to 256 letters and digits without blanks.", HOW_TO_GIVE_A_KEY)
        self._secret = secret
        self._forms = _forms_of(secret)

    def __repr__(self) -> str:
        return f"ApiKey({_HIDDEN})"

    def __reduce__(self) -> str:
        raise TypeError("A key is not to be written down.")

    @property
    def authorization(self) -> str:
        """Value of the Authorization header."""
        return f"Bearer {self._secret}"

    def redacted(self, text: str) -> str:
        """`text` without the key, as it is or as a server may write it: percent-encoded, escaped, in base64 or hex."""
        return self._forms.sub(_HIDDEN, text)


def _forms_of(secret: str) -> re.Pattern[str]:
    """A pattern for a key in the forms in which an answer or an address can repeat it."""
    plain = "".join(map(_forms_of_character, secret))
    in_base64 = [_within_base64(secret, shift) for shift in range(3)]
    in_hex = f"(?i:{secret.encode().hex()})"
    return re.compile("|".join([plain, *filter(None, in_base64), in_hex]))


def _forms_of_character(char: str) -> str:
    """As it is, in an address (encoded once or twice), in JSON, in HTML."""
    code, as_entity = ord(char), re.escape(html.escape(char))
    return rf"(?:{re.escape(char)}|{as_entity}|(?i:%(?:25)?{code:02x}|\\u{code:04x}|&#x0*{code:x};)|&#0*{code};)"


def _within_base64(secret: str, shift: int) -> str:
    """A pattern for a key in the base64 of a longer text, in which `shift` bytes (of every three) come before it."""
    encoded = base64.b64encode(b"\0" * shift + secret.encode()).decode().rstrip("=")
    # The first and the last character may also hold bits of what comes before and after.
    certain = encoded[-(-8 * shift // 6) :]
    certain = certain[:-1] if (shift + len(secret)) % 3 else certain
    return "".join({"+": "[+-]", "/": "[/_]"}.get(char, char) for char in certain)


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
