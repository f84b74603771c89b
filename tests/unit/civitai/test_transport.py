"""Rate limits, busy servers and slow ones: waited for with patience that ends, and that can be cut short."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from carlos_core.civitai import transport
from carlos_core.civitai.client import CivitaiClient
from carlos_core.civitai.transport import Patience, Transport
from carlos_core.errors import CivitaiError
from tests.support.civitai_server import CivitaiServer, Fault, client_of


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def hanging_up() -> Iterator[str]:
    """A server that closes every connection at once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_rate_limit_is_waited_for_as_long_as_the_server_says_in_seconds(civitai: CivitaiServer) -> None:
    civitai.add(5, b"LoRA")
    civitai.faults.append(Fault("model-versions", 429, {"Retry-After": "1"}))
    waits: list[tuple[str, float]] = []
    begin = time.monotonic()
    assert client_of(civitai, on_wait=lambda reason, left: waits.append((reason, left))).version(5).version_id == 5
    assert time.monotonic() - begin >= 1.0
    assert all("rate limit" in reason for reason, _ in waits)
    lefts = [left for _, left in waits]
    assert lefts == sorted(lefts, reverse=True)
    assert 0 < lefts[0] <= 1.0


def test_a_rate_limit_is_waited_for_until_the_servers_date(civitai: CivitaiServer) -> None:
    class Told(Exception):
        pass

    def tell(reason: str, left: float) -> None:
        raise Told(left)

    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    civitai.faults.append(Fault("model-versions", 429, {"Retry-After": date}))
    with pytest.raises(Told) as told:
        client_of(civitai, on_wait=tell).version(5)
    # The date has whole seconds.
    assert 20 < told.value.args[0] <= 30


@pytest.mark.parametrize("retry_after", ["", "soon", "-5", "Mon, 01 Jan 2001 00:00:00 GMT", "٣"])
def test_a_retry_after_that_says_nothing_is_no_obstacle(civitai: CivitaiServer, retry_after: str) -> None:
    civitai.add(5, b"LoRA")
    header = retry_after.encode().decode("latin-1")
    civitai.faults.append(Fault("model-versions", 429, {"Retry-After": header}))
    assert client_of(civitai).version(5).version_id == 5


def test_a_rate_limit_that_stays_is_an_error_after_a_bounded_number_of_requests(civitai: CivitaiServer) -> None:
    civitai.faults.append(Fault("model-versions", 429, {"Retry-After": "0"}, times=100))
    with pytest.raises(CivitaiError, match="takes no more requests for now") as caught:
        client_of(civitai, attempts=4).version(5)
    assert "some minutes" in caught.value.hint
    assert len(civitai.requests) == 4


def test_a_wait_that_is_too_long_is_not_begun(civitai: CivitaiServer) -> None:
    civitai.faults.append(Fault("model-versions", 429, {"Retry-After": "3600"}, times=100))
    with pytest.raises(CivitaiError, match="for 60 minutes"):
        client_of(civitai).version(5)
    assert len(civitai.requests) == 1


def test_a_wait_can_be_cut_short(civitai: CivitaiServer) -> None:
    class Cancelled(Exception):
        pass

    def cancel(reason: str, left: float) -> None:
        if left < 29.5:
            raise Cancelled

    civitai.faults.append(Fault("model-versions", 429, {"Retry-After": "30"}))
    begin = time.monotonic()
    with pytest.raises(Cancelled):
        client_of(civitai, on_wait=cancel).version(5)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 524])
def test_a_busy_server_is_asked_again(civitai: CivitaiServer, status: int) -> None:
    civitai.add(5, b"LoRA")
    civitai.faults.append(Fault("model-versions", status, times=4))
    assert client_of(civitai, attempts=5).version(5).version_id == 5
    civitai.faults.append(Fault("model-versions", status, times=5))
    with pytest.raises(CivitaiError, match=f"HTTP {status}"):
        client_of(civitai, attempts=5).version(5)


def test_waits_grow_up_to_a_limit() -> None:
    transport = Transport(["https://civitai.com"], patience=Patience(first_wait_s=2.0, longest_wait_s=10.0))
    assert [transport.backoff(attempt) for attempt in (1, 2, 3, 4, 5)] == [2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_server_that_never_answers_is_a_clear_error(silent: str) -> None:
    patience = Patience(attempts=2, first_wait_s=0.01)
    with pytest.raises(CivitaiError, match="it takes too long") as caught:
        CivitaiClient([silent], timeouts=(0.2, 0.2), patience=patience).version(5)
    assert "network" in caught.value.hint


def test_no_connection_is_a_clear_error(hanging_up: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    for address in (closed, hanging_up):
        with pytest.raises(CivitaiError, match=r"no answer from 127\.0\.0\.1: no connection"):
            CivitaiClient([address], patience=Patience(attempts=2, first_wait_s=0.01)).version(5)


def test_an_answer_that_is_cut_off_is_asked_for_again(civitai: CivitaiServer) -> None:
    civitai.add(5, b"LoRA")
    civitai.faults.append(Fault("model-versions", 200, {"Content-Length": "1000"}, b'{"id": 5, "na'))
    assert client_of(civitai).version(5).name == "v1.0"


def test_redirects_that_never_end_are_a_clear_error(civitai: CivitaiServer) -> None:
    civitai.faults.append(Fault("model-versions", 302, {"Location": "/api/v1/model-versions/5"}, times=100))
    with pytest.raises(CivitaiError, match="round in circles"):
        client_of(civitai).version(5)
    assert len(civitai.requests) == 10


def test_an_answer_without_end_is_not_read_to_its_end(civitai: CivitaiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_LARGEST_ANSWER", 1 << 20)
    civitai.faults.append(Fault("model-versions/5", 200, {}, b" " * (3 << 20)))
    with pytest.raises(CivitaiError, match=r"The answer of 127\.0\.0\.1 is larger than 1 MB"):
        client_of(civitai).version(5)
    civitai.faults.append(Fault("model-versions/5", 200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * (300 << 20))))
    with pytest.raises(CivitaiError, match="larger than 1 MB"):
        client_of(civitai).version(5)
