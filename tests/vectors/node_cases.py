"""What a reader of tree and span nodes must refuse, and odd things it must accept.

Every case is one deviation from bytes that parse.  Damage to sealed objects is not
here: there any change is one, see the tests of packs and bodies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vectors import samples as s

from coopfs.format import encoding

CORRUPT = "ObjectCorrupt"
NEWER = "FormatUnsupported"


@dataclass(frozen=True)
class Case:
    """Bytes for one parser (a name in tests/test_format_vectors.py)."""

    parser: str
    data: bytes
    error: str = CORRUPT


def changed_map(value: dict[Any, Any], *without: int, **changes: Any) -> dict[Any, Any]:
    """Return *value* with k5=… set under key 5, and without some keys; ascending."""
    changed = {key: item for key, item in value.items() if key not in without}
    changed |= {int(key[1:]): item for key, item in changes.items()}
    return dict(sorted(changed.items()))


FILE = {
    0: b"name", 1: 0, 2: 0o644, 3: 0, 4: 0, 5: b"u", 6: b"g", 7: 5, 8: 0, 16: b"hello",
}  # fmt: skip
ONE_CHUNK = changed_map(FILE, 16, k17=[5, s.digest_of("chunk")])
FOLDER = {0: b"name", 1: 1, 2: 0o755, 3: 0, 4: 0, 8: 0, 19: s.digest_of("tree"), 20: [1, 2, 3]}
SYMLINK = {0: b"name", 1: 2, 2: 0o777, 3: 0, 4: 0, 8: 0, 11: b"target"}
FIFO = {0: b"name", 1: 3, 2: 0o644, 3: 0, 4: 0, 8: 0}


def _node(*entries: Any) -> bytes:
    return encoding.encode({0: 0, 1: list(entries)})


def _encoding_cases() -> dict[str, Case]:
    """Spellings of a tree node that are not canonical."""
    good = _node(FILE)
    assert good.startswith(b"\x82\x00\x00\x01\x91\x8a\x00\xc4\x04name\x01\x00\x02\xcd\x01\xa4")
    spellings = {
        "empty": b"",
        "truncated": good[:-1],
        "trailing byte": good + b"\0",
        "trailing value": good + good,
        "key as a byte": good.replace(b"\x82\x00\x00", b"\x82\xcc\x00\x00", 1),
        "key as eight bytes": good.replace(b"\x82\x00", b"\x82\xcf" + bytes(8), 1),
        "positive number as signed": good.replace(b"\xcd\x01\xa4", b"\xd1\x01\xa4"),
        "number too long": good.replace(b"\xcd\x01\xa4", b"\xce\x00\x00\x01\xa4"),
        "map header too long": good.replace(b"\x82", b"\xde\x00\x02", 1),
        "list header too long": good.replace(b"\x91", b"\xdc\x00\x01", 1),
        "bytes header too long": good.replace(b"\xc4\x04name", b"\xc5\x00\x04name"),
        "name as text": good.replace(b"\xc4\x04name", b"\xa4name"),
        "keys unsorted": b"\x82\x01\x90\x00\x00",
        "key twice": b"\x83\x00\x00\x00\x00\x01\x90",
        "negative key": b"\x83\xff\x00\x00\x00\x01\x90",
        "text key": b"\x83\x00\x00\x01\x90\xa1k\x00",
        "list as key": b"\x83\x00\x00\x01\x90\x90\x00",
        "not a map": b"\x90",
        "level is false": b"\x82\x00\xc2\x01\x90",
        "level is a float": b"\x82\x00\xcb" + bytes(8) + b"\x01\x90",
        "reserved byte of msgpack": b"\xc1",
        "list longer than the data": b"\x82\x00\x00\x01\xdd\xff\xff\xff\xff",
        "bytes longer than the data": b"\x82\x00\x00\x01\xc6\xff\xff\xff\xff",
        "map longer than the data": b"\xdf\xff\xff\xff\xff",
        "nested without end": b"\x91" * 100_000,
        "lists that claim room": b"\xdd\x00\x10\x00\x00" * 400,
        "unknown key holds a float": b"\x83\x00\x00\x01\x90\x20\xcb" + bytes(8),
        "unknown key holds a short float": b"\x83\x00\x00\x01\x90\x20\xca" + bytes(4),
        "unknown key holds an extension": b"\x83\x00\x00\x01\x90\x20\xd4\x05\x00",
        "unknown key holds a timestamp": b"\x83\x00\x00\x01\x90\x20\xd6\xff" + bytes(4),
        "unknown key holds unsorted keys": b"\x83\x00\x00\x01\x90\x20\x82\x01\x00\x00\x00",
        "unknown key holds text that is no UTF-8": b"\x83\x00\x00\x01\x90\x20\xa1\xff",
        "unknown key is nested too deeply": b"\x83\x00\x00\x01\x90\x20" + b"\x91" * 40 + b"\xc0",
        "text key after a critical one": b"\x84\x00\x00\x01\x90\x40\x00\xa1k\x00",
    }
    return {name: Case("tree-node", data) for name, data in spellings.items()} | {
        "critical key of a node": Case("tree-node", b"\x83\x00\x00\x01\x90\x40\xc0", NEWER),
    }


def _entry_cases() -> dict[str, Case]:
    """One entry of a folder that must not pass."""
    long_name = bytes(b"n" * 1025)
    chunk = s.digest_of("chunk")
    entries: dict[str, Any] = {
        "not a map": [1],
        **{f"without field {key}": changed_map(FILE, key) for key in (0, 1, 2, 3, 4, 8, 16)},
        **{
            f"name {name!r}": changed_map(FILE, k0=name)
            for name in (b"", b".", b"..", b"/", b"a/b", b"a\0b", "text", 5)
        },
        "name too long": changed_map(FILE, k0=long_name),
        "unknown kind": changed_map(FILE, k1=7),
        "kind is false": changed_map(FILE, k1=False),
        "mode with a file type": changed_map(FILE, k2=0o100644),
        "mode is true": changed_map(FILE, k2=True),
        "uid negative": changed_map(FILE, k3=-1),
        "uid too large": changed_map(FILE, k3=1 << 32),
        "gid too large": changed_map(FILE, k4=1 << 32),
        "owner as text": changed_map(FILE, k5="u"),
        "owner with NUL": changed_map(FILE, k5=b"a\0b"),
        "owner too long": changed_map(FILE, k5=bytes(b"u" * 257)),
        "group with NUL": changed_map(FIFO, k6=b"a\0b"),
        "time too large": changed_map(FILE, k8=1 << 63),
        "time too small": changed_map(FILE, k8=-(1 << 63)),
        "size too large": changed_map(ONE_CHUNK, k7=1 << 63, k17=[1 << 63, chunk]),
        "size negative": changed_map(ONE_CHUNK, k7=-1, k17=[-1, chunk]),
        "inline shorter than its size": changed_map(FILE, k16=b"hell"),
        "inline longer than its size": changed_map(FILE, k16=b"hello!"),
        "inline as text": changed_map(FILE, k16="hello"),
        "two contents": changed_map(FILE, k17=[5, chunk]),
        "spans do not add up": changed_map(ONE_CHUNK, k17=[4, chunk]),
        "span of true bytes": changed_map(ONE_CHUNK, k7=1, k17=[True, chunk]),
        "span without id field": changed_map(ONE_CHUNK, k17=[5]),
        "span of nothing": changed_map(ONE_CHUNK, k17=[5, chunk, 0, chunk]),
        "span negative": changed_map(ONE_CHUNK, k17=[6, chunk, -1, chunk]),
        "span id too short": changed_map(ONE_CHUNK, k17=[5, chunk[1:]]),
        "span id as text": changed_map(ONE_CHUNK, k17=[5, "x" * 32]),
        "span id false": changed_map(ONE_CHUNK, k17=[5, False]),
        "spans as a map": changed_map(ONE_CHUNK, k17={}),
        "span root too short": changed_map(FILE, 16, k18=chunk[1:]),
        "tree in a file": changed_map(FILE, 16, k19=chunk),
        "content in a folder": changed_map(FOLDER, k16=b""),
        "folder without a tree": changed_map(FOLDER, 19),
        "totals too few": changed_map(FOLDER, k20=[1, 2]),
        "totals negative": changed_map(FOLDER, k20=[1, 2, -3]),
        "totals true": changed_map(FOLDER, k20=[1, 2, True]),
        "totals in a file": changed_map(FILE, k20=[1, 2, 3]),
        "symlink without target": changed_map(SYMLINK, 11),
        "symlink with an empty target": changed_map(SYMLINK, k11=b""),
        "symlink with NUL": changed_map(SYMLINK, k11=b"a\0b"),
        "symlink too long": changed_map(SYMLINK, k11=bytes(b"t" * 65537)),
        "symlink with content": changed_map(SYMLINK, k16=b""),
        "target in a FIFO": changed_map(FIFO, k11=b"x"),
        "device number in a FIFO": changed_map(FIFO, k10=5),
        "device number negative": changed_map(FIFO, k1=5, k10=-5),
        "hard link id too short": changed_map(FILE, k13=bytes(15), k14=2),
        "link count zero": changed_map(FILE, k13=bytes(16), k14=0),
        "hard link to a folder": changed_map(FOLDER, k13=bytes(16), k14=2),
        "more data than size": changed_map(FILE, k15=6),
        "data length in a folder": changed_map(FOLDER, k15=0),
        "birth time as nil": changed_map(FILE, k9=None),
        **{
            f"xattrs {name}": changed_map(FILE, k12=pairs)
            for name, pairs in {
                "as a map": {1: b""},
                "unsorted": [[b"b", b""], [b"a", b""]],
                "twice": [[b"a", b""], [b"a", b""]],
                "nameless": [[b"", b""]],
                "with NUL": [[b"a\0", b""]],
                "named as text": [["a", b""]],
                "of three": [[b"a", b"", b""]],
                "with a long name": [[bytes(b"n" * 256), b""]],
            }.items()
        },
        "critical key beside a bad name": changed_map(FILE, k0=b"..", k64=0),
        "critical key beside a bad mode": changed_map(FILE, k2=-1, k64=0),
    }
    cases = {f"entry: {name}": Case("tree-node", _node(entry)) for name, entry in entries.items()}
    key_false = {False: b"name", True: 0} | {key: FILE[key] for key in FILE if key > 1}
    key_float = {0.0: b"name"} | {key: FILE[key] for key in FILE if key > 0}
    return cases | {
        "entry: keys false and true": Case("tree-node", _node(key_false)),
        "entry: key 0.0": Case("tree-node", _node(key_float)),
        "names equal": Case("tree-node", _node(FILE, FILE)),
        "names descending": Case("tree-node", _node(FILE, changed_map(FILE, k0=b"a"))),
        "level too high": Case("tree-node", encoding.encode({0: 13, 1: [[b"a", bytes(32), 1]]})),
    }


def _node_cases() -> dict[str, Case]:
    """Inner nodes and span nodes."""
    node_id = s.digest_of("node")

    def inner(*children: Any) -> Case:
        return Case("tree-node", encoding.encode({0: 1, 1: list(children)}))

    def spans(level: int, items: Any) -> Case:
        return Case("span-node", encoding.encode({0: level, 1: items}))

    return {
        "inner: no children": inner(),
        "inner: an entry": inner(FILE),
        "inner: no entries below": inner([b"a", node_id, 0]),
        "inner: count true": inner([b"a", node_id, True]),
        "inner: bad name": inner([b"..", node_id, 1]),
        "inner: short id": inner([b"a", node_id[1:], 1]),
        "inner: a fourth field": inner([b"a", node_id, 1, 1]),
        "inner: names equal": inner([b"a", node_id, 1], [b"a", node_id, 1]),
        "span node: empty": spans(0, []),
        "span node: odd": spans(0, [1]),
        "span node: a hole as child": spans(1, [1, None]),
        "span node: not a list": spans(0, b""),
        "span node: without items": Case("span-node", encoding.encode({0: 0})),
        "span node: too many": spans(0, [1, None] * 32769),
        "span node: critical key": Case(
            "span-node", encoding.encode({0: 0, 1: [1, None], 64: 0}), NEWER
        ),
    }


REJECTED: dict[str, Case] = {**_encoding_cases(), **_entry_cases(), **_node_cases()}
ACCEPTED: dict[str, Case] = {
    "tree-node-unknown-keys": Case(
        "tree-node",
        encoding.encode({0: 0, 1: [changed_map(FILE, k63={0: [None, True, -1, "é"]})], 9: 1}),
    ),
    "tree-node-critical-key": Case(
        "tree-node",
        _node(changed_map(FILE, 16, k0=b"a recipe", k1=9, k64=[1], k65=b""), ONE_CHUNK),
    ),
}
