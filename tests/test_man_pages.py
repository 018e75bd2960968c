"""The man pages: all render, and say everything that --help says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from docutils.core import publish_string
from docutils.writers.manpage import Writer

from coopfs.archive import settings
from coopfs.cli.main import cli
from coopfs.dirs import Dirs
from coopfs.format.invitation import Endpoint
from coopfs.ids import ArchiveId
from coopfs.store import cloudaddress
from coopfs.view import options

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "man").glob("*.rst"))


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below *group* with its full name ("coopfs key passphrase")."""
    yield name, group
    context = click.Context(group)
    for subname in group.list_commands(context):
        command = group.get_command(context, subname)
        assert command is not None
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {subname}")
        else:
            yield f"{name} {subname}", command


COMMANDS = dict(commands(cli, "coopfs"))


def page_of(command_name: str) -> Path:
    """Return the page of a command; those of a group share the group's."""
    return ROOT / "man" / f"{'-'.join(command_name.split()[:2])}.1.rst"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_renders_without_a_warning(page: Path) -> None:
    strict = {"report_level": 1, "halt_level": 2, "input_encoding": "utf-8"}
    rendered = publish_string(page.read_bytes(), writer=Writer(), settings_overrides=strict)
    name, _, section = page.stem.rpartition(".")
    assert f'.TH "{name}" "{section}"'.encode() in rendered


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page(name: str) -> None:
    page = page_of(name)
    assert page.exists()
    assert f"**{name}**" in page.read_text() or f"**{name} " in page.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_page_of_its_command(name: str) -> None:
    text = page_of(name).read_text()
    spellings = [
        spelling
        for parameter in COMMANDS[name].params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for spelling in [*parameter.opts, *parameter.secondary_opts]
    ]
    general = (ROOT / "man/coopfs.1.rst").read_text()
    # What every command takes is said once, in coopfs(1).
    missing = [o for o in spellings if not is_named(o, text) and not is_global(o, general)]
    assert missing == []


def is_named(option: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def is_global(option: str, general: str) -> bool:
    section = general.split("Global options\n")[1].split("\nNaming a snapshot")[0]
    return is_named(option, section)


def test_every_mount_option_is_in_its_page() -> None:
    text = (ROOT / "man/coopfs-mount.1.rst").read_text()
    named = [*options._VALUES, "shadow", "nonempty", "allow_other", *options.ALWAYS]
    assert [name for name in named if not is_named(name, text)] == []
    parsed = options.parse_options(["shadow,nonempty,allow_other"])
    assert parsed.shadow and parsed.nonempty and "allow_other" in parsed.kernel


def test_every_option_of_a_bucket_is_in_its_page() -> None:
    text = (ROOT / "man/coopfs-cloud.7.rst").read_text()
    described = re.findall(r"^([a-z-]+)=\S+$", text, re.M)
    assert sorted(described) == sorted(cloudaddress.OPTIONS)


def test_every_setting_is_in_its_page(tmp_path: Path) -> None:
    changed = settings.ArchiveSettings(
        name="home",
        store="/store",
        archive_id=ArchiveId(bytes(16)),
        host="amalia",
        series=(settings.SeriesRule("/home", "home"),),
        partial_interval_s=60,
        cache_max=1,
        ntp_servers=(Endpoint("ntp.example.org", 123),),
    )
    dirs = Dirs(tmp_path / "config", tmp_path / "state", tmp_path / "cache")
    settings.save_settings(dirs, changed, folder=tmp_path)
    written = tomllib.loads((tmp_path / settings.SETTINGS_FILE).read_text())
    text = (ROOT / "man/coopfs-config.5.rst").read_text()
    assert [key for key in written if not re.search(rf"^\[?{key}\]?$", text, re.M)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_no_option_that_is_not_there(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", page.read_text()))
    known = {"--help"} | {
        spelling
        for command in COMMANDS.values()
        for parameter in command.params
        for spelling in [*parameter.opts, *parameter.secondary_opts]
    }
    rest_server = {"--append-only", "--path", "--private-repos", "--tls"}
    restic = {"--tls-client-cert", "--cacert"}
    others = {"--now", "--azurite"}  # systemctl's, and scripts/setup's
    assert named - known - rest_server - restic - others == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_refers_only_to_pages_that_exist(page: Path) -> None:
    ours = {path.stem for path in PAGES}
    for name, section in re.findall(r"\b(coopfs[a-z-]*)\(([1-8])\)", page.read_text()):
        assert f"{name}.{section}" in ours


@pytest.mark.slow
def test_wheel_brings_the_command_and_every_page(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("coopfs-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert b"coopfs = coopfs.cli.main:main" in archive.read(entry_points)
    units = {name.rpartition("/")[2] for name in names if "/lib/systemd/system/" in name}
    assert units == {"coopfs-serve.service", "coopfs-serve.socket"}
    pages = {Path(name).name for name in names if "/share/man/man" in name}
    assert pages == {page.stem for page in PAGES}
