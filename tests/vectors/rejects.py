"""What a reader must refuse, structure by structure, and odd things it must accept.

Every case is one deviation from bytes that parse.  Damage to sealed objects is not
here: there any change is one, see the tests of packs and bodies.
"""

from __future__ import annotations

from typing import Any

from vectors import node_cases
from vectors import samples as s
from vectors.node_cases import NEWER, Case
from vectors.node_cases import changed_map as _with

from coopfs.format import config, encoding, index, records, snapshot
from coopfs.format.sealing import TAG_LEN


def _map_of(body: bytes) -> dict[Any, Any]:
    value: dict[Any, Any] = encoding.decode(body, "sample")
    return value


def _directory_cases() -> dict[str, Case]:
    good = _map_of(s.data_pack().directory.body)
    blocks, ids, lens = good[0], good[1], good[2]
    chunk_max = 16 << 20
    changed: dict[str, dict[Any, Any]] = {
        "ids not a multiple of 32": _with(good, k1=ids[:-1]),
        "one id too few": _with(good, k1=ids[32:]),
        "one length too many": _with(good, k2=[*lens, 1]),
        "a chunk of nothing": _with(good, k2=[0, lens[0] + lens[1], *lens[2:]]),
        "a chunk length true": _with(good, k2=[True, *lens[1:]]),
        "a chunk length negative": _with(good, k2=[-1, lens[0] + lens[1] + 1, *lens[2:]]),
        "lengths do not add up": _with(good, k2=[lens[0] + 1, *lens[1:]]),
        "a chunk too long": _with(
            good,
            k0=[[100, chunk_max + 1, 1, 1], *blocks[1:]],
            k1=ids[32:],
            k2=[chunk_max + 1, *lens[2:]],
        ),
        "a block of no chunks": _with(good, k0=[[TAG_LEN, 0, 0, 0], *blocks]),
        "a block of too many chunks": _with(good, k0=[[*blocks[0][:3], 1 << 63], *blocks[1:]]),
        "a block shorter than its tag": _with(
            good, k0=[[TAG_LEN - 1, *blocks[0][1:]], *blocks[1:]]
        ),
        "a block too long": _with(good, k0=[[40 << 20, *blocks[0][1:]], *blocks[1:]]),
        "a block's field true": _with(good, k0=[[*blocks[0][:2], False, 2], *blocks[1:]]),
        "a block of five fields": _with(good, k0=[[*blocks[0], 0], *blocks[1:]]),
        "a codec beyond a byte": _with(good, k0=[[*blocks[0][:2], 256, 2], *blocks[1:]]),
        "one block too few": _with(good, k0=blocks[1:]),
        "blocks as bytes": _with(good, k0=b""),
        "writer id too short": _with(good, k3=bytes(15)),
        "digest too long": _with(good, k4=bytes(33)),
        "no digest": _with(good, 4),
    }
    cases = {
        f"directory: {name}": Case("directory", encoding.encode(value))
        for name, value in changed.items()
    }
    cases["directory: critical key"] = Case("directory", encoding.encode(_with(good, k64=0)), NEWER)
    return cases


