from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hosts import Host
from terminal import Terminal

from coopfs.cli import passphrase
from coopfs.cli.passphrase import Passphrases, ask_new
from coopfs.errors import ConfigError, UsageError
from coopfs.format.wrapping import decode_key_file

PROMPT = "Passphrase: "


@pytest.fixture(autouse=True)
def _nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passphrase, "has_terminal", lambda: False)


@pytest.fixture
def every_source(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "option").write_text("from option\n")
    (tmp_path / "file").write_text("from file")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "coopfs-passphrase").write_text("from systemd")
    return {
        "COOPFS_PASSPHRASE_FILE": str(tmp_path / "file"),
        "COOPFS_PASSPHRASE_COMMAND": f"{sys.executable} -c 'print(\"from command\")'",
        "COOPFS_PASSPHRASE": "from variable",
        "CREDENTIALS_DIRECTORY": str(tmp_path / "credentials"),
    }


def test_sources_are_tried_in_the_promised_order(
    tmp_path: Path, every_source: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Passphrases(tmp_path / "option", every_source)(PROMPT)]
    for variable in (None, *every_source):
        if variable:
            found.append(Passphrases(None, every_source)(PROMPT))
            del every_source[variable]
    monkeypatch.setattr(passphrase, "has_terminal", lambda: True)
    monkeypatch.setattr(passphrase, "_ask", lambda prompt: f"typed at {prompt}")
    found.append(Passphrases(None, every_source)(PROMPT))
    assert found == [
        "from option",
        "from file",
        "from command",
        "from variable",
        "from systemd",
        "typed at Passphrase: ",
    ]


def test_without_source_and_terminal_the_ways_are_listed() -> None:
    with pytest.raises(UsageError) as caught:
        Passphrases(None, {})(PROMPT)
    for way in ("--passphrase-file", "COOPFS_PASSPHRASE_COMMAND", "systemd credential"):
        assert way in str(caught.value)


def test_a_passphrase_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(passphrase, "has_terminal", lambda: True)
    monkeypatch.setattr(passphrase, "_ask", lambda prompt: prompts.append(prompt) or "x")
    passphrases = Passphrases(None, {})
    assert [passphrases("one"), passphrases("two")] == ["x", "x"]
    assert prompts == ["one"]


def test_systemd_credentials_of_other_services_are_not_ours(tmp_path: Path) -> None:
    assert Passphrases(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).from_sources() is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b" with spaces \n", " with spaces "),
        (b"\xc3\xa4", "ä"),
        (b"\xff\n", "\udcff"),
    ],
)
def test_a_file_holds_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert Passphrases(path, {})(PROMPT) == expected


@pytest.mark.parametrize("content", [b"", b"two\nlines\n", b"x" * 100_000, b"nul\0"])
def test_a_file_that_is_no_passphrase_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        Passphrases(path, {})(PROMPT)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("false", "false: failed with exit code 1"),
        ("true", "true: printed nothing"),
        ("/no/such/command", "cannot be run: No such file"),
        ("'unbalanced", "No closing quotation"),
        ("   ", "is empty"),
        ("printf 'a\\nb\\n'", "several lines"),
    ],
)
def test_a_command_that_gives_none_is_named(command: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Passphrases(None, {"COOPFS_PASSPHRASE_COMMAND": command})(PROMPT)


def test_a_command_is_not_given_to_a_shell(tmp_path: Path) -> None:
    environ = {"COOPFS_PASSPHRASE_COMMAND": f"echo $HOME ; touch {tmp_path}/made"}
    assert Passphrases(None, environ)(PROMPT) == f"$HOME ; touch {tmp_path}/made"
    assert not (tmp_path / "made").exists()


def test_new_keys_are_wrapped_with_what_a_source_gives(tmp_path: Path) -> None:
    assert Passphrases(None, {"COOPFS_PASSPHRASE": "x"}).for_new_archive() == "x"
    path = tmp_path / "file"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="--no-passphrase"):
        Passphrases(path, {}).for_new_archive()


def test_for_new_keys_without_anybody_to_ask_both_ways_are_named() -> None:
    with pytest.raises(UsageError, match=r"--passphrase-file.*--no-passphrase"):
        Passphrases(None, {}).for_new_archive()


def test_a_new_passphrase_must_be_typed_the_same_twice() -> None:
    answers = iter(["a", "b", "c", "c"])
    assert ask_new(lambda prompt: next(answers)) == "c"
    answers = iter("abcdef")
    with pytest.raises(UsageError, match="nothing was done"):
        ask_new(lambda prompt: next(answers))


