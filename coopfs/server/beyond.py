"""What coopfs asks of a server beyond REST: status, proofs, the trash.

Queries on the archive's own path, ``?coopfs=NAME``, advertised by ``X-Coopfs`` in every
answer.  Bodies and answers: coopfs-format(5), "Beyond REST".
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from coopfs.server.enrolling import enrol
from coopfs.server.exchange import Exchange, Handler, Steps
from coopfs.server.protocol import JSON, Refused
from coopfs.server.visitors import Role, Visitor

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
    jump = depot.clock.jump()
    status = {
        "partner": settings.name,
        "role": visitor.role.value,
        "time_ns": time.time_ns(),
        "usage": dataclasses.asdict(depot.usage()),
        "retention_days": settings.retention_days,
        "receive_rate": settings.receive_rate,
        "send_rate": settings.send_rate,
        "clock_jump": None if jump is None else jump.describe(),
    }
    yield from exchange.answer(
        HTTPStatus.OK, json.dumps(status, indent=1).encode(), content_type=JSON
    )


def _enrol(exchange: Exchange, visitor: Visitor) -> Steps:
    yield from exchange.let_client_go_on()
    body = yield from exchange.receive_whole()
    root = visitor.desk.depot.folder.parent.parent
    is_owner = visitor.role is Role.ADMIN
    enrol(root, visitor.desk.name, body, is_owner=is_owner)
    log.warning(
        "%s: another certificate was let in, by the %s", visitor.desk.name, visitor.role.value
    )
    yield from exchange.answer(HTTPStatus.OK)


_QUESTIONS: Final[dict[tuple[str, str], Callable[[Exchange, Visitor], Steps]]] = {
    ("GET", "status"): _status,
    ("POST", "enrol"): _enrol,
}
