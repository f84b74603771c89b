"""Which addresses may be asked: CivitAI's own, and where it sends us on to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..errors import CivitaiError
from ..public_hosts import is_loopback, leads_inside

DEFAULT_BASES = ("https://civitai.com", "https://civitai.red")
"""The site, and the second site, which also shows what the first one hides."""

URL_VARIABLE = "CARLOS_CIVITAI_URL"

_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]


class Addresses:
    """The API's base URLs, the preferred one first, and what follows from them.

    Everything is https, to public hosts. This machine, and http, are allowed only if all base URLs are on it (a test).
    """

    def __init__(self, bases: Sequence[str]) -> None:
        """Raises CivitaiError for a base URL that is not https, unless all of them are on this machine."""
        self.bases = tuple(base.strip().rstrip("/") for base in bases)
        self._own = frozenset(map(origin_of, self.bases))
        self._is_local = all(is_loopback(host) for _, host, _ in self._own)
        for base in self.bases:
            if origin_of(base)[0] != "https" and not self._is_local:
                raise CivitaiError(f"The address {base} is not https.", f"Correct the environment variable {URL_VARIABLE}.")

    def is_own(self, url: str) -> bool:
        """Whether a URL is the API's own. The key is sent only to these."""
        return origin_of(url) in self._own

    def elsewhere(self, url: str) -> list[str]:
        """The same page of the API at each base URL, `url` itself first; only `url` if it is not the API's."""
        if not self.is_own(url):
            return [url]
        parts = urlsplit(url)
        page = f"{parts.path}?{parts.query}" if parts.query else parts.path
        others = [base + page for base in self.bases if origin_of(base) != origin_of(url)]
        return [url, *others]

    def check(self, url: str) -> None:
        """Check where CivitAI sends us. Raises CivitaiError for an address that is not https, or not public."""
        scheme, host, _ = origin_of(url)
        if self.is_own(url):
            return
        if scheme != "https" and not (self._is_local and is_loopback(host)):
            raise _refused(host, "which is not https")
        if not self._is_local and leads_inside(host):
            raise _refused(host, "which is not a public address")


def bases_from_environment() -> tuple[str, ...]:
    """The base URLs of CARLOS_CIVITAI_URL, separated by commas; if there are none, CivitAI's."""
    listed = tuple(base.strip() for base in os.environ.get(URL_VARIABLE, "").split(",") if base.strip())
    return listed or DEFAULT_BASES


def origin_of(url: str) -> Origin:
    """Scheme, host and port. Raises CivitaiError for what is not a web address."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in _PORTS or not host:
        raise CivitaiError("CivitAI's answer names something that is not a web address.", "Try again later.")
    return scheme, host, port or _PORTS[scheme]


def _refused(host: str, why: str) -> CivitaiError:
    return CivitaiError(f"CivitAI sends us on to {host}, {why}; nothing was fetched.", "Check your network's DNS and proxy.")
