from __future__ import annotations

import pytest

from coopfs.store.shown import shown_address


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rest+https://ann:hunter2@host:8000/p", "rest+https://ann:***@host:8000/p"),
        ("rest:https://ann:hunter2@host/", "rest:https://ann:***@host/"),
        ("sftp://ann:hun@ter:2@host:22/p@q:r", "sftp://ann:***@host:22/p@q:r"),
        ("ftp://:hunter2@host/", "ftp://:***@host/"),
        ("rest+http+unix://ann:hunter2@/run/s:/x", "rest+http+unix://ann:***@/run/s:/x"),
        ("rclone::sftp,user=ann,pass=hunter2:/p", "rclone::sftp,…"),
    ],
)
def test_a_password_is_hidden(address: str, shown: str) -> None:
    assert shown_address(address) == shown


@pytest.mark.parametrize(
    "address",
    [
        "/srv/a:b@c/store",
        "file:///srv/a:b@c",
        "sftp://ann@host:22/a:b@c",
        "rest+https://host:8000/a:b@c?pin=12:34",
        "rclone:remote:path",
        "s3://bucket/a:b@c",
    ],
)
def test_what_holds_no_password_is_shown_as_it_is(address: str) -> None:
    assert shown_address(address) == address
