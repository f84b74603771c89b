"""From CivitAI's JSON to our types. The fields are documented at developer.civitai.com/site/reference.

A field that is missing or null is None. A field of another type, or a number that no database can hold, is an error, so that a
change of the API is seen where it happens.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ..errors import CivitaiOddAnswer
from ..foreign import ForeignFacts
from ..loras.metadata import metadata_of_version
from .versions import Model, Version, VersionFile

_EARLY_ACCESS = "EarlyAccess"


def model_of(content: Any) -> Model:
    """A model as `GET /api/v1/models/:id` gives it. Raises CivitaiError for a wrong shape."""
    facts = _facts(content, "the model")
    model_id = _id(facts)
    model = Model(model_id, facts.text("name"), facts.text("type"), facts.text("mode"))
    inherited = {"modelId": model_id, "model": {"name": model.name, "type": model.type, "mode": model.mode}}
    list(facts.parts("modelVersions"))
    _check(facts)
    entries = content.get("modelVersions") or ()
    return Model(model_id, model.name, model.type, model.mode, tuple(version_of({**inherited, **entry}) for entry in entries))


def version_of(content: Any) -> Version:
    """A version as `GET /api/v1/model-versions/:id` gives it. Raises CivitaiError for a wrong shape."""
    facts = _facts(content, "the version")
    version_id = _id(facts)
    model = facts.part("model")
    until = _early_access_until(facts)
    version = Version(
        version_id=version_id,
        metadata=metadata_of_version(facts),
        name=facts.text("name"),
        model_type=model.text("type"),
        model_mode=model.text("mode"),
        published_at=facts.text("publishedAt") or facts.text("createdAt"),
        early_access_until=until,
        usage_control=facts.text("usageControl"),
        files=tuple(_file_of(file, version_id, until) for file in facts.parts("files")),
        raw=content,
    )
    _check(facts)
    return version


def hashes_in(content: Any) -> set[str]:
    """sha256 of the files in an answer that cannot be read in any other way, as far as they can be found."""
    files = ForeignFacts(content).parts("files")
    hashes = ((file.part("hashes").text("SHA256") or "").lower() for file in files)
    return {sha256 for sha256 in hashes if is_sha256(sha256)}


def is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")


def _file_of(facts: ForeignFacts, version_id: int, early_access_until: str | None) -> VersionFile:
    kilobytes = facts.decimal("sizeKB", bits=54)
    sha256 = (facts.part("hashes").text("SHA256") or "").lower()
    return VersionFile(
        version_id=version_id,
        file_id=facts.number("id"),
        name=facts.text("name") or "",
        download_url=facts.text("downloadUrl") or "",
        type=facts.text("type"),
        format=facts.part("metadata").text("format"),
        size=None if kilobytes is None else round(kilobytes * 1024),
        sha256=sha256 if is_sha256(sha256) else None,
        is_primary=facts.flag("primary"),
        early_access_until=early_access_until,
    )


def _early_access_until(facts: ForeignFacts) -> str | None:
    """See `VersionFile.early_access_until`."""
    end = facts.text("earlyAccessEndsAt")
    if facts.text("availability") == _EARLY_ACCESS:
        return end or ""
    try:
        is_over = end is None or datetime.fromisoformat(end.replace("Z", "+00:00")) <= datetime.now(timezone.utc)
    except (ValueError, TypeError):
        is_over = True
    return None if is_over else end


def _facts(content: Any, noun: str) -> ForeignFacts:
    if not isinstance(content, dict):
        raise _wrong_shape(f"{noun} is {type(content).__name__}, not an object")
    return ForeignFacts(content)


def _id(facts: ForeignFacts) -> int:
    number = facts.number("id")
    if number is None:
        _check(facts)
        raise _wrong_shape("it has no id")
    return number


def _check(facts: ForeignFacts) -> None:
    """Raises CivitaiOddAnswer if something was read that is not as documented."""
    odd = [*facts.misfits, *facts.problems]
    if odd:
        raise _wrong_shape(odd[0])


def _wrong_shape(what: str) -> CivitaiOddAnswer:
    return CivitaiOddAnswer(
        f"CivitAI's answer has another shape than documented: {what}.", "Try again later; if it stays, update CARLoS."
    )
