"""The ``coopfs`` command: global options, lazily imported commands, errors, exit codes.

A command is a module ``coopfs/cli/cmd_NAME.py`` with a click command called
``command``; it gets the :class:`Context` by ``@click.pass_obj`` and returns None or
an exit code.  Nothing heavy is imported here: ``coopfs --help`` takes under 0.2 s.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import click

from coopfs import __version__
from coopfs.cli.buserror import explain_bus_errors
from coopfs.cli.context import Context
from coopfs.cli.fstab import command_line_of
from coopfs.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, CoopfsError

EXIT_BROKEN_PIPE: Final = 128 + signal.SIGPIPE  # what a shell reports for `… | head`

# Name -> what it is for, so that --help imports no command.  In the order of use.
COMMANDS: Final = {
    "init": "Make a new archive in a store.",
    "snapshot": "Take files, folders or a stream into the archive.",
    "snapshots": "List the snapshots.",
    "mount": "Show the archive as dated, read-only folders.",
    "umount": "Take a mount away.",
    "ls": "List a folder of a snapshot.",
    "cat": "Write files of a snapshot to standard output.",
    "restore": "Copy a snapshot, or a part of it, into a folder.",
    "tag": "Add tags to snapshots, or take them away.",
    "hold": "Protect snapshots from being let go.",
    "describe": "Change what is said about a snapshot.",
    "forget": "Let snapshots go, by rules or by name.",
    "prune": "Free what no snapshot needs any more.",
    "check": "Verify the archive, and name the files that damage hurts.",
    "audit": "Read random blocks: does the store still have the data?",
    "drill": "Restore random files, and say how long all of it would take.",
    "copy": "Copy the archive to a second store, or snapshots into another archive.",
    "store": "Name the archive's other stores, or move it to another one.",
    "repair": "Mend a lost or damaged index.",
    "stats": "Say how much is stored, and how much was saved.",
    "doctor": "Look at everything backups hang on: is all well, what is to be done?",
    "archive": "List the archives this machine knows, or remove one from it.",
    "key": "List the keys, change how they are kept, export the kit.",
    "writer": "Let another host write to the archive.",
    "recover": "Set up on this machine what a lost one had: from the recovery kit.",
    "pair": "Become partners with another machine: each keeps a store for the other.",
    "partner": "Show, change and end what partners hold for each other.",
    "serve": "Keep partners' stores on this machine.",
}


class GlobalOption(click.Option):
    """An option every command takes, before or after its name; shown by ``coopfs --help``."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the help line, for the top command only."""
        return super().get_help_record(ctx) if ctx.parent is None else None


def _global_options() -> list[GlobalOption]:
    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        # Only what was typed: a default of the command must not undo the group's option.
        if ctx.get_parameter_source(param.name or "") is click.core.ParameterSource.COMMANDLINE:
            _set_option(ctx.ensure_object(Context), param.name or "", value)

    shared: dict[str, Any] = {"expose_value": False, "callback": keep}
    return [
        GlobalOption(
            ["--archive", "archive_name"],
            metavar="NAME",
            help="The archive to work on (COOPFS_ARCHIVE; default: the only one).",
            **shared,
        ),
        GlobalOption(
            ["--store", "store_name"],
            metavar="STORE",
            help="Read from a copy of the archive in STORE (COOPFS_STORE; default: its own).",
            **shared,
        ),
        GlobalOption(
            ["--passphrase-file"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Read the passphrase from FILE (see coopfs(1) for other ways).",
            **shared,
        ),
        *(
            GlobalOption(
                [f"--limit-{way}", f"limit_{way}"],
                metavar="RATES",
                help=f'Bits a second, and when: "10M, full 20:00-07:00" ({variable}).',
                **shared,
            )
            for way, variable in (
                ("upload", "COOPFS_LIMIT_UPLOAD"),
                ("download", "COOPFS_LIMIT_DOWNLOAD"),
            )
        ),
        GlobalOption(["--json"], is_flag=True, help="Print JSON lines.", **shared),
        GlobalOption(
            ["-q", "--quiet"], is_flag=True, help="Print errors and warnings only.", **shared
        ),
        GlobalOption(
            ["-v", "--verbose", "verbosity"], count=True, help="Say more; twice: most.", **shared
        ),
    ]


def _set_option(context: Context, name: str, value: Any) -> None:
    setattr(context, name, value + context.verbosity if name == "verbosity" else value)


def add_global_options(command: click.Command) -> click.Command:
    """Let *command*, and what is below it, take the global options too; return it."""
    taken = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
    for option in _global_options():
        if not taken.intersection(option.opts):
            command.params.append(option)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            # click would cut the line off where the first of two ends.
            below.short_help = below.short_help or _first_sentence(below)
            add_global_options(below)
    elif command.epilog is None:
        command.epilog = "Also --archive, --json, --quiet and the like: see coopfs --help."
    return command


def _first_sentence(command: click.Command) -> str:
    return " ".join((command.help or "").split("\n\n", 1)[0].split())


class CoopfsGroup(click.Group):
    """The top command: knows its commands by name, imports the one that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            module_name = f"coopfs.cli.cmd_{cmd_name}"
            try:
                module = import_module(module_name)
            except ModuleNotFoundError as exc:
                if exc.name != module_name:
                    raise
                raise click.UsageError(f"{cmd_name}: not in this version of coopfs yet") from exc
            self.commands[cmd_name] = add_global_options(module.command)
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is answered with its neighbours."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = get_close_matches(name, COMMANDS, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"no such command: {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete names of commands without importing them."""
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=text)
            for name, text in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]


