"""What a partner's server says is checked; what is remembered of it may be lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.dirs import Dirs
from coopfs.store.coopstatus import (
    Contact,
    PartnerStatus,
    load_contact,
    note_audit,
    save_contact,
)

SAID = {
    "objects": 3,
    "used": 1000,
    "quota": 0,
    "left": 5,
    "trash_used": 7,
    "retention_days": 30,
    "damaged": 1,
    "receive_rate": "10M",
    "send_rate": "",
    "keeps_until": "2027-01-31",
    "clock_jump": None,
    "findings": [{"kind": "data", "name": "ab" * 32, "size": 1}],
}


def test_what_is_said_is_taken_in() -> None:
    assert PartnerStatus.parse(SAID) == PartnerStatus(
        objects=3,
        used=1000,
        quota=0,
        left=5,
        trash_used=7,
        retention_days=30,
        damaged=1,
        receive_rate="10M",
        keeps_until="2027-01-31",
        findings=("data/" + "ab" * 32,),
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("used", -1),
        ("used", 1 << 70),
        ("used", "1000"),
        ("used", True),
        ("quota", 1.5),
        ("keeps_until", "soon"),
        ("keeps_until", 20270131),
        ("clock_jump", "\x1b[2J"),
        ("receive_rate", ["10M"]),
    ],
)
def test_what_makes_no_sense_counts_as_not_said(key: str, value: object) -> None:
    assert getattr(PartnerStatus.parse({**SAID, key: value}), key) is None


def test_no_finding_steers_a_terminal() -> None:
    findings = [{"kind": "\x1b[31m", "name": "x"}, "data", None, {"kind": "data", "name": "y"}]
    assert PartnerStatus.parse({"findings": findings}).findings == ("data/y",)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(SAID)), json_values))
def test_nothing_that_is_said_does_harm(said: dict[str, Any]) -> None:
    PartnerStatus.parse(said)


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(tmp_path / "config", tmp_path / "state", tmp_path / "cache")


def test_a_contact_is_remembered(dirs: Dirs) -> None:
    contact = Contact(1, -250, 2, 3, 4, "2027-01-31")
    save_contact(dirs, "anna", contact)
    assert load_contact(dirs, "anna") == contact
    note_audit(dirs, "anna", 99, "299 of 299 samples")
    kept = load_contact(dirs, "anna")
    assert (kept.time_ns, kept.audited_ns, kept.audit) == (1, 99, "299 of 299 samples")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"time_ns": "x", "used": true}', "\xff"])
def test_a_lost_or_damaged_memory_is_none(dirs: Dirs, text: str) -> None:
    assert load_contact(dirs, "anna") == Contact()
    save_contact(dirs, "anna", Contact())
    (dirs.state / "partners" / "anna.json").write_text(text, encoding="latin-1")
    assert load_contact(dirs, "anna") == Contact()