def _body_cases() -> dict[str, Case]:
    """Index objects, snapshots, records and config, each with one wrong field."""
    listing = _map_of(index.encode_index(s.writer_index()))
    packed = listing[0][0]
    bodies: dict[str, tuple[dict[Any, Any], dict[str, dict[Any, Any]]]] = {
        "index": (
            listing,
            {
                "pack size too small": _with(listing, k0=[_with(packed, k1=100)]),
                "pack size too large": _with(listing, k0=[_with(packed, k1=(1 << 30) + 1)]),
                "short pack id": _with(listing, k0=[_with(packed, k0=bytes(31))]),
                "header of an index object": _with(
                    listing,
                    k0=[_with(packed, k2=packed[2][:9] + b"\3" + packed[2][10:])],
                ),
                "header too long": _with(listing, k0=[_with(packed, k2=packed[2] + b"\0")]),
                "short signature": _with(listing, k0=[_with(packed, k4=bytes(63))]),
                "short audit answer": _with(listing, k0=[_with(packed, k5=[bytes(31)])]),
                "too many audit answers": _with(listing, k0=[_with(packed, k5=[bytes(32)] * 1025)]),
                "directory cut": _with(listing, k0=[_with(packed, k3=packed[3][:-1])]),
                "short mark": _with(listing, k1=[bytes(31)]),
                "short replaced name": _with(listing, k2=[b""]),
                "no writer": _with(listing, 3),
                "packs as a map": _with(listing, k0={}),
            },
        ),
        "snapshot": (_map_of(snapshot.encode_snapshot(s.SNAPSHOT)), {}),
        "enrolment": (_map_of(records.encode_enrolment(s.ENROLMENT)), {}),
        "amendment": (_map_of(records.encode_amendment(s.AMENDMENT)), {}),
        "forget": (_map_of(records.encode_forget(s.FORGET)), {}),
        "distrust": (_map_of(records.encode_distrust(s.DISTRUST)), {}),
        "config-body": (_map_of(config.encode_config_body(s.CONFIG)), {}),
    }
    wrong: dict[str, dict[str, dict[str, Any]]] = {
        "snapshot": {
            "host with a slash": {"k0": "a/b"},
            "host ..": {"k0": ".."},
            "host with a line end": {"k0": "a\n"},
            "host as bytes": {"k0": b"a"},
            "empty series": {"k1": ""},
            "number true": {"k2": True},
            "number negative": {"k2": -1},
            "number beyond 63 bits": {"k2": 1 << 63},
            "short previous": {"k3": [bytes(31)]},
            "time beyond 63 bits": {"k4": 1 << 63},
            "zone of a day": {"k5": 86400},
            "clock without its flag": {"k7": {0: "", 1: 0, 2: 1}},
            "clock flag as number": {"k7": {0: "", 1: 0, 2: 1, 3: 1}},
            "root too long": {"k8": bytes(33)},
            "source as text": {"k9": ["/home"]},
            "exclude as bytes": {"k10": [b"*.o"]},
            "counts too few": {"k13": [0] * 9},
            "count negative": {"k13": [-1] + [0] * 9},
            "problem of one": {"k14": [[b"/"]]},
            "unknown state": {"k16": 2},
            "unknown origin": {"k17": {0: 2, 3: 0}},
            "short writer id": {"k19": bytes(15)},
        },
        "enrolment": {
            "another key's id": {"k0": bytes(16)},
            "short key": {"k1": bytes(31)},
            "host with a slash": {"k2": "a/b"},
            "time as float": {"k3": 1.5},
        },
        "amendment": {
            "tag as bytes": {"k1": [b"x"]},
            "tag too long": {"k1": ["x" * 1025]},
            "hold as number": {"k3": 1},
            "description as bytes": {"k4": b""},
            "short replaced id": {"k5": bytes(31)},
        },
        "forget": {
            "short id": {"k0": [bytes(31)]},
            "ids as bytes": {"k0": bytes(32)},
            "more chains than ids": {"k2": [[], [], []]},
            "short id in a chain": {"k2": [[bytes(31)]]},
            "chain as bytes": {"k2": [bytes(32)]},
        },
        "distrust": {
            "short writer id": {"k0": bytes(15)},
            "says nothing": {"k1": None},
            "said as a number": {"k1": 1},
            "short id": {"k2": [bytes(31)]},
            "time as float": {"k3": 1.5},
        },
        "config-body": {
            "short archive id": {"k1": bytes(15)},
            "minimum above average": {"k3": (16 << 10) + 1},
            "average too large": {"k4": 8 << 20, "k5": 16 << 20},
            "maximum below average": {"k5": (16 << 10) - 1},
            "maximum too large": {"k5": (16 << 20) + 1},
            "minimum too small": {"k3": 63},
            "blocks too small": {"k6": 1024},
            "blocks too large": {"k6": (16 << 20) + 1},
            "short admin key": {"k7": bytes(31)},
        },
    }
    cases: dict[str, Case] = {}
    for parser, (good, changed) in bodies.items():
        changed |= {name: _with(good, **fields) for name, fields in wrong.get(parser, {}).items()}
        changed["unknown key holds a float"] = _with(good, k63=1.5)
        for name, value in changed.items():
            cases[f"{parser}: {name}"] = Case(parser, encoding.encode(value))
        newer = encoding.encode(_with(good, k64=0))
        cases[f"{parser}: critical key"] = Case(parser, newer, NEWER)
        cases[f"{parser}: trailing byte"] = Case(parser, encoding.encode(good) + b"\0")
    good = bodies["config-body"][0]
    cases["config-body: unknown version"] = Case(
        "config-body", encoding.encode(_with(good, k0=2)), NEWER
    )
    cases["config-body: unknown chunker"] = Case(
        "config-body", encoding.encode(_with(good, k2="buzhash")), NEWER
    )
    return cases | _config_cases()


def _config_cases() -> dict[str, Case]:
    good = config.encode_config(s.KEYS, s.CONFIG)
    body = encoding.encode(_with(_map_of(good[41:]), k63=bytes(1 << 16)))
    return {
        "config: an unknown key too long": Case("config", good[:41] + body),
        "config: empty": Case("config", b""),
        "config: torn in its magic": Case("config", good[:7]),
        "config: torn in its checksum": Case("config", good[:30]),
        "config: torn in its body": Case("config", good[:-1]),
        "config: trailing byte": Case("config", good + b"\0"),
        "config: too long": Case("config", good + bytes(1 << 16)),
        "config: something else": Case("config", b'{"version": 1}', "NotAStore"),
        "config: unknown version": Case("config", good[:8] + b"\2" + good[9:], NEWER),
    }


def _header_cases() -> dict[str, Case]:
    good = s.data_pack().header.encode()
    return {
        "header: short": Case("pack-header", good[:63]),
        "header: text mode": Case("pack-header", good.replace(b"\r\n", b"\n") + b"\0"),
        "header: version": Case("pack-header", good[:8] + b"\2" + good[9:], NEWER),
        "header: unknown role": Case("pack-header", good[:9] + b"\x63" + good[10:], NEWER),
        "header: another role": Case("pack-header", good[:9] + b"\3" + good[10:]),
        "header: epoch": Case("pack-header", good[:10] + b"\0\1" + good[12:], NEWER),
        "header: wrapping": Case("pack-header", good[:12] + b"\1" + good[13:], NEWER),
        "header: reserved bits": Case("pack-header", good[:15] + b"\x80" + good[16:], NEWER),
    }


REJECTED: dict[str, Case] = {
    **node_cases.REJECTED,
    **_directory_cases(),
    **_body_cases(),
    **_header_cases(),
}
ACCEPTED = node_cases.ACCEPTED


def cases() -> list[dict[str, str]]:
    """Return the rejected cases as the JSON file holds them."""
    return [
        {"name": name, "parser": case.parser, "error": case.error, "hex": case.data.hex()}
        for name, case in REJECTED.items()
        if len(case.data) <= 4096  # the few long ones are made by this module alone
    ]
