"""The key goes to the API's own host and nowhere else; and nobody sends us to where we should not go."""

from __future__ import annotations

import base64
import html
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from safetensors.numpy import save

from carlos_core.civitai.addresses import Addresses, bases_from_environment
from carlos_core.civitai.client import CivitaiClient
from carlos_core.civitai.keys import ApiKey, find_key
from carlos_core.civitai.lora import CivitaiLora
from carlos_core.errors import CivitaiError
from tests.support import civitai_server
from tests.support.civitai_server import KEY, CivitaiServer, Fault, client_of

CONTENT = save({"noise": np.random.default_rng(7).integers(0, 256, 200_000, dtype=np.uint8)})
PUBLIC = ("https://civitai.com", "https://civitai.red")


@pytest.fixture
def red() -> Iterator[CivitaiServer]:
    with civitai_server.serving() as server:
        yield server


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIVITAI_API_KEY", raising=False)


def sent_keys(server: CivitaiServer, name: str) -> list[str | None]:
    return [request.headers.get("authorization") for request in server.of(name)]


def test_the_key_goes_to_the_api_and_not_to_the_storage_it_redirects_to(civitai: CivitaiServer, tmp_path: Path) -> None:
    civitai.wants_key = True
    civitai.add(5, CONTENT)
    civitai.cuts = [70_000, 70_000]
    client = client_of(civitai)
    client.versions_by_hashes(["0" * 64])
    client.download(client.version(5).files[0], tmp_path)
    # The list of hashes, the version, and the download's address for each of three connections.
    assert sent_keys(civitai, "api") == [f"Bearer {KEY}"] * 5
    assert sent_keys(civitai, "storage") == [None] * 3
    for request in civitai.requests:
        assert KEY not in request.page
        assert "cookie" not in request.headers
        assert KEY not in str({name: value for name, value in request.headers.items() if name != "authorization"})


def test_another_port_of_the_same_host_is_another_host(civitai: CivitaiServer, red: CivitaiServer) -> None:
    red.add(5, CONTENT)
    civitai.faults.append(Fault("model-versions/5", 302, {"Location": f"{red.url}/api/v1/model-versions/5"}))
    assert client_of(civitai).version(5).version_id == 5
    assert sent_keys(civitai, "api") == [f"Bearer {KEY}"]
    assert sent_keys(red, "api") == [None]


def test_the_second_site_is_the_apis_own_too(civitai: CivitaiServer, red: CivitaiServer) -> None:
    red.add(5, CONTENT)
    client_of(civitai, red).version(5)
    assert sent_keys(red, "api") == [f"Bearer {KEY}"]


def test_a_download_address_on_another_host_gets_no_key(civitai: CivitaiServer, red: CivitaiServer, tmp_path: Path) -> None:
    red.add(5, CONTENT)
    civitai.versions[5] = red.versions[5]
    client = client_of(civitai)
    assert client.download(client.version(5).files[0], tmp_path).read_bytes() == CONTENT
    assert sent_keys(red, "api") == [None]


