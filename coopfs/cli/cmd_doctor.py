"""``coopfs doctor``: is all well with the backups, and if not, what is to be done?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from coopfs.cli.context import Context
from coopfs.cli.serve_held import root_of, root_option

if TYPE_CHECKING:
    from coopfs.ops.doctor_findings import Finding, Report

LEVEL_WIDTH: Final = 8
COLOURS: Final = ("green", "cyan", "yellow", "red")  # by level


@click.command("doctor")
@root_option
@click.pass_obj
def command(ctx: Context, root: Path | None) -> int:
    """Look at everything that backups hang on, and say what is well and what to do.

    All archives of this machine are looked at, or the one named by --archive, and what
    is kept here for partners. Nothing is changed.

    Exit codes: 0 nothing needs doing; 1 something does (a warning or a problem); 10 there
    is nothing here to look at.
    """
    from coopfs.archive.settings import archive_names, choose_archive
    from coopfs.errors import EXIT_DONE, EXIT_FAILED
    from coopfs.ops.doctor import Patient, examine
    from coopfs.ops.doctor_findings import Level, Report
    from coopfs.ops.doctor_served import is_server
    from coopfs.store.retry import BROWSE_TIMEOUT_S, TIMEOUT_VARIABLE

    os.environ.setdefault(TIMEOUT_VARIABLE, str(BROWSE_TIMEOUT_S))  # somebody is looking
    chosen = root_of(ctx, root)
    if ctx.archive_name:
        names = [choose_archive(ctx.dirs, ctx.archive_name)]
    else:
        names = archive_names(ctx.dirs)
        if not names and not is_server(chosen):
            choose_archive(ctx.dirs, None)  # says what to do
    counts = dict.fromkeys(Level, 0)

    def tell(finding: Finding) -> None:
        counts[finding.level] += 1
        _show(ctx, finding)

    _look_at_fuse(Report(tell))
    examine(Patient(ctx.dirs, names, chosen, ctx.limits), ctx.passphrases, tell)
    to_do = counts[Level.WARNING] + counts[Level.PROBLEM]
    if ctx.json:
        ctx.emit_json({"type": "summary", **{level.name.lower(): counts[level] for level in Level}})
    ctx.echo(_summary(counts[Level.WARNING], counts[Level.PROBLEM]))
    return EXIT_FAILED if to_do else EXIT_DONE


def _look_at_fuse(report: Report) -> None:
    from coopfs.errors import MountError
    from coopfs.view.mountpoint import check_fuse
    from coopfs.view.options import parse_options

    try:
        check_fuse(parse_options([]))
    except MountError as exc:
        report.note("fuse", f"nothing can be mounted here ({exc}); coopfs restore works")
    else:
        report.ok("fuse", "archives can be mounted here")


def _summary(warnings: int, problems: int) -> str:
    from coopfs.cli.render import count

    if not warnings and not problems:
        return "\nAll is well: nothing needs doing."
    parts = [count(problems, "problem")] if problems else []
    parts += [count(warnings, "warning")] if warnings else []
    return f"\n{' and '.join(parts)}: see above for what to do."


def _show(ctx: Context, finding: Finding) -> None:
    from coopfs.cli.render import printable
    from coopfs.ops.doctor_findings import Level

    level = finding.level.name.lower()
    if ctx.json:
        ctx.emit_json(
            {
                "type": "finding",
                "level": level,
                "where": finding.where or None,
                "topic": finding.topic,
                "message": finding.text,
                "advice": finding.advice or None,
            }
        )
        return
    where = f"{finding.where}: " if finding.where else ""
    text = printable(f"{where}{finding.topic}: {finding.text}")
    if finding.advice:
        text += printable(f"; to do: {finding.advice}")
    if ctx.quiet:
        if finding.level >= Level.WARNING:
            ctx.warn(text)
        return
    shown = f"{level:<{LEVEL_WIDTH}}"
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        shown = click.style(shown, fg=COLOURS[finding.level])
    ctx.echo(f"{shown} {text}")
