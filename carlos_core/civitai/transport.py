"""HTTP with CivitAI: who gets the key, where redirects may lead, and when to wait and ask again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase

from .. import __version__
from ..errors import CivitaiError
from ..partial_file import Broken, words_for
from .addresses import Addresses, origin_of
from .keys import ApiKey

logger = logging.getLogger(__name__)

_MAX_REDIRECTS = 10
_LOOK_S = 0.25
_TOO_MANY_REQUESTS = 429
_PIECE = 1 << 16
_LARGEST_ANSWER = 128 << 20
"""Bytes. A hundred versions with hundreds of pictures each have 50 MB."""

OnWait = Callable[[str, float], None]
"""Called about four times a second while waiting, with the reason and the seconds that are left. It may raise, to cancel."""


@dataclass(frozen=True)
class Patience:
    """How often to ask and how long to wait."""

    attempts: int = 5
    """Requests for one answer in total, >= 1."""
    first_wait_s: float = 1.0
    """Seconds before the second request; twice as long before each further one."""
    longest_wait_s: float = 120.0
    """Seconds: the longest wait, and the longest that a server may ask for."""


class LoginWanted(Exception):
    """The site sends us to its login page."""


class Transport:
    """Requests to CivitAI and to where it sends us."""

    def __init__(
        self,
        bases: Sequence[str],
        key: ApiKey | None = None,
        *,
        timeouts: tuple[float, float] = (10.0, 30.0),
        patience: Patience | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        """Nothing is asked yet. Raises CivitaiError for unusable base URLs.

        Args:
            bases: base URLs of the API; see `addresses.Addresses`.
            key: the user's key; it is sent only to the base URLs.
            timeouts: seconds to connect, and seconds between two pieces of an answer.
            patience: how often to ask and how long to wait; default `Patience()`.
            on_wait: called while waiting; it may raise, to cancel.
        """
        self.addresses = Addresses(bases)
        self.key = key
        self.patience = patience or Patience()
        self._timeouts = timeouts
        self._on_wait = on_wait
        self._session = _Session()
        self._session.headers["User-Agent"] = f"carlos-loras/{__version__}"

    def ask(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, json: Any = None, stream: bool = False
    ) -> requests.Response:
        """The answer, after redirects. Busy servers and broken connections are tried again as `patience` says.

        Raises CivitaiError if that does not help or if an address may not be asked, and LoginWanted.

        Args:
            method: "GET" or "POST".
            url: where to ask; if it belongs to the API, the key is sent.
            headers: further request headers.
            json: body of the request, None for none.
            stream: leave the body of the answer to be read piece by piece.
        """
        for attempt in range(1, self.patience.attempts + 1):
            wait_s: float | None = None
            try:
                response = self._follow(method, url, dict(headers or {}), json, stream)
            except Broken as broken:
                problem = CivitaiError(
                    f"There is no answer from {origin_of(url)[1]}: {broken}.", "Check your network, then try again."
                )
            else:
                if not (response.status_code == _TOO_MANY_REQUESTS or response.status_code >= 500):
                    return response
                wait_s = _retry_after(response)
                problem = self._busy(response, wait_s)
                response.close()
                if wait_s is not None and wait_s > self.patience.longest_wait_s:
                    break
            if attempt < self.patience.attempts:
                self.wait(problem.what, self.backoff(attempt) if wait_s is None else wait_s)
        raise problem

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after the given attempt, counted from 1."""
        return min(self.patience.first_wait_s * 2 ** (attempt - 1), self.patience.longest_wait_s)

    def wait(self, reason: str, seconds: float) -> None:
        """Sleep for so many seconds, and report how long it still takes."""
        logger.info("carlos: %s Trying again in %.0f s", reason, seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._on_wait is not None:
                self._on_wait(reason, left)
            time.sleep(min(left, _LOOK_S))

    def text_of(self, response: requests.Response) -> str:
        """The body as text, without the key, even if the server repeats it."""
        text = response.content.decode("utf-8", "replace")
        return text if self.key is None else self.key.redacted(text)

    def _follow(self, method: str, url: str, headers: dict[str, str], json: Any, stream: bool) -> requests.Response:
        for _ in range(_MAX_REDIRECTS):
            self.addresses.check(url)
            response = self._send(method, url, headers, json, stream)
            if not response.is_redirect:
                return response
            response.close()
            url = self._redirected(url, response.headers["Location"])
            if self.addresses.is_own(url) and urlsplit(url).path.strip("/").split("/")[0] == "login":
                raise LoginWanted
        raise CivitaiError("CivitAI sends us round in circles.", "Try again later.")

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        if not target or (self.key is not None and self.key.redacted(target) != target):
            raise CivitaiError("CivitAI sends us on to something that is not a usable web address.", "Try again later.")
        return target

    def _send(self, method: str, url: str, headers: dict[str, str], json: Any, stream: bool) -> requests.Response:
        """Send one request. Raises Broken, outside of the handler: requests' exceptions carry the request with its headers."""
        auth = _Authorisation(self.key if self.addresses.is_own(url) else None)
        try:
            response = self._session.request(
                method, url, headers=headers, json=json, stream=True, timeout=self._timeouts, auth=auth, allow_redirects=False
            )
            if not (stream or response.is_redirect):
                # Where requests keeps a body that was read.
                response._content = _body_of(response)
            return response
        except requests.RequestException as error:
            words = words_for(error)
        raise Broken(words)

    def _busy(self, response: requests.Response, wait_s: float | None) -> CivitaiError:
        host = origin_of(response.url)[1]
        if response.status_code != _TOO_MANY_REQUESTS:
            return CivitaiError(f"{host} has trouble of its own (HTTP {response.status_code}).", "Try again later.")
        if wait_s is not None and wait_s > self.patience.longest_wait_s:
            return CivitaiError(
                f"{host} takes no more requests for {wait_s / 60:.0f} minutes (its rate limit).", "Run again after that time."
            )
        return CivitaiError(f"{host} takes no more requests for now (its rate limit).", "Run again in some minutes.")


class _Session(requests.Session):
    """A session that does not follow redirects, not even broken ones."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Authorisation(AuthBase):
    """The key, or nothing. It is given with every request, so that requests looks for no password in the user's .netrc."""

    def __init__(self, key: ApiKey | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = self._key.authorization
        return request


def _body_of(response: requests.Response) -> bytes:
    """The body of an answer. Raises CivitaiError for one that is too large, before it is read, and requests' error for a part."""
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > _LARGEST_ANSWER:
            response.close()
            host = origin_of(response.url)[1]
            raise CivitaiError(f"The answer of {host} is larger than {_LARGEST_ANSWER >> 20} MB.", "Try again later.")
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and "Content-Encoding" not in response.headers and len(body) != int(announced):
        # urllib3 notices that only since version 2.
        raise requests.exceptions.ChunkedEncodingError("the connection broke off")
    return bytes(body)


def _retry_after(response: requests.Response) -> float | None:
    """Seconds to wait as the server asks, in seconds or as a date (RFC 9110, 10.2.3); None if it does not."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