def test_without_a_key_no_password_of_the_users_is_sent_in_its_place(
    civitai: CivitaiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """requests takes passwords from .netrc by itself."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\nmachine localhost login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    civitai.add(5, CONTENT)
    for key in (None, KEY):
        client = client_of(civitai, key=key)
        client.download(client.version(5).files[0], tmp_path / str(key))
    assert set(sent_keys(civitai, "api")) == {None, f"Bearer {KEY}"}
    assert set(sent_keys(civitai, "storage")) == {None}


def test_the_key_of_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "civitai_key.txt"
    monkeypatch.delenv("CIVITAI_API_KEY", raising=False)
    assert find_key(None) is None
    assert find_key(file) is None
    # As Windows' editor saves it.
    file.write_bytes(b"\xef\xbb\xbffrom-the-file\r\n")
    found = find_key(file)
    assert found is not None
    assert found.authorization == "Bearer from-the-file"
    monkeypatch.setenv("CIVITAI_API_KEY", f" {KEY}\n")
    found = find_key(file)
    assert found is not None
    assert found.authorization == f"Bearer {KEY}"
    monkeypatch.setenv("CIVITAI_API_KEY", "")
    file.write_text(" \n")
    assert find_key(file) is None


@pytest.mark.parametrize("secret", ["two words of it", "line\nbreak-of-it", "schlüssel-of-it", "short", "x" * 300])
@pytest.mark.usefixtures("no_key")
def test_what_is_no_key_is_refused_without_being_repeated(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "civitai_key.txt"
    file.write_text(secret, encoding="utf-8")
    with pytest.raises(CivitaiError, match="The CivitAI key is not a key") as caught:
        find_key(file)
    assert secret not in str(caught.value)
    file.write_bytes(b"\xff\xfe\x00k")
    with pytest.raises(CivitaiError, match="The CivitAI key is not a key"):
        find_key(file)


def test_no_text_made_of_a_key_shows_it() -> None:
    key = ApiKey(KEY)
    client = CivitaiClient(PUBLIC, key)
    texts = [repr(key), str(key), f"{key}", f"{key!r}", f"{[key]}", repr(client), str(client), repr(vars(client))]
    assert all(KEY not in text for text in texts)
    with pytest.raises(TypeError, match="not to be written down"):
        pickle.dumps(key)


@pytest.mark.parametrize("secret", [KEY, "aB3+/=%&?_-~!", "01234567"])
def test_the_key_is_taken_out_in_whatever_form_it_is_repeated(secret: str) -> None:
    key = ApiKey(secret)
    percent = "".join(f"%{byte:02X}" for byte in secret.encode())
    forms = [secret, quote(secret, safe=""), quote(secret), quote(quote(secret, safe=""), safe=""), percent, percent.lower()]
    forms += ["".join(f"\\u{ord(char):04x}" for char in secret), html.escape(secret), secret.encode().hex().upper()]
    forms += ["".join(f"&#{ord(char)};" for char in secret), "".join(f"&#x{ord(char):X};" for char in secret)]
    for form in forms:
        assert key.redacted(f"token={form}&x=1") == "token=***&x=1"
    for before in ("", "t", "to", "tok", "Bearer "):
        for after in ("", "1", "12", "123"):
            text = base64.b64encode(f"{before}{secret}{after}".encode()).decode()
            for packed in (text, text.translate(str.maketrans("+/", "-_"))):
                left = key.redacted(f"/files/{packed}")
                assert "***" in left
                assert secret not in base64.b64decode(left.partition("***")[0].removeprefix("/files/") + "==").decode()
    assert key.redacted("nothing of it: 0123 test-key %41") == "nothing of it: 0123 test-key %41"


def test_the_key_is_in_no_log_no_exception_and_no_file(
    civitai: CivitaiServer, red: CivitaiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything that can go wrong goes wrong, by a server that repeats what it was sent wherever it can."""
    echo = f"Bearer {KEY}"
    bad: list[tuple[int, dict[str, str], bytes]] = [
        *((status, {}, f'{{"error": "{echo}"}}'.encode()) for status in (400, 401, 403, 404, 410, 429, 451, 500, 503)),
        (200, {}, echo.encode()),
        (200, {}, f'{{"id": "{echo}"}}'.encode()),
        # The second is more than one piece of what is written.
        (200, {"Content-Length": "9999"}, echo.encode()),
        (200, {"Content-Length": "199999"}, echo.encode() * 4000),
        (302, {"Location": f"http://10.0.0.1/?token={KEY}"}, b""),
        (302, {"Location": f"https://[broken/{KEY}"}, b""),
        (302, {"Location": f"ftp://{KEY}/"}, b""),
        (302, {"Location": f"http://127.0.0.1:9/{KEY}"}, b""),
    ]
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for page in ("model-versions/5", "/api/download", "storage:/5"):
            for status, headers, body in bad:
                civitai.add(5, CONTENT, description=f"token={KEY}", name=f"snow {status}")
                civitai.faults = [Fault(page, status, headers, body, times=100)]
                try:
                    CivitaiLora(None, 5, lambda: client_of(civitai, attempts=2)).fetch(tmp_path / "loras")
                except CivitaiError as error:
                    texts += texts_of(error)
        civitai.faults = []
        lora = CivitaiLora(None, 5, lambda: client_of(civitai)).fetch(tmp_path / "loras")
        client_of(civitai, red).versions_by_hashes(["0" * 64])
    assert lora.with_name(f"{lora.stem}.civitai.info").is_file()
    assert len(texts) > 2 * 3 * len(bad) // 2
    logged = "\n".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)
    # The server's side of the same conversation does have it.
    assert any(request.headers.get("authorization") == echo for request in civitai.requests)
    assert KEY not in logged
    assert KEY not in "\n".join(texts)
    for path in tmp_path.rglob("*"):
        assert KEY not in path.name
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def texts_of(error: BaseException) -> list[str]:
    """All that can be read of an exception and of those behind it, with what they carry."""
    texts = []
    seen: BaseException | None = error
    while seen is not None:
        texts += [str(seen), repr(seen), repr(seen.args), repr(vars(seen))]
        assert not hasattr(seen, "request"), "a request has its headers with it"
        seen = seen.__cause__ or seen.__context__
    return texts


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example.com/file",
        "ftp://cdn.example.com/file",
        "file:///etc/passwd",
        "https://127.0.0.1/file",
        "https://127.1/file",
        "https://2130706433/file",
        "https://localhost/file",
        "https://0.0.0.0/file",
        "https://10.1.2.3/file",
        "https://172.16.0.1/file",
        "https://192.168.1.1/file",
        "https://224.0.0.1/file",
        "https://255.255.255.255/file",
        "https://[64:ff9b::a01:203]/file",
        "https://[2002:a01:203::1]/file",
        "https://[ff02::1]/file",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/file",
        "https://[::]/file",
        "https://[::ffff:127.0.0.1]/file",
        "https://[fe80::1]/file",
        "https://[fd00::1]/file",
        "https://[broken/file",
        "//nowhere",
        "http://civitai.com/api",
    ],
)
def test_public_hosts_cannot_send_us_to_this_network_or_off_https(url: str) -> None:
    with pytest.raises(CivitaiError, match="nothing was fetched|not a web address"):
        Addresses(PUBLIC).check(url)


