"""Records about writers and snapshots come back as they were."""

from __future__ import annotations

import pytest
from format_strategies import ids, labels, times
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import ObjectCorrupt
from coopfs.format import records
from coopfs.format.keys import writer_id_of
from coopfs.ids import SnapshotId, WriterId

id_lists = st.lists(ids.map(SnapshotId), max_size=4).map(tuple)
tags = st.lists(st.text(max_size=20), max_size=3).map(tuple)
amendments = st.builds(
    records.Amendment,
    snapshot_ids=id_lists,
    add_tags=tags,
    remove_tags=tags,
    is_held=st.none() | st.booleans(),
    description=st.none() | st.text(max_size=50),
    replaces=st.none() | ids.map(SnapshotId),
    writer_id=st.binary(min_size=16, max_size=16).map(WriterId),
    time_ns=times,
)


@given(amendments)
def test_an_amendment_comes_back(record: records.Amendment) -> None:
    assert records.decode_amendment(records.encode_amendment(record), "record") == record


@given(id_lists, times, st.data())
def test_a_forget_record_comes_back(
    gone: tuple[SnapshotId, ...], time_ns: int, data: st.DataObject
) -> None:
    previous = data.draw(st.lists(id_lists, max_size=len(gone)).map(tuple))
    record = records.ForgetRecord(gone, time_ns, previous)

    assert records.decode_forget(records.encode_forget(record), "record") == record


@given(st.binary(min_size=16, max_size=16).map(WriterId), st.booleans(), id_lists, times)
def test_a_distrust_record_comes_back(
    writer_id: WriterId, is_distrusted: bool, there: tuple[SnapshotId, ...], time_ns: int
) -> None:
    record = records.Distrust(writer_id, is_distrusted, there, time_ns)

    assert records.decode_distrust(records.encode_distrust(record), "record") == record


@given(st.binary(min_size=32, max_size=32), labels, times)
def test_an_enrolment_comes_back(public_key: bytes, host: str, time_ns: int) -> None:
    record = records.Enrolment(writer_id_of(public_key), public_key, host, time_ns)

    assert records.decode_enrolment(records.encode_enrolment(record), "record") == record


def test_an_enrolment_under_another_keys_id_is_not_written() -> None:
    record = records.Enrolment(s.ADMIN.writer_id, s.WRITER.public_key, "host", 0)

    with pytest.raises(ObjectCorrupt, match="not its key's"):
        records.encode_enrolment(record)


@pytest.mark.parametrize("host", ["", "..", "a/b", "a\n"])
def test_an_enrolment_of_a_host_that_cannot_be_a_folder_is_not_written(host: str) -> None:
    record = records.Enrolment(s.WRITER.writer_id, s.WRITER.public_key, host, 0)

    with pytest.raises(ObjectCorrupt, match="not allowed"):
        records.encode_enrolment(record)
