"""Settings of partners and of the server: what is written is read, what is wrong is named."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import Host
from serving import ADMIN, BERTA, STRANGER, WRITER

from coopfs.errors import ConfigError, FormatUnsupported, UsageError
from coopfs.server.house import HOUSE_FILE, HouseSettings, load_house
from coopfs.server.settings import (
    PartnerSettings,
    change_partner,
    load_partner,
    load_partners,
    read_partners,
    save_partner,
)

FULL = PartnerSettings(
    "anna",
    writers=(WRITER.cert_pem,),
    admins=(ADMIN.cert_pem,),
    diallers=(BERTA.cert_pem,),
    quota_bytes=600 << 30,
    per_day_bytes=10 << 30,
    retention_days=60,
    receive_rate="10M, full 20:00-07:00",
    send_rate="full",
    writer_tokens=("0" * 64,),
    admin_tokens=("1" * 64,),
    keeps_until="2027-01-31",
)


def test_settings_come_back_as_they_were_saved(tmp_path: Path) -> None:
    assert load_partners(tmp_path) == {}
    for settings in (FULL, PartnerSettings("berta")):
        save_partner(tmp_path, settings)
        assert load_partner(tmp_path, settings.name) == settings
    assert set(load_partners(tmp_path)) == {"anna", "berta"}
    path = tmp_path / "partners/anna/partner.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert load_partner(tmp_path, "anna").writer_pins == {WRITER.pin}
    assert load_partner(tmp_path, "anna").admin_pins == {ADMIN.pin}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../anna"},
        {"name": ""},
        {"name": "-anna"},
        {"name": "a" * 65},
        {"writers": ("no certificate",)},
        {"admins": FULL.writers},
        {"diallers": FULL.admins},
        {"quota_bytes": -1},
        {"per_day_bytes": -1},
        {"retention_days": 0},
        {"retention_days": 100_000},
        {"receive_rate": "fast"},
        {"send_rate": "10M 20:00-07:00"},
        {"writer_tokens": ("the token itself",)},
        {"keeps_until": "some day"},
    ],
)
def test_settings_that_make_no_sense_are_not_saved(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        save_partner(tmp_path, replace(FULL, **wrong))  # type: ignore[arg-type]
    assert load_partners(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("version = 1\nquota = 5\n", "unknown setting 'quota'"),
        ("version = 1\nquota_bytes = '600G'\n", "quota_bytes"),
        ("version = 1\nquota_bytes = true\n", "quota_bytes"),
        ("version = 1\nwriters = 'x'\n", "writers"),
        ("version = 1\nwriters = [1]\n", "writers"),
        ("version = 1\nname = 'berta'\n", "berta"),
        ("version = 1\nretention_days = 0\n", "retention_days"),
        ("version = 'one'\n", "version"),
        ("quota_bytes = 5\n", "version"),
        ("not toml", "not valid TOML"),
        ("\xff", "not valid TOML"),
        ("#" * (1 << 20) + "\n", "more than"),
    ],
)
def test_file_that_is_wrong_says_where_and_keeps_nobody_else_out(
    tmp_path: Path, text: str, says: str
) -> None:
    save_partner(tmp_path, PartnerSettings("berta"))
    path = tmp_path / "partners/anna/partner.toml"
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=says):
        load_partners(tmp_path)
    found, problems = read_partners(tmp_path)
    assert set(found) == {"berta"} and str(path) in str(problems["anna"])


def test_file_of_a_newer_version_asks_for_an_update(tmp_path: Path) -> None:
    save_partner(tmp_path, FULL)
    path = tmp_path / "partners/anna/partner.toml"
    path.write_text(path.read_text().replace("version = 1", "version = 2"))
    with pytest.raises(FormatUnsupported, match="update coopfs"):
        load_partner(tmp_path, "anna")


def test_certificate_belongs_to_one_partner(tmp_path: Path) -> None:
    save_partner(tmp_path, FULL)
    with pytest.raises(UsageError, match="'anna'"):
        change_partner(tmp_path, "berta", lambda old: replace(old, writers=(WRITER.cert_pem,)))
    save_partner(tmp_path, PartnerSettings("berta", (WRITER.cert_pem,)))  # by hand, say
    found, problems = read_partners(tmp_path)
    assert set(found) == {"anna"} and "already" in str(problems["berta"])


def test_changes_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    def add(number: int) -> None:
        change_partner(
            tmp_path,
            "anna",
            lambda old: replace(old, writer_tokens=(*old.writer_tokens, f"{number:064x}")),
        )

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_partner(tmp_path, "anna").writer_tokens) == 8


def test_house_has_defaults_and_names_what_is_wrong(tmp_path: Path) -> None:
    assert load_house(tmp_path) == HouseSettings()
    path = tmp_path / HOUSE_FILE
    path.write_text('receive_rate = "10M, full sat-sun"\nconnections = 5\n')
    assert load_house(tmp_path) == HouseSettings(receive_rate="10M, full sat-sun", connections=5)
    for text, says in (
        ("connections = 0\n", "connections is 0"),
        ("connections = '5'\n", "connections"),
        ("stall_s = true\n", "stall_s"),
        ("receive_rate = 10\n", "receive_rate"),
        ("receive_rate = 'fast'\n", "fast"),
        ("speed = 10\n", "unknown setting 'speed'"),
        ("[\n", "not valid TOML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_house(tmp_path)


def test_admit_makes_and_changes_partners(tmp_path: Path) -> None:
    host = Host(tmp_path)
    files = {}
    for name, who in (("writer", WRITER), ("admin", ADMIN), ("second", STRANGER)):
        files[name] = tmp_path / f"{name}.pem"
        files[name].write_text(who.key_pem + who.cert_pem)  # the key beside it stays outside
    root = host.dirs.state / "serve"
    host.ok("serve", "admit", "anna", "--writer", files["writer"], "--quota", "600G")
    assert load_partner(root, "anna") == PartnerSettings(
        "anna", (WRITER.cert_pem,), quota_bytes=600 << 30
    )
    host.ok(
        *("serve", "admit", "anna", "--writer", files["second"], "--admin", files["admin"]),
        *("--retention", "6w", "--receive-rate", "10M, full sat-sun", "--per-day", "5G"),
    )
    assert load_partner(root, "anna") == PartnerSettings(
        "anna",
        (WRITER.cert_pem, STRANGER.cert_pem),
        (ADMIN.cert_pem,),
        quota_bytes=600 << 30,
        per_day_bytes=5 << 30,
        retention_days=42,
        receive_rate="10M, full sat-sun",
    )
    assert "PRIVATE" not in (root / "partners/anna/partner.toml").read_text()
    for args in (
        ("../anna",),
        ("anna", "--quota", "much"),
        ("anna", "--send-rate", "fast"),
        ("anna", "--writer", tmp_path / "missing.pem"),
        ("anna", "--writer", root / "partners/anna/partner.toml.txt"),
        ("berta", "--writer", files["writer"]),
    ):
        ran = host.run("serve", "admit", *args)
        assert ran.code in (1, 2) and ran.err.startswith("coopfs: "), args


def test_token_is_shown_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    host = Host(tmp_path)
    root = tmp_path / "elsewhere"
    assert host.run("serve", "--root", root, "token", "anna").code == 1  # no such partner
    host.ok("serve", "--root", root, "admit", "anna")
    token = host.ok("serve", "token", "anna", "--root", root).out.strip()
    admin = host.ok("serve", "--root", root, "token", "anna", "--admin").out.strip()
    settings = load_partner(root, "anna")
    assert settings.writer_tokens == (hashlib.sha256(token.encode()).hexdigest(),)
    assert settings.admin_tokens == (hashlib.sha256(admin.encode()).hexdigest(),)
    assert token not in (root / "partners/anna/partner.toml").read_text()


def test_serve_says_what_is_missing_to_serve(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for args, says in (
        ((), "nowhere to listen"),
        (("--listen", "nonsense"), "expected HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), "expected HOST:PORT"),
        (("--listen", "unix:/tmp/x"), "expected HOST:PORT"),
        (("--http", "0.0.0.0:0"), "other machines"),
        (("--http", "[::]:0"), "other machines"),
        (("--listen", "127.0.0.1:0", "--restic-listen", "127.0.0.1:0"), "go together"),
    ):
        ran = host.run("serve", *args)
        assert ran.code == 2 and says in ran.err, (args, ran.err)
    ran = host.run("serve", "--listen", "192.0.2.1:0")  # RFC 5737: nobody's address
    assert ran.code == 1 and "cannot be listened on" in ran.err
    ran = host.run(
        "serve", "--restic-listen", "127.0.0.1:0", "--restic-certificate", tmp_path / "missing"
    )
    assert ran.code == 1 and "missing" in ran.err
