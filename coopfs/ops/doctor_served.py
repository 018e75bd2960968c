"""What a doctor sees of the server on this machine: what it keeps for partners, and how."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from coopfs.ops.doctor_findings import Report, is_private
from coopfs.ops.held import Held, clock_doubt, look_at_held
from coopfs.ops.suspicion import NS
from coopfs.ops.wording import age_text, count, size_text
from coopfs.server.depot import PARTNERS, is_served
from coopfs.server.scrub import PASS_S
from coopfs.server.serve import IDENTITY_FILE
from coopfs.server.settings import PartnerSettings, partner_folder, read_partners

SCRUB_LATE_S: Final = 2.5 * PASS_S  # a pass begins every PASS_S; large stores take one for it
DISK_FREE_SHARE: Final = 0.05  # of what is kept: less is low
DISK_FREE_MIN: Final = 1 << 30  # bytes


def is_server(root: Path) -> bool:
    """Tell whether this machine keeps anything for partners, or may do so unseen by us."""
    try:
        return any((root / PARTNERS).iterdir())
    except PermissionError:
        return True
    except OSError:
        return False


def look_at_server(report: Report, root: Path) -> None:
    """Look at the server's folder, and at what lies there for each partner."""
    if not os.access(root / PARTNERS, os.R_OK | os.X_OK):
        report.note("serve", f"{root} is another user's: the server was not looked at")
        return
    partners, problems = read_partners(root)
    with report.guarded("serve"):
        if (root / IDENTITY_FILE).exists() and is_private(
            report, "serve", root / IDENTITY_FILE, is_secret=True
        ):
            report.ok("serve", f"{root}: the server's identity is only yours to read")
    with report.guarded("serve-clock"):
        jump = clock_doubt(root)
        if jump is None:
            report.ok("serve-clock", "the server believes its clock: trashes are emptied in time")
        else:
            report.problem(
                "serve-clock",
                f"{jump.describe()}: no trash is emptied",
                'set the clock right, or confirm it with "coopfs serve confirm-clock"',
            )
    for name, problem in problems.items():
        report.about(f"serve {name}").problem("serve", str(problem))
    for name, granted in partners.items():
        below = report.about(f"serve {name}")
        with below.guarded("serve"):
            if partner_folder(root, name).is_dir():
                _look_at_partner(below, root, granted)


def _look_at_partner(report: Report, root: Path, granted: PartnerSettings) -> None:
    name = granted.name
    if not granted.pins and not granted.writer_tokens:
        report.warn("serve", f"{name} has no certificate here, and cannot come in", "pair anew")
    if not is_served(root, name):
        report.warn(
            "serve",
            f"no server runs for {name}: it can neither back up nor read",
            '"coopfs serve", or systemctl start coopfs-serve',
        )
    held = look_at_held(root, granted)
    _look_at_room(report, held)
    _look_at_scrub(report, held)
    if granted.keeps_until:
        report.note(
            "notice", f"{name} was given notice: its data stays until {granted.keeps_until}"
        )


def _look_at_room(report: Report, held: Held) -> None:
    usage = held.usage
    of = f" of {size_text(usage.quota)}" if usage.quota else ""
    text = f"{held.name} keeps {size_text(usage.used)}{of} in {count(usage.objects, 'object')}"
    if usage.trash_used:
        text += f", {size_text(usage.trash_used)} in the trash"
    enough = max(DISK_FREE_MIN, DISK_FREE_SHARE * (usage.used + usage.trash_used))
    promised = max(usage.quota - usage.used, 0)
    if usage.disk_free < enough:
        report.warn(
            "serve-room", f"{text}; the disk has {size_text(usage.disk_free)} free", "make room"
        )
    elif usage.disk_free < promised:
        report.note(
            "serve-room",
            f"{text}; the disk has {size_text(usage.disk_free)} free, less than was promised",
        )
    elif usage.quota and not usage.left:
        report.note(
            "serve-room", f"{text}: its quota is used up", f"coopfs partner set {held.name}"
        )
    else:
        report.ok("serve-room", text)


def _look_at_scrub(report: Report, held: Held) -> None:
    if held.findings:
        first = held.findings[0]
        report.problem(
            "serve-scrub",
            f"the disk here has damaged {count(len(held.findings), 'object')} of {held.name}'s ("
            f"{first.kind}/{first.name[:16]}…)",
            f"look at the disk (smartctl); {held.name}'s next snapshot puts them again",
        )
    scrub = held.scrub
    if not held.usage.objects:
        return
    if not scrub.last_finished_ns:
        report.note("serve-scrub", f"what {held.name} keeps was not read through yet")
        return
    age_s = (time.time_ns() - scrub.last_finished_ns) / NS
    text = f"what {held.name} keeps was last read through {age_text(age_s)} ago"
    if age_s > SCRUB_LATE_S:
        report.warn("serve-scrub", text, "does the server run, and long enough?")
    elif not held.findings:
        report.ok("serve-scrub", text)
