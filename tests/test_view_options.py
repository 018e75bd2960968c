"""Mount options: what they mean, and that a wrong one is named."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import UsageError
from coopfs.view.options import ALWAYS, parse_options


def test_nothing_given_is_read_only_without_devices_or_setuid() -> None:
    assert parse_options([]).kernel == {"ro", "nosuid", "nodev", "default_permissions"}


def test_what_mount_adds_on_its_own_changes_nothing() -> None:
    given = ["rw,suid,dev,_netdev,nofail,x-systemd.automount,comment=x,defaults", "ro"]
    assert parse_options(given) == parse_options([])


def test_values_are_read() -> None:
    options = parse_options(["allow_other,uid=7", "gid=8,umask=027,shadow,nonempty,refresh=5"])
    assert options.kernel == {*ALWAYS, "allow_other"}
    assert (options.uid, options.gid, options.umask) == (7, 8, 0o27)
    assert (options.shadow, options.nonempty, options.refresh_s) == (True, True, 5)


@pytest.mark.parametrize(
    "option",
    ["nonsense", "uid=", "uid=-1", "uid=root", "umask=9", "umask=1777", "refresh=0", "memory=1",
     "uid", "allow_other=1", "fsname=x", "ro=1"],
)  # fmt: skip
def test_a_wrong_option_is_named(option: str) -> None:
    with pytest.raises(UsageError, match=option):
        parse_options([f"allow_other,{option}"])


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert parse_options([text]).kernel >= ALWAYS
