"""Snapshots: facts come back; what no reader accepts is never written."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from format_strategies import snapshots
from hypothesis import given
from vectors import samples as s

from coopfs.errors import ObjectCorrupt, UsageError
from coopfs.format import encoding
from coopfs.format.snapshot import (
    PROBLEMS_MAX,
    Counts,
    Problem,
    SnapshotFacts,
    check_label,
    decode_snapshot,
    encode_snapshot,
)


@given(snapshots)
def test_what_is_known_of_a_snapshot_comes_back(facts: SnapshotFacts) -> None:
    assert decode_snapshot(encode_snapshot(facts), "snapshot") == facts


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "a/b"},
        {"series": ""},
        {"number": -1},
        {"zone_offset_s": 86400},
        {"problems": (Problem(b"/", "x"),) * (PROBLEMS_MAX + 1)},
        {"description": "x" * 65537},
        {"counts": Counts(files=-1)},
        {"writer_id": b""},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_no_reader_accepts_is_not_written(changes: dict[str, Any]) -> None:
    facts = dataclasses.replace(s.SNAPSHOT, **changes)

    with pytest.raises(ObjectCorrupt, match="new snapshot"):
        encode_snapshot(facts)


def test_arguments_that_are_no_utf8_do_not_stop_a_snapshot() -> None:
    raw = "caf\udce9"  # how Python hands over the byte E9
    facts = dataclasses.replace(
        s.SNAPSHOT, excludes=(raw,), tags=(raw,), description=raw, problems=(Problem(b"/", raw),)
    )

    stored = decode_snapshot(encode_snapshot(facts), "snapshot")

    assert stored.excludes == stored.tags == (stored.description,) == ("caf\\udce9",)
    assert stored.problems[0].reason == "caf\\udce9"


def test_counts_of_a_newer_version_may_be_longer() -> None:
    fields = encoding.decode(encode_snapshot(s.SNAPSHOT), "snapshot")
    fields[13].append(99)

    assert decode_snapshot(encoding.encode(fields), "snapshot") == s.SNAPSHOT


@pytest.mark.parametrize("label", ["a", "wren.example", "-", "A-9", "x" * 128, "..."])
def test_labels_that_are_allowed(label: str) -> None:
    assert check_label(label, "host") == label


@pytest.mark.parametrize("label", ["", ".", "..", "a/b", "a b", "a_b", "ä", "a\n", "x" * 129, "a~"])
def test_labels_that_are_not(label: str) -> None:
    with pytest.raises(UsageError, match="host"):
        check_label(label, "host")