def test_on_a_terminal_new_keys_are_wrapped_and_opened(tmp_path: Path) -> None:
    host = Host(tmp_path / "anna")
    run = Terminal(["init", tmp_path / "store", "--host", "anna"], host.environ)
    run.expect("New passphrase")
    run.type("first\n")
    run.expect("The same again: ")
    run.type("second\n")
    run.expect("The two were different")
    run.type("correct horse\n")
    run.expect("The same again: ")
    run.type("correct horse\n")
    run.expect("wrapped with the passphrase")
    assert run.finish() == 0
    assert b"horse" not in run.output  # not echoed
    assert b"\x1b[38;5;16;48;5;231m" in run.output  # a QR code that can be scanned
    key_file = host.dirs.archive_config("default") / "host.key"
    assert decode_key_file(key_file.read_bytes(), "host.key").scrypt is not None
    opened = Terminal(["snapshots"], host.environ)
    opened.expect("Passphrase of the archive 'default': ")
    opened.type("correct horse\n")
    opened.expect("no snapshots yet")
    assert opened.finish() == 0
    wrong = Terminal(["snapshots"], host.environ)
    wrong.expect("Passphrase of the archive 'default': ")
    wrong.type("wrong\n")
    wrong.expect("wrong passphrase")
    assert wrong.finish() == 12


def test_on_a_terminal_an_empty_passphrase_means_unwrapped_and_says_so(tmp_path: Path) -> None:
    host = Host(tmp_path / "anna")
    run = Terminal(["init", tmp_path / "store"], host.environ)
    run.expect("(empty: keep them unwrapped)")
    run.type("\n")
    run.expect("The same again: ")
    run.type("\n")
    run.expect("NOT wrapped: whoever reads that folder has them")
    assert run.finish() == 0
    host.ok("snapshots")


def test_leaving_the_question_changes_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path / "anna")
    for key, code in (("\x03", 130), ("\x04", 2)):  # Ctrl-C, Ctrl-D
        run = Terminal(["init", tmp_path / "store"], host.environ)
        run.expect("New passphrase")
        run.type(key)
        assert run.finish() == code
        assert not host.dirs.config.exists()
        assert not (tmp_path / "store").exists()


def test_the_words_of_a_key_are_typed_in_as_many_lines_as_one_likes(tmp_path: Path) -> None:
    anna, bob = Host(tmp_path / "anna"), Host(tmp_path / "bob")
    store = tmp_path / "store"
    anna.init(store)
    words = anna.ok("key", "export", "--json").lines()[0]["archive_key_words"].split()
    run = Terminal(["writer", "request", store, "--no-passphrase", "--host", "bob"], bob.environ)
    run.expect("The 24 words of the archive key")
    run.type("1 " + " ".join(words[:10]) + "\n" + " ".join(w[:4] for w in words[10:]) + "\n")
    run.expect("coopfs writer enrol ")
    assert run.finish() == 0
    code = bob.ok("--json", "writer", "request", store).lines()[0]["code"]
    shown = Terminal(["writer", "enrol", code], anna.environ)
    shown.expect("Are these the words on that host?")
    shown.type("n\n")
    assert shown.finish() == 2
    assert len(anna.ok("writer", "list", "--json").lines()) == 1
    shown = Terminal(["writer", "enrol", code], anna.environ)
    shown.expect("Are these the words on that host?")
    shown.type("y\n")
    assert shown.finish() == 0
    assert len(anna.ok("writer", "list", "--json").lines()) == 2


def test_a_slip_in_a_typed_kit_costs_its_line_and_the_admin_key_may_be_left_out(
    tmp_path: Path,
) -> None:
    anna, bob = Host(tmp_path / "anna"), Host(tmp_path / "bob")
    store = tmp_path / "store"
    anna.init(store)
    words = anna.ok("key", "export", "--json").lines()[0]["archive_key_words"].split()
    other = next(word for word in ("abandon", "zoo") if word != words[23])
    run = Terminal(["recover", store, "--no-passphrase", "--host", "bob"], bob.environ)
    run.expect("The 24 words of the archive key")
    run.type(" ".join(words[:12]) + "\n")
    run.type("13 " + words[12] + " 14 abracadabra\n")
    run.expect("word 14, 'abracadabra', is not one of BIP 39's")
    run.expect("again:")
    run.type(" ".join([*words[12:23], other]) + "\n")
    run.expect("checksum")
    run.type(" ".join(words) + "\n")
    run.expect("The 24 words of the admin key")
    run.type("\n")
    run.expect("Without the admin key this host can only read")
    assert run.finish() == 0
    bob.ok("snapshots")
