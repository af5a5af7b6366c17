"""Which rooms may load what: proven in fresh processes, since imports cannot be undone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.synthetic import World, made, zoo

HEAVY = ("torch", "ray", "pyarrow", "plotly", "timm")
ALL_HEAVY = (*HEAVY, "torchvision", "duckdb", "numpy", "pandas", "scipy", "sklearn", "dash", "PIL")
OF_NO_ANSWER = (
    "torch",
    "ray",
    "timm",
    "torchvision",
    "plotly",
    "dash",
    "jinja2",
    "PIL",
    "sklearn",
    "pandas",
)


@pytest.mark.parametrize(
    ("modules", "never"),
    [
        ("bikd_ray, bikd_ray.errors, bikd_ray.specs, bikd_ray.identity, bikd_ray.plan", HEAVY),
        ("bikd_ray; bikd_ray.Spec; bikd_ray.load_spec", HEAVY),
        ("bikd_ray; bikd_ray.Store; bikd_ray.open_store", ("torch", "ray", "plotly", "timm")),
        ("bikd_ray.store, bikd_ray.analysis.significance, bikd_ray.analysis.pairs, "
         "bikd_ray.analysis.segmentation",
         ("torch", "ray", "plotly", "timm")),
        ("bikd_ray.search.answers, bikd_ray.search.replay, bikd_ray.search.checks, "
         "bikd_ray.analysis.groups", HEAVY),
        ("bikd_ray.transfer, bikd_ray.train, bikd_ray.tasks.classification, bikd_ray.zoo, "
         "bikd_ray.data", ("ray", "plotly", "bikd_ray.store")),
        ("bikd_ray.sweep.engine, bikd_ray.sweep.job",
         ("plotly", "bikd_dashboards", "bikd_pipelines")),
        ("bikd_ray.sweep.trial", ("timm", "bikd_ray.train", "plotly")),
        ("bikd_ray.sweep.channel, bikd_ray.sweep.events", ("torch", "pyarrow.dataset", "plotly")),
        ("bikd_dashboards.report, bikd_dashboards.app",
         ("torch", "ray", "bikd_ray.train", "bikd_pipelines")),
        ("bikd_pipelines.cli", HEAVY),
    ],
)  # fmt: skip
def test_a_room_does_not_load_what_it_must_not(modules, never):
    code = f"import sys, {modules}; print(*[m for m in {never!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_no_test_file_is_imported():
    """What several need lies in a file of its own, to be found by its name."""
    imports = re.compile(
        r"^\s*(?:from tests\.test_|import tests\.test_|from tests import.*\btest_)"
    )
    files = sorted(Path(__file__).parent.rglob("*.py"))
    found = [
        f"{file.name}:{number}: {line}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if imports.match(line)
    ]
    assert len(files) > 50
    assert found == []


ASKED = """
import contextlib, json, sys
from bikd_pipelines.cli import main

for command in json.loads(sys.argv[1]):
    sys.argv = ["bikd", *command]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
        main()
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made(tmp_path_factory.mktemp("store"), World(zoo(3), n=40, seeds=2))


def loaded(*commands: list[str]) -> set[str]:
    """The modules in a process that has run the commands, each of which has answered."""
    run = subprocess.run(
        [sys.executable, "-c", ASKED, json.dumps(commands)], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "bikd: " not in run.stderr, run.stderr
    assert run.stderr
    return set(json.loads(run.stdout))


def test_help_loads_nothing_heavy():
    assert not loaded(["--help"], ["partners", "--help"], ["--version"]) & set(ALL_HEAVY)


def test_the_package_itself_loads_only_the_standard_library():
    code = "import sys; had = set(sys.modules); import bikd_ray; print(*{*sys.modules} - had)"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    names = {name.partition(".")[0] for name in run.stdout.split()}
    assert names - {"bikd_ray"} <= set(sys.stdlib_module_names)


def test_stored_rows_are_shown_without_what_trains_draws_or_estimates(store):
    at = ["--store", store]
    asked = (["status", *at], ["status", "--failed", *at], ["curves", *at], ["flips", *at])
    assert not loaded(*asked) & {*OF_NO_ANSWER, "scipy.special", "duckdb"}
    sql = ["sql", "select count(*) from results", *at]
    assert not loaded(sql) & {*OF_NO_ANSWER, "scipy.special"}


def test_intervals_take_the_special_functions_and_no_more(store):
    at = ["--store", store]
    names = loaded(["partners", zoo(3)[0], *at], ["pairs", *at], ["pairs", "--matrix", *at])
    assert "scipy.special" in names
    assert not names & {*OF_NO_ANSWER, "scipy.stats", "duckdb", "bikd_ray.specs", "bikd_ray.plan"}


def test_arrow_still_makes_data_frames_where_it_was_loaded_without_pandas():
    code = (
        "from bikd_pipelines import light_arrow; import pyarrow as pa, sys; "
        "assert 'pandas' not in sys.modules; frame = pa.table({'x': [1, 2]}).to_pandas(); "
        "print(pa.Table.from_pandas(frame)['x'].to_pylist(), pa.array(frame['x']).to_pylist())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[1, 2] [1, 2]\n"