@pytest.mark.parametrize("url", ["https://8.8.8.8/file", "https://[2606:4700::1111]/file", "https://198.18.0.7/file"])
def test_public_hosts_may_send_us_to_public_addresses(url: str) -> None:
    Addresses(PUBLIC).check(url)


@pytest.mark.parametrize("page", ["model-versions/5", "/api/download", "storage:/5"])
def test_a_redirect_off_https_is_not_followed(civitai: CivitaiServer, tmp_path: Path, page: str) -> None:
    civitai.add(5, CONTENT)
    civitai.faults.append(Fault(page, 302, {"Location": "http://192.0.2.1/file"}))
    with pytest.raises(CivitaiError, match=r"sends us on to 192\.0\.2\.1, which is not https; nothing was fetched"):
        CivitaiLora(None, 5, lambda: client_of(civitai)).fetch(tmp_path)


def test_only_the_apis_own_hosts_are_its_own() -> None:
    addresses = Addresses(PUBLIC)
    own = ["https://civitai.com/api", "https://CIVITAI.com:443/", "https://civitai.red"]
    others = [
        "http://civitai.com/api",
        "https://civitai.com:8443/",
        "https://www.civitai.com/",
        "https://civitai.com.evil.org/",
        "https://civitai.com@evil.org/",
        "https://evil.org/civitai.com",
    ]
    assert [addresses.is_own(url) for url in own + others] == [True] * len(own) + [False] * len(others)


@pytest.mark.parametrize("bases", [["http://civitai.com"], ["http://127.0.0.1:80", "http://civitai.red"], ["civitai.com"], [""]])
def test_a_base_address_without_https_is_refused(bases: list[str]) -> None:
    with pytest.raises(CivitaiError):
        CivitaiClient(bases)


def test_the_base_addresses_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARLOS_CIVITAI_URL", raising=False)
    assert bases_from_environment() == PUBLIC
    monkeypatch.setenv("CARLOS_CIVITAI_URL", " http://127.0.0.1:1/ , http://127.0.0.1:2 ,")
    assert bases_from_environment() == ("http://127.0.0.1:1/", "http://127.0.0.1:2")
    assert Addresses(bases_from_environment()).bases == ("http://127.0.0.1:1", "http://127.0.0.1:2")


def test_a_client_reads_base_addresses_and_key_from_the_environment(
    civitai: CivitaiServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    civitai.add(5, CONTENT)
    monkeypatch.setenv("CARLOS_CIVITAI_URL", civitai.url)
    monkeypatch.setenv("CIVITAI_API_KEY", KEY)
    client = CivitaiClient.from_environment(tmp_path / "none")
    assert client.version(5).version_id == 5
    assert sent_keys(civitai, "api") == [f"Bearer {KEY}"]
