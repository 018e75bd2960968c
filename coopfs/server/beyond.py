"""What coopfs asks of a server beyond REST: status, proofs, the trash.

Queries on the archive's own path, ``?coopfs=NAME``, advertised by ``X-Coopfs`` in every
answer.  Bodies and answers: coopfs-format(5), "Beyond REST".
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import Final, cast

from coopfs.errors import ObjectCorrupt, StoreDenied, UsageError
from coopfs.format import encoding
from coopfs.ids import ID_LEN
from coopfs.server.enrolling import enrol
from coopfs.server.exchange import Exchange, Handler, Pause, Steps
from coopfs.server.protocol import JSON, OCTETS, Refused
from coopfs.server.scrub import Finding
from coopfs.server.settings import RETENTION_DAYS_MAX, change_partner
from coopfs.server.visitors import Role, Visitor

FINDINGS_MAX: Final = 1000  # in one answer; "damaged" says how many there are

log = logging.getLogger("coopfs.serve")


def find_handler(method: str, name: str, visitor: Visitor) -> Handler:
    """Return what answers the question called *name*.

    Raises:
        Refused: there is no such question.
    """
    handler = _QUESTIONS.get((method, name))
    if handler is None:
        raise Refused(
            HTTPStatus.NOT_IMPLEMENTED, f"{method} coopfs={name}: not known to this server"
        )
    return lambda exchange: handler(exchange, visitor)


def _status(exchange: Exchange, visitor: Visitor) -> Steps:
    depot, settings = visitor.desk.depot, visitor.desk.settings
    findings = cast(list[Finding], depot.findings())  # the depot's own list() hides the type
    jump = depot.clock.jump()
    status = {
        "partner": settings.name,
        "role": visitor.role.value,
        "time_ns": time.time_ns(),
        **dataclasses.asdict(depot.usage()),
        "uploads_make_way": visitor.desk.house.uploads_make_way,
        "retention_days": settings.retention_days,
        "keeps_until": settings.keeps_until or None,
        "receive_rate": settings.receive_rate,
        "send_rate": settings.send_rate,
        "clock_jump": None if jump is None else jump.describe(),
        "scrub": dataclasses.asdict(depot.scrub_state()),
        "damaged": len(findings),
        "findings": [dataclasses.asdict(finding) for finding in findings[:FINDINGS_MAX]],
    }
    text = json.dumps(status, separators=(",", ":"))
    yield from exchange.answer(HTTPStatus.OK, text.encode(), content_type=JSON)


def _prove(exchange: Exchange, visitor: Visitor) -> Steps:
    asked = yield from _asked(exchange, "the question")
    name, key = asked.get("name"), asked.get("key")
    if type(name) is not bytes or len(name) != ID_LEN or type(key) is not bytes:
        raise UsageError("the question: expected a name of 32 bytes and a key")
    proof = visitor.desk.depot.prove(name.hex(), key)
    yield from exchange.answer(HTTPStatus.OK, proof, content_type=OCTETS)


def _undelete(exchange: Exchange, visitor: Visitor) -> Steps:
    asked = yield from _asked(exchange, "what to undelete")
    names, since_ns = asked.get("names"), asked.get("since_ns")
    if names is None and since_ns is None:
        raise UsageError("what to undelete: expected names, or since_ns")
    if names is not None and (
        type(names) is not list
        or any(type(name) is not bytes or len(name) != ID_LEN for name in names)
    ):
        raise UsageError("what to undelete: names: expected a list of 32 bytes each")
    if since_ns is not None and type(since_ns) is not int:
        raise UsageError("what to undelete: since_ns: expected nanoseconds since 1970")
    chosen = None if names is None else {name.hex() for name in names}
    undeleted = visitor.desk.depot.undelete(chosen, since_ns=since_ns)
    log.warning(
        "%s: %d objects were taken back from the trash, %d bytes",
        *(visitor.desk.name, undeleted.objects, undeleted.restored),
    )
    answer = {
        "restored": undeleted.objects,
        "bytes": undeleted.restored,
        "there_already": undeleted.there_already,
    }
    yield from exchange.answer(HTTPStatus.OK, encoding.encode(answer), content_type=OCTETS)


def _enrol(exchange: Exchange, visitor: Visitor) -> Steps:
    yield from exchange.let_client_go_on()
    body = yield from exchange.receive_whole()
    root = visitor.desk.depot.folder.parent.parent
    is_owner = visitor.role is Role.ADMIN
    before = visitor.desk.settings.pins
    after = enrol(root, visitor.desk.name, body, is_owner=is_owner).pins
    for pins, what in ((after - before, "in"), (before - after, "out")):
        for pin in sorted(pins):
            log.warning(
                "%s: certificate %s was let %s, by the %s",
                *(visitor.desk.name, pin[:16], what, visitor.role.value),
            )
    # Before the answer: whoever is let in may come at once.
    visitor.desk.house.reload_now()
    yield from exchange.answer(HTTPStatus.OK)


def _retention(exchange: Exchange, visitor: Visitor) -> Steps:
    asked = yield from _asked(exchange, "the retention")
    days = asked.get("days")
    if type(days) is not int or not 1 <= days <= RETENTION_DAYS_MAX:
        raise UsageError(f"the retention: expected 1 to {RETENTION_DAYS_MAX} days")
    if visitor.role is not Role.ADMIN:
        # What is in the trash takes room, so a hacked writer must not keep it there.
        raise StoreDenied("the retention is raised by the archive's owner alone: the admin key")
    root = visitor.desk.depot.folder.parent.parent
    change_partner(
        root,
        visitor.desk.name,
        lambda old: dataclasses.replace(old, retention_days=max(old.retention_days, days)),
    )
    visitor.desk.house.reload_now()
    yield from exchange.answer(HTTPStatus.OK)


_QUESTIONS: Final[dict[tuple[str, str], Callable[[Exchange, Visitor], Steps]]] = {
    ("GET", "status"): _status,
    ("POST", "prove"): _prove,
    ("POST", "undelete"): _undelete,
    ("POST", "enrol"): _enrol,
    ("POST", "retention"): _retention,
}


def _asked(exchange: Exchange, what: str) -> Generator[Pause, None, dict[object, object]]:
    """Return the map that the request's body is (UsageError)."""
    yield from exchange.let_client_go_on()
    body = yield from exchange.receive_whole()
    try:
        asked = encoding.decode(body, what)
    except ObjectCorrupt as exc:
        raise UsageError(str(exc)) from exc
    if type(asked) is not dict:
        raise UsageError(f"{what}: expected a map")
    return asked
