from __future__ import annotations

import base64

import pytest

from coopfs.errors import ConfigError, UsageError
from coopfs.store.http import Endpoint
from coopfs.store.open import absolute_address, open_store
from coopfs.store.restaddress import parse_address

PIN = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("address", "endpoint", "path"),
    [
        ("rest+http://host/a/b", Endpoint("http", "host", 8000), "/a/b/"),
        ("rest+http://host", Endpoint("http", "host", 8000), "/"),
        ("rest+https://host:443/", Endpoint("https", "host", 443), "/"),
        ("REST+HTTPS://Host:443/X/", Endpoint("https", "host", 443), "/X/"),
        ("rest:https://host/x", Endpoint("https", "host", 8000), "/x/"),
        ("rest:http://host/x", Endpoint("http", "host", 8000), "/x/"),
        ("rest+http://[::1]:99/x", Endpoint("http", "::1", 99), "/x/"),
        ("rest+http://host/bücher%20bin", Endpoint("http", "host", 8000), "/b%C3%BCcher%20bin/"),
        (
            "rest+http+unix:///run/r.sock:/my/x/",
            Endpoint("http", "localhost", 80, "/run/r.sock"),
            "/my/x/",
        ),
        (
            "rest:http+unix:///run/r.sock:/x",
            Endpoint("http", "localhost", 80, "/run/r.sock"),
            "/x/",
        ),
        ("rest+http+unix:///run/a%3ab", Endpoint("http", "localhost", 80, "/run/a:b"), "/"),
        ("rest+http+unix:///run/r.sock:", Endpoint("http", "localhost", 80, "/run/r.sock"), "/"),
    ],
)
def test_an_address_names_a_server_and_a_place_on_it(
    address: str, endpoint: Endpoint, path: str
) -> None:
    found = parse_address(address)
    assert found.endpoint == endpoint
    assert found.path == path
    assert found.shown == address
    assert absolute_address(address) == address


def test_the_password_is_taken_out_of_what_is_shown() -> None:
    found = parse_address("rest+https://ann:hunt%40er2@host:1/p/?pin=" + PIN)
    assert (found.user, found.password) == ("ann", "hunt@er2")
    assert found.shown == "rest+https://ann:***@host:1/p/?pin=" + PIN
    assert "hunt" not in repr(found)
    assert parse_address("rest:http://ann:hunter2@host").shown == "rest:http://ann:***@host"
    unix = parse_address("rest+http+unix://ann:hunter2@/run/s:/x")
    assert (unix.shown, unix.user) == ("rest+http+unix://ann:***@/run/s:/x", "ann")


def test_who_we_are_comes_from_the_address_before_the_environment() -> None:
    def sent(address: str, **environ: str) -> str | None:
        header = parse_address(address).headers(environ).get("Authorization")
        return header and base64.b64decode(header.removeprefix("Basic ")).decode()

    names = {"COOPFS_REST_USERNAME": "bob", "COOPFS_REST_PASSWORD": "builder"}
    assert sent("rest+http://host/") is None
    assert sent("rest+http://host/", **names) == "bob:builder"
    assert sent("rest+http://ann@host/", **names) == "ann:builder"
    assert sent("rest+http://ann:pw@host/", **names) == "ann:pw"
    assert sent("rest+http://ann:@host/", **names) == "ann:"
    assert sent("rest+http://%C3%A4nn:p%C3%BC@host/") == "änn:pü"


def test_a_pin_may_be_written_as_openssl_prints_it() -> None:
    colons = ":".join(PIN[i : i + 2] for i in range(0, 64, 2)).upper()
    assert parse_address(f"rest+https://host/x?pin={colons}").pin == PIN
    assert parse_address("rest+https://host/x?ca=/etc/my%20ca.pem").ca_file == "/etc/my ca.pem"


@pytest.mark.parametrize(
    ("rest", "advice"),
    [
        ("http:///path", "no host"),
        ("http://ann:hunter2@/path", "no host"),
        ("http://host:port/", "port"),
        ("http://host:99999/", "port"),
        ("http://[::1/", "port"),
        ("http://host/a b", "blanks"),
        ("http://host/a\nb", "blanks"),
        ("http://host/../x", r'"\.\."'),
        ("http://host/a/%2e%2e/x", r'"\.\."'),
        ("http://host/x#y", "%23"),
        ("http://a%3ab:hunter2@host/", "colon"),
        ("http+unix://host/run/s:/x", "no socket"),
        ("http+unix://", "no socket"),
        ("http+unix:///:/x", "no socket"),
        ("http://host/x?pin=" + PIN, "without TLS"),
        ("https://host/x?pin=12", "64 hex digits"),
        ("https://host/x?ca=relative.pem", "absolute path"),
        ("https://host/x?ca=/a&pin=" + PIN, "exclude"),
        ("https://host/x?ca=/a&ca=/b", "once"),
        ("https://host/x?verify=no", "verify"),
        ("https://host/x?&", "no option"),
    ],
)
def test_a_mistaken_address_says_what_is_expected_and_shows_no_password(
    rest: str, advice: str
) -> None:
    for call in (open_store, absolute_address):
        with pytest.raises(UsageError, match=advice) as caught:
            call(f"rest+{rest}")
        assert "hunter2" not in str(caught.value)


def test_restics_prefix_needs_an_address_behind_it() -> None:
    with pytest.raises(UsageError, match=r"expected rest\+https://"):
        open_store("rest:host:8000/x")


def test_a_file_of_authorities_that_is_none_is_named(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("ca")
    (folder / "none.pem").write_text("no certificate")
    for name in ("absent.pem", "none.pem"):
        with pytest.raises(ConfigError, match=rf"{name}: cannot be used"):
            open_store(f"rest+https://host/x?ca={folder}/{name}")
