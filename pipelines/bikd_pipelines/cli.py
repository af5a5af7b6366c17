"""The `bikd` command. Each command is a thin face: parse, call, show.

Answers go to standard output; progress and notes to standard error. Exit 0: done; 1: something
failed or is incomplete; 2: the person's mistake, in one line.
"""

import inspect
import logging
import re
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from bikd_pipelines.commands import answers, files, run, search, start, take_home
from bikd_pipelines.streams import abandon, prepare, why_unwritten
from bikd_ray.errors import BikdError, UserError


class _PlainFlags:
    """Help in which a switch shows no type: it takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
            if param.name == "help":
                param.help = "show this text and exit"
        return params


class _Command(_PlainFlags, TyperCommand):
    pass


class _Group(_PlainFlags, TyperGroup):
    pass


app = typer.Typer(
    name="bikd",
    cls=_Group,
    help="Which of your pretrained models can improve which, and by how much?\n\n"
    "[dim]To begin: bikd demo. For your own models: bikd check SPEC, then bikd sweep SPEC.[/dim]",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

UsageError: Any = typer.BadParameter.__base__  # typer names only what derives from it


def main() -> None:
    """Entry point: runs a command and turns errors into one line and an exit code."""
    prepare()
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    logging.basicConfig(format="bikd: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        try:
            code = app(arguments, prog_name="bikd", standalone_mode=False) or 0
        finally:
            sys.stdout.flush()
        sys.exit(code)
    except UsageError as error:
        where = error.ctx.command_path if error.ctx else "bikd"
        print(f"bikd: {error.format_message().rstrip('.')}; see {where} --help", file=sys.stderr)
        sys.exit(2)
    except BikdError as error:
        if debug:
            raise
        print("\n".join(f"bikd: {line}" for line in str(error).splitlines()), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print("bikd: interrupted; what was finished is in the store", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        abandon(sys.stdout)
        sys.exit(1)
    except OSError as error:
        why = why_unwritten(error)
        if debug or why is None:
            raise
        print(f"bikd: cannot write the answer: {why}", file=sys.stderr)
        abandon(sys.stdout)
        sys.exit(1)


def _version(value: bool) -> None:
    if value:
        from bikd_ray import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URI", help="without a command: its bikd summary"),
    ] = None,
) -> None:
    if context.invoked_subcommand is not None:
        if store is not None:
            raise UserError(f"--store goes after the command: {context.invoked_subcommand} --store")
    elif store is not None:
        answers.summary(store)
    else:
        print(context.get_help())


PANELS = {
    "Start": (start.demo, start.check, start.plan, search.predict),
    "Run": (run.sweep, run.submit, run.baseline, run.evaluate, start.status),
    "Answers": (
        answers.summary,
        answers.partners,
        answers.pairs,
        answers.teachers,
        answers.groups,
        answers.flips,
        answers.classes,
        answers.curves,
        answers.paper,
        search.replay,
        take_home.dashboard,
    ),
    "Take home": (search.best, search.soup, take_home.export, take_home.report),
    "Store": (answers.sql, take_home.schema),
}
"""The parts of `bikd --help`, and their commands in the order in which it lists them."""

_BEGINS = re.compile(r"[^:]{1,20}: |\[dim\]")
"""How a line of a docstring begins that stands by itself: `net Δ: …`, an example."""


def flowing(text: str) -> str:
    """A docstring whose sentences are lines of their own, for a terminal to wrap at its width."""
    lines: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        if lines and lines[-1] and line and not _BEGINS.match(line):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


for panel, commands in PANELS.items():
    for command in commands:
        text = flowing(command.__doc__ or "")
        app.command(cls=_Command, rich_help_panel=panel, help=text)(command)

store = typer.Typer(cls=_Group, help="Merge a store's small files, or find what is wrong in it.")
store.command(cls=_Command)(files.compact)
store.command("check", cls=_Command)(files.check_files)
app.add_typer(store, name="store", no_args_is_help=True, rich_help_panel="Store")


if __name__ == "__main__":  # as `python -m bikd_pipelines` does
    main()
