from __future__ import annotations

import os

import pytest

from coopfs.errors import UsageError
from coopfs.store.cloudaddress import TIMEOUT_S, parse_cloud_address
from coopfs.store.open import absolute_address, create_store, open_store


@pytest.fixture(autouse=True)
def _no_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("text", "scheme", "bucket", "prefix"),
    [
        ("s3://bucket", "s3", "bucket", ""),
        ("s3://bucket/", "s3", "bucket", ""),
        ("S3://my.bucket-1/a/b_c/d.e/", "s3", "my.bucket-1", "a/b_c/d.e"),
        ("gs://bucket/prefix", "gs", "bucket", "prefix"),
        ("az://container/prefix?timeout=5", "az", "container", "prefix"),
        ("s3://bucket?region=eu-west-1", "s3", "bucket", ""),
    ],
)
def test_an_address_names_bucket_and_prefix(
    text: str, scheme: str, bucket: str, prefix: str
) -> None:
    address = parse_cloud_address(text)
    assert (address.scheme, address.bucket, address.prefix) == (scheme, bucket, prefix)
    assert address.text == text
    assert absolute_address(text) == text


def test_without_options_the_service_and_its_defaults_are_meant() -> None:
    address = parse_cloud_address("s3://bucket")
    assert address.endpoint is None
    assert address.region is None
    assert address.ca_file is None
    assert address.is_conditional
    assert not address.is_virtual_host
    assert not address.is_plain_http
    assert address.timeout_s == TIMEOUT_S


def test_options_say_where_and_how() -> None:
    address = parse_cloud_address(
        "s3://bucket/p?endpoint=http%3A%2F%2Flocalhost%3A9000%2F&region=x-1&virtual-host=yes"
        "&conditional=no&timeout=30&ca=/etc/ca.pem"
    )
    assert address.endpoint == "http://localhost:9000"
    assert address.is_plain_http
    assert address.region == "x-1"
    assert address.is_virtual_host
    assert not address.is_conditional
    assert address.timeout_s == 30
    assert address.ca_file == "/etc/ca.pem"
    readable = parse_cloud_address("s3://bucket?endpoint=https://[::1]:9000/path")
    assert readable.endpoint == "https://[::1]:9000/path"


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [
        ("s3", "AWS_ENDPOINT_URL"),
        ("s3", "AWS_ENDPOINT_URL_S3"),
        ("gs", "GOOGLE_BASE_URL"),
        ("az", "AZURE_STORAGE_ENDPOINT"),
    ],
)
def test_an_endpoint_of_the_environment_counts_where_the_address_has_none(
    scheme: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://localhost:9000")
    assert parse_cloud_address(f"{scheme}://bucket").endpoint == "http://localhost:9000"
    named = parse_cloud_address(f"{scheme}://bucket?endpoint=https://other")
    assert named.endpoint == "https://other"


def test_the_endpoint_of_s3_comes_before_the_one_of_all_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://all")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://only-s3")
    assert parse_cloud_address("s3://bucket").endpoint == "https://only-s3"


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("s3://", "name of a bucket"),
        ("s3:///prefix", "name of a bucket"),
        ("s3://b", "name of a bucket"),
        ("s3://bad bucket/x", "name of a bucket"),
        ("s3://key:hunter2@bucket/prefix", "credentials in the environment"),
        ("s3://host:9000/bucket", r"another server with \?endpoint="),
        ("s3://bucket/a//b", "single slashes"),
        ("s3://bucket/../b", "single slashes"),
        ("s3://bucket/a%2Fb", "single slashes"),
        ("s3://bucket/a b", "single slashes"),
        ("s3://bucket/a\nb", "single slashes"),
        ("s3://bucket?secret_access_key=hunter2", "unknown option 'secret_access_key'; known are"),
        ("gs://bucket?virtual-host=yes", "unknown option 'virtual-host'"),
        ("s3://bucket?region", "OPTION=VALUE"),
        ("s3://bucket?region=", "needs one value"),
        ("s3://bucket?region=a&region=b", "needs one value"),
        ("s3://bucket?conditional=maybe", "yes or no"),
        ("s3://bucket?timeout=0", "number of seconds"),
        ("s3://bucket?timeout=-5", "number of seconds"),
        ("s3://bucket?timeout=5m", "number of seconds"),
        ("s3://bucket?ca=ca.pem", "absolute path"),
        ("s3://bucket?endpoint=localhost:9000", "http://HOST"),
        ("s3://bucket?endpoint=ftp://host", "http://HOST"),
        ("s3://bucket?endpoint=http://u:hunter2@host", "http://HOST"),
        ("s3://bucket?endpoint=http://ho st", "http://HOST"),
        ("s3://bucket?endpoint=http://host:0", "http://HOST"),
        ("s3://bucket?endpoint=http://host:99999", "http://HOST"),
        ("s3://bucket?endpoint=http://h%C3%B6st", "http://HOST"),
        ("s3://bucket?endpoint=http://host/%3Fx", "http://HOST"),
    ],
)
def test_a_mistaken_address_is_refused_without_showing_a_secret(address: str, advice: str) -> None:
    for call in (open_store, create_store, absolute_address):
        with pytest.raises(UsageError, match=advice) as caught:
            call(address)
        assert "hunter2" not in str(caught.value)


def test_a_mistaken_endpoint_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a url with hunter2")
    with pytest.raises(UsageError, match="AWS_ENDPOINT_URL is not the address") as caught:
        parse_cloud_address("s3://bucket")
    assert "hunter2" not in str(caught.value)
