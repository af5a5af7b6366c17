"""What `bikd --help` shows: every command in a part, every option in words."""

import re

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bikd_pipelines.cli import PANELS, app, flowing

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
STORE = {f"store {name}": command for name, command in COMMANDS["store"].commands.items()}
LEAVES = {**{name: c for name, c in COMMANDS.items() if name != "store"}, **STORE}


def shown(*arguments: str) -> str:
    found = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"})
    assert found.exit_code == 0, found.output
    return found.output


def test_sentences_flow_to_the_terminals_width_and_terms_stand_by_themselves():
    text = """Say it.

    One sentence that goes
    on here.

    net Δ: what is due
    to the partner
    q: a p-value

    [dim]Example: bikd say[/dim]
    """
    assert flowing(text).split("\n\n") == [
        "Say it.",
        "One sentence that goes on here.",
        "net Δ: what is due to the partner\nq: a p-value",
        "[dim]Example: bikd say[/dim]",
    ]


def test_bare_bikd_shows_its_parts_in_the_order_in_which_people_need_them():
    titles = re.findall(r"^╭─ ([\w ]+?) ─", shown(), re.MULTILINE)
    assert (
        titles
        == ["Options", "Start", "Run", "Answers", "Take home", "Store"]
        == [
            "Options",
            *PANELS,
        ]
    )
    assert shown() == shown("--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_one_part(name):
    assert COMMANDS[name].rich_help_panel in PANELS
    assert len(re.findall(rf"^│ {name} ", shown(), re.MULTILINE)) == 1


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_says_what_it_does_and_what_each_option_does(name):
    command = LEAVES[name]
    assert re.match(r"[A-Z].*[.]", command.help)
    assert "Example: bikd" in command.help
    for param in command.params:
        assert getattr(param, "help", None), param.name
    text = shown(*name.split(), "--help")
    assert "<bool>" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
