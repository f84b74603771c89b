"""What CivitAI's refusals mean, in words."""

from __future__ import annotations

from ..errors import CivitaiError, CivitaiNotFound
from .keys import HOW_TO_GIVE_A_KEY

UNAUTHORISED, FORBIDDEN, NOT_FOUND, GONE, UNAVAILABLE_FOR_LEGAL_REASONS = 401, 403, 404, 410, 451


def refusal(status: int, subject: str, *, has_key: bool, early_access_until: str | None = None) -> CivitaiError:
    """The error for a status that is not a success.

    Args:
        status: HTTP status of the answer.
        subject: what was asked for, such as "version 5".
        has_key: whether the user has given a key.
        early_access_until: as in `versions.VersionFile`.
    """
    if status in (NOT_FOUND, GONE):
        return CivitaiNotFound(
            f"CivitAI has no {subject}: it was deleted or unpublished, or never was there.", "Check the id on the site."
        )
    if early_access_until is not None and status in (UNAUTHORISED, FORBIDDEN):
        until = f" until {early_access_until[:10]}" if early_access_until else ""
        return CivitaiError(
            f"The creator gives early access to {subject}{until}: CivitAI hands it out only to those who bought it.",
            "Wait, take another version, or buy access on the site" + ("." if has_key else " and give your key."),
        )
    if status == UNAUTHORISED:
        without_key = f"CivitAI gives {subject} only to those who log in (401)."
        return CivitaiError("CivitAI does not accept your key (401)." if has_key else without_key, HOW_TO_GIVE_A_KEY)
    if status == FORBIDDEN:
        who = "your account" if has_key else "those who are not logged in"
        return CivitaiError(
            f"CivitAI refuses {subject} to {who} (403).",
            "Look on the site whether you may download it." if has_key else HOW_TO_GIVE_A_KEY,
        )
    if status == UNAVAILABLE_FOR_LEGAL_REASONS:
        return CivitaiError(f"CivitAI does not give {subject} to your country (451).", "Get the file elsewhere.")
    return CivitaiError(f"CivitAI answers {subject} with HTTP {status}.", "Check the id, and try again later.")
