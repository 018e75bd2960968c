from __future__ import annotations

from coopfs.cli.render import printable, table, width_of


def test_columns_line_up() -> None:
    rows = [("a", "1"), ("long name", "1,000")]
    assert table(("NAME", "SIZE"), rows, right="SIZE") == [
        "NAME        SIZE",
        "a              1",
        "long name  1,000",
    ]


def test_columns_line_up_under_wide_and_combined_letters() -> None:
    lines = table(("NAME", "X"), [("日本", "1"), ("a\u0308b", "2"), ("plain", "3")])
    assert [
        width_of(line[: line.index(digit)]) for line, digit in zip(lines[1:], "123", strict=True)
    ] == [7] * 3


def test_lines_do_not_end_in_spaces() -> None:
    assert table(("A", "TAGS"), [("x", "")])[1] == "x"


def test_no_rows_are_titles_only() -> None:
    assert table(("A", "B"), []) == ["A  B"]


def test_stored_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07\nb\udcff") == "a?]0;title??b?"
    assert "\x1b" not in table(("A",), [("\x1b[2J",)])[1]
