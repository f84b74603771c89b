"""From CivitAI's JSON to our types. Fields as documented at developer.civitai.com/site/reference.

A field that is missing or null is None; one of another type, or a number that no database can hold, is an error, so that a
change of the API is seen where it happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar

from ..errors import CivitaiOddAnswer
from ..foreign import ForeignFacts, fits_into, whole_text, words_of
from .versions import Model, Version, VersionFile

_T = TypeVar("_T")
_EARLY_ACCESS = "EarlyAccess"


def model_of(content: Any) -> Model:
    """A model as `GET /api/v1/models/:id` gives it. Raises CivitaiError for a wrong shape."""
    content = _object(content, "the model")
    name, type_, mode = (_field(content, key, str) for key in ("name", "type", "mode"))
    model_id = _id(content, "id")
    inherited = {"modelId": model_id, "model": {"name": name, "type": type_, "mode": mode}}
    versions = [_object(entry, "a version") for entry in _field(content, "modelVersions", list) or ()]
    return Model(model_id, name, type_, mode, tuple(version_of({**inherited, **entry}) for entry in versions))


def version_of(content: Any) -> Version:
    """A version as `GET /api/v1/model-versions/:id` gives it. Raises CivitaiError for a wrong shape."""
    content = _object(content, "the version")
    version_id = _id(content, "id")
    model = _field(content, "model", dict) or {}
    trained_words = _field(content, "trainedWords", list)
    until = _early_access_until(content)
    return Version(
        version_id=version_id,
        model_id=_whole(content, "modelId"),
        name=_field(content, "name", str),
        model_name=_field(model, "name", str) or None,
        model_type=_field(model, "type", str),
        model_mode=_field(model, "mode", str),
        base_model=_field(content, "baseModel", str) or None,
        trigger_words=None if trained_words is None else words_of(trained_words),
        nsfw_level=_whole(content, "nsfwLevel", bits=32),
        download_count=_whole(_field(content, "stats", dict) or {}, "downloadCount"),
        preview_url=_preview_url(content),
        published_at=_field(content, "publishedAt", str) or _field(content, "createdAt", str),
        early_access_until=until,
        usage_control=_field(content, "usageControl", str),
        files=tuple(_file_of(entry, version_id, until) for entry in _field(content, "files", list) or ()),
        raw=content,
    )


def hashes_in(content: Any) -> set[str]:
    """sha256 of the files in an answer that cannot be read otherwise, as far as they can be found."""
    files = ForeignFacts(content).parts("files")
    hashes = ((file.part("hashes").text("SHA256") or "").lower() for file in files)
    return {sha256 for sha256 in hashes if is_sha256(sha256)}


def is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")


def _file_of(entry: Any, version_id: int, early_access_until: str | None) -> VersionFile:
    content = _object(entry, "a file")
    hashes = _field(content, "hashes", dict) or {}
    kilobytes = _field(content, "sizeKB", float)
    sha256 = (_field(hashes, "SHA256", str) or "").lower()
    return VersionFile(
        version_id=version_id,
        file_id=_whole(content, "id"),
        name=_field(content, "name", str) or "",
        download_url=_field(content, "downloadUrl", str) or "",
        type=_field(content, "type", str),
        format=_field(_field(content, "metadata", dict) or {}, "format", str),
        size=None if kilobytes is None else round(kilobytes * 1024),
        sha256=sha256 if is_sha256(sha256) else None,
        is_primary=_field(content, "primary", bool) or False,
        early_access_until=early_access_until,
    )


def _early_access_until(content: Mapping[str, Any]) -> str | None:
    """See `VersionFile.early_access_until`."""
    end = _field(content, "earlyAccessEndsAt", str)
    if _field(content, "availability", str) == _EARLY_ACCESS:
        return end or ""
    try:
        is_over = end is None or datetime.fromisoformat(end.replace("Z", "+00:00")) <= datetime.now(timezone.utc)
    except (ValueError, TypeError):
        is_over = True
    return None if is_over else end


def _preview_url(content: Mapping[str, Any]) -> str | None:
    """The first still picture."""
    images = [_object(entry, "a picture") for entry in _field(content, "images", list) or ()]
    stills = (_field(image, "url", str) for image in images if _field(image, "type", str) in (None, "image"))
    return next((url for url in stills if url), None)


def _object(value: Any, noun: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong_shape(f"{noun} is {type(value).__name__}, not an object")
    return value


def _field(content: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    value = content.get(key)
    if value is None:
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and fits_into(value, 64):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, float) and not abs(value) < 2**63):
        raise _wrong_shape(f"{key} is {type(value).__name__}")
    return whole_text(value) if isinstance(value, str) else value  # type: ignore[return-value]


def _whole(content: Mapping[str, Any], key: str, bits: int = 64) -> int | None:
    """A whole number that a column of so many bits can hold."""
    value = content.get(key)
    number = value if isinstance(value, int) and not isinstance(value, bool) else _field(content, key, float)
    if number is None:
        return None
    if not fits_into(int(number), bits):
        raise _wrong_shape(f"{key} is too large")
    return int(number)


def _id(content: Mapping[str, Any], key: str) -> int:
    number = _whole(content, key)
    if number is None:
        raise _wrong_shape(f"it has no {key}")
    return number


def _wrong_shape(what: str) -> CivitaiOddAnswer:
    return CivitaiOddAnswer(
        f"CivitAI's answer has another shape than documented: {what}.", "Try again later; if it stays, update CARLoS."
    )