@click.group(
    cls=CoopfsGroup,
    params=list(_global_options()),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Manual pages: coopfs(1), and coopfs-COMMAND(1) for each command.",
)
@click.version_option(__version__, message="coopfs %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Back up to a partner's store, deduplicated and encrypted, and mount it."""
    ctx.ensure_object(Context)


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is reported here."""
    context = Context()
    try:
        try:
            # Not click's main(): it has exit codes and an idea of a broken pipe of its own.
            # mount(8) leaves the command out: `coopfs NAME MOUNTPOINT -o OPTIONS`.
            with cli.make_context("coopfs", command_line_of(args, COMMANDS), obj=context) as ctx:
                code = cli.invoke(ctx)
        except click.exceptions.Exit as exc:
            code = exc.exit_code
        sys.stdout.flush()
    except BaseException as exc:
        return _report(_innermost(exc), context)
    return code if isinstance(code, int) else EXIT_DONE


def _innermost(exc: BaseException) -> BaseException:
    """Return what a group of one exception (trio's nurseries make them) is about."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def _report(exc: BaseException, context: Context) -> int:
    """Tell the user about *exc* and return the exit code."""
    match exc:
        case SystemExit():
            return exc.code if isinstance(exc.code, int) else EXIT_FAILED
        case BrokenPipeError():
            _silence_stdout()  # whoever read our output has had enough
            return EXIT_BROKEN_PIPE
        case KeyboardInterrupt() | click.Abort():
            return _fail(context, "interrupted", EXIT_INTERRUPTED)
        case click.UsageError() if type(exc).__name__ == "NoArgsIsHelpError":
            exc.show()  # the help page is the message
            return EXIT_USAGE
        case click.UsageError():
            command = exc.ctx.command_path if exc.ctx else "coopfs"
            text = f'{exc.format_message().rstrip(".")}; see "{command} --help"'
            return _fail(context, text, EXIT_USAGE)
        case click.ClickException():
            return _fail(context, exc.format_message(), exc.exit_code)
        case CoopfsError():
            _trace(exc, context)
            return _fail(context, str(exc), exc.exit_code)
        case OSError() if exc.strerror:
            # Untranslated: standard output on a full disk, say.
            _trace(exc, context)
            where = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
            _silence_stdout()
            return _fail(context, f"{where}{exc.strerror}", EXIT_FAILED)
    _trace(exc, context)
    text = f"internal error, please report it: {type(exc).__name__}: {exc}"
    if context.verbosity < 2:
        text += " (with -vv it says where)"
    return _fail(context, text, EXIT_FAILED)


def _fail(context: Context, text: str, code: int) -> int:
    if context.json:
        import json

        text = json.dumps({"type": "error", "exit_code": code, "message": text})
    else:
        from coopfs.ops.wording import printable_lines

        text = f"coopfs: {printable_lines(text)}"
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody can be told
    return code


def _trace(exc: BaseException, context: Context) -> None:
    if context.verbosity >= 2:
        import traceback

        traceback.print_exception(exc)


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere, or Python complains about it on exit."""
    fd = os.open(os.devnull, os.O_WRONLY)
    os.dup2(fd, sys.stdout.fileno())
    os.close(fd)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Make systemd's and cron's way of saying Ctrl-C that: trio knows where to raise it."""
    signal.raise_signal(signal.SIGINT)


def _fill_standard_streams() -> None:
    """Let no file of ours get the number of a standard stream that is closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for good


def main() -> NoReturn:
    """Run the command line of this process and exit."""
    _fill_standard_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    explain_bus_errors()
    if "_COOPFS_COMPLETE" in os.environ:
        cli.main(prog_name="coopfs")
    if isinstance(sys.stdout, TextIOWrapper):
        # Names are bytes: what is not text in them goes out as it came in.
        is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
