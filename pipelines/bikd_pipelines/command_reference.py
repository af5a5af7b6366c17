"""docs/commands.md: every command with its options, from the functions behind them.

python -m bikd_pipelines.command_reference > docs/commands.md
"""

import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo

from bikd_pipelines.cli import PANELS, app

HEAD = """\
# Every command

<!-- Made by `python -m bikd_pipelines.command_reference`: change the commands instead. -->

Answers go to standard output; progress and notes to standard error. Exit code 0: done; 1: something
failed or is incomplete; 2: a mistake in what was asked, in one line. `bikd --store STORE` without a
command is `bikd summary`. `--help` after a command says what this page says of it.
"""


def command_reference() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for panel, functions in PANELS.items():
        parts.append(f"## {panel}\n")
        for function in functions:
            parts += _described(function.__name__, function)
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands if group.typer_instance else ():
            assert command.callback is not None
            name = command.name or command.callback.__name__
            parts += _described(f"{group.name} {name}", command.callback)
    return "\n".join(parts)


def _described(name: str, function: Callable[..., Any]) -> Iterator[str]:
    yield f"### bikd {name}\n"
    hints = get_type_hints(function, include_extras=True)
    told = [
        _option(parameter, hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
    ]
    text, _, example = inspect.cleandoc(function.__doc__ or "").partition("[dim]Example: ")
    yield "\n\n".join(map(_listed, _escaped(text.strip()).split("\n\n"))) + "\n"
    given = [what for what, _ in told if not what.startswith("-")]
    example = example.partition("[/dim]")[0] or " ".join(["bikd", name, *given])
    yield f"```console\n$ {example}\n```\n"
    if told:
        rows = [f"| `{_escaped(what)}` | {_escaped(meaning)} |" for what, meaning in told]
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows]) + "\n"


def _option(parameter: inspect.Parameter, hint: Any) -> tuple[str, str]:
    """How a parameter of a command is typed, and what it means."""
    kind, info = get_args(hint)[:2]
    types = [t for t in (get_args(kind) or (kind,)) if t is not type(None)]
    choices = issubclass(types[0], Enum) and "|".join(str(c.value) for c in types[0])
    value = info.metavar or choices or types[0].__name__.upper()
    if isinstance(info, ArgumentInfo):
        return value, info.help or ""
    given = [d for d in (info.default, *(info.param_decls or ())) if str(d).startswith("-")]
    names = " ".join(map(str, given)) or f"--{parameter.name.replace('_', '-')}"
    return names if types[0] is bool else f"{names} {value}", info.help or ""


def _listed(paragraph: str) -> str:
    """A paragraph that explains several words, as a list of them."""
    lines = paragraph.splitlines()
    words = [bool(re.match(r"[^:]{1,16}: ", line)) for line in lines]
    if sum(words) < 2:
        return paragraph
    return "\n".join(
        ("- " if word else "  ") + line for word, line in zip(words, lines, strict=True)
    )


def _escaped(text: str) -> str:
    plain = re.sub(r"\[/?(?:dim|bold)\]", "", text)
    return plain.replace("|", "\\|").replace("{", "&#123;")


if __name__ == "__main__":
    print(command_reference(), end="")
