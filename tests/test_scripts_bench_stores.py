"""The benchmark of stores: what it writes, and that a wrong answer is no result."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slowline import SlowLine

from coopfs.store.base import Kind
from coopfs.store.local import LocalStore

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(autouse=True)
def _scripts_in_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in [name for name in sys.modules if name.startswith("bench_")]:
        del sys.modules[name]


def run_main(monkeypatch: pytest.MonkeyPatch, work: Path, *options: str) -> int:
    from bench_stores import main

    few = ("--packs", "2", "--ranges", "4", "--rounds", "2", "--work", str(work))
    monkeypatch.setattr(sys, "argv", ["bench_stores.py", *few, *options])
    return main()


def test_each_round_of_each_kind_is_noted_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, tmp_path, "--only", "folder") == 0
    samples = json.loads((tmp_path / "stores.json").read_text())
    measures = ("put", "range", "small")
    assert {name: len(values) for name, values in samples["folder"].items()} == {
        name: 2 for measure in measures for name in (measure, f"{measure} cpu")
    }
    assert all(value > 0 for measure in measures for value in samples["folder"][measure])
    assert "* - folder" in (tmp_path / "stores.rst").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"stores.json", "stores.rst"}
    assert "put 16 MiB" in capsys.readouterr().out


def test_a_kind_that_cannot_be_started_is_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("servers.TOOLS", tmp_path)
    assert run_main(monkeypatch, tmp_path / "work", "--only", "rest-server,folder") == 0
    out = capsys.readouterr().out
    assert out.count("rest-server: left out: ") == 1
    assert "not installed" in out
    assert list(json.loads((tmp_path / "work/stores.json").read_text())) == ["folder"]


def test_what_no_line_leads_to_is_not_measured_over_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, tmp_path, "--only", "folder", "--rtt", "30") == 0
    assert "folder: left out: is not reached over any line" in capsys.readouterr().out
    assert "A line of 30 ms, 4 threads" in (tmp_path / "stores.rst").read_text()


def test_a_line_carries_so_many_bytes_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        there = SlowLine(port, 0.01, 1e6)
        with there as line, socket.create_connection(("127.0.0.1", line.port)) as up:
            begun = time.monotonic()
            sender = threading.Thread(target=up.sendall, args=(bytes(500_000),))
            sender.start()
            down, _ = server.accept()
            with down:
                left = 500_000
                while left:
                    left -= len(down.recv(1 << 16))
            seconds = time.monotonic() - begun
            sender.join()
    assert seconds > 0.5


def test_an_unknown_kind_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, tmp_path / "work", "--only", "folder,floppy") == 2
    assert "floppy" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_store_that_gives_back_something_else_has_no_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    get = LocalStore.get

    def rotten(
        store: LocalStore, kind: Kind, name: bytes, offset: int = 0, length: int | None = None
    ) -> bytes:
        data = get(store, kind, name, offset, length)
        return data[:-1] + bytes([data[-1] ^ 1])

    monkeypatch.setattr(LocalStore, "get", rotten)
    assert run_main(monkeypatch, tmp_path, "--only", "folder") == 1
    assert "came back wrong" in capsys.readouterr().err


def test_medians_stand_beside_what_a_plain_client_reaches() -> None:
    from bench_stores import Work, asked_lines, screen_table

    samples = {
        "sftp": {"put": [100.0, 300.0, 200.0], "range": [384.0], "small": [0.5]}
        | {"bare put": [400.0], "bare range": [400.0], "bare small": [0.4]}
        | {"put cpu": [8.0], "range cpu": [4.5]},
        "coop": {
            "put": [340.0],
            "range": [460.0],
            "small": [1.0],
            "put cpu": [3],
            "range cpu": [3],
        },
    }
    work = Work({}, {}, 4, 1, samples=samples)
    sftp, coop = screen_table(work).splitlines()[1:]
    cells = re.split(r"\s\s+", sftp)
    assert cells[1:5] == ["200", "0.50 of 400, missed", "384", "0.96 of 400"]
    assert cells[5:] == ["0.5", "0.80 of 0.4", "8", "4.5"]
    assert re.split(r"\s\s+", coop) == ["coop, coopfs serve", "340", "460", "1", "3", "3"]
    assert [line.rpartition("; ")[2] for line in asked_lines(work)] == [
        "nginx was not measured beside it"
    ] * 2


def test_what_is_asked_is_told_as_a_number_and_beside_nginx() -> None:
    from bench_stores import LongLine, Work, asked_lines, rst_table

    cpu = {"small": [1.0, 1.0], "put cpu": [3.0, 3.0], "range cpu": [3.0, 3.0]}
    samples = {
        "coop": {"put": [340.0, 170.0], "range": [460.0, 460.0], **cpu},
        "nginx": {"put": [660.0, 330.0], "range": [660.0, 640.0], **cpu},
    }
    lines = asked_lines(Work({}, {}, 4, 1, samples=samples))
    assert lines == [
        "coop, coopfs serve: put 16 MiB: 255 MB/s, needed 350 where nginx makes 693: missed; "
        "0.52 of the 495 that nginx makes here, needed 0.51: reached",
        "coop, coopfs serve: read 1 MiB ranges: 460 MB/s, needed 450 where nginx makes 629: "
        "reached; 0.71 of the 650 that nginx makes here, needed 0.72: missed",
    ]
    assert f"- {lines[1]}\n" in rst_table(Work({}, {}, 4, 1, samples=samples), 2)
    assert asked_lines(Work({}, {}, 4, 1, LongLine(30.0), samples)) == []
