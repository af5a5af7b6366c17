"""Paths and plain values of a spec mean what a shell and a reader of YAML expect."""

import os
import zipfile
from pathlib import Path

import pytest

from bikd_pipelines.submit import entrypoint, pack, store_of, sweep_options
from bikd_ray.errors import UserError
from bikd_ray.paths import escaped, expanded, located
from bikd_ray.spec_file import load_spec, parse_spec
from bikd_ray.specs import Data, ZooEntry
from bikd_ray.store import open_store
from bikd_ray.store.filesystem import StoreFS, store_uri

SPEC = """
zoo: [{timm: a}, {timm: b}]
data: {train: {source: digits, split: train}, val: {source: digits, split: val}}
"""
DIGITS = {s: {"source": "digits", "split": s} for s in ("train", "val")}


@pytest.fixture(autouse=True)
def _home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("SCRATCH", "/scratch")
    monkeypatch.setenv("BUCKET", "results")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_SET", raising=False)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("~/x", "/home/ann/x"),
        ("~", "/home/ann"),
        ("$SCRATCH/x", "/scratch/x"),
        ("${SCRATCH}/x-${BUCKET}", "/scratch/x-results"),
        ("s3://$BUCKET/a?region=b", "s3://results/a?region=b"),
        ("x", "/srv/x"),
        ("./~/x", "/srv/./~/x"),
        ("a$$b", "/srv/a$b"),
        ("100$", "/srv/100$"),
        ("/abs", "/abs"),
        ("file:///abs", "file:///abs"),
    ],
)
def test_a_path_is_expanded_and_then_relative_to_the_folder(written, meant):
    assert os.path.normpath(located(written, Path("/srv"))) == os.path.normpath(meant)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("$NOT_SET/x", r"\$NOT_SET is not set"),
        ("${NOT_SET}/x", r"\$\{NOT_SET\} is not set"),
        ("$EMPTY/x", r"\$EMPTY is empty"),
        ("${SCRATCH:-x}", "is no variable's name"),
        ("${SCRATCH", r"\$\{SCRATCH is no variable's name"),
        ("a/$(date)/x", r"\$\(date\)/x is no variable's name"),
        ("~nobody-of-that-name/x", "no home folder is known for '~nobody-of-that-name'"),
        ("s3://", r"'s3://' has no bucket; give s3://BUCKET/…"),
        ("gs:///x", r"'gs:///x' has no bucket"),
        ("s3://?region=x", "has no bucket"),
        ("https://", "has no host"),
    ],
)
def test_what_cannot_be_expanded_or_names_nothing_is_refused(written, said):
    with pytest.raises(ValueError, match=said):
        expanded(written)


def test_an_escaped_path_is_read_as_it_was():
    for path in ("a$b", "${x}", "$$", "plain"):
        assert expanded(escaped(path)) == path


def test_every_path_of_a_spec_follows_the_one_rule():
    spec = parse_spec(
        {
            "zoo": [
                {"timm": "a", "checkpoint": "~/w.pth"},
                {"timm": "local-dir:$SCRATCH/m"},
                {"hub": "~/hub:net", "trust": True},
                {"hub": "owner/repo:net", "trust": True},
            ],
            "data": {
                "train": {"source": "folder", "path": "~/train"},
                "val": {"source": "parquet", "path": "a.parquet::$SCRATCH/b.parquet"},
                "cache": "${SCRATCH}/cache",
            },
            "loggers": [
                {"name": "tensorboard", "dir": "~/runs"},
                "wandb",
                {"name": "mlflow", "tracking_uri": "sqlite:///$SCRATCH/m.db"},
            ],
            "store": "~/results",
        },
        base=Path("/srv/specs"),
    )
    found = [
        *(spec.zoo[0].checkpoint, spec.zoo[1].timm, spec.zoo[2].hub, spec.zoo[3].hub),
        *(getattr(s, "path", None) for s in (spec.data.train, spec.data.val)),
        *(spec.data.cache, *(x.dir for x in spec.loggers[:2]), spec.store),
        spec.loggers[2].tracking_uri,
    ]
    assert found == [
        *("/home/ann/w.pth", "local-dir:/scratch/m", "/home/ann/hub:net", "owner/repo:net"),
        *("/home/ann/train", "/srv/specs/a.parquet::/scratch/b.parquet"),
        *("/scratch/cache", "/home/ann/runs", "/srv/specs/runs", "/home/ann/results"),
        "sqlite:////scratch/m.db",
    ]
    assert spec.zoo[1].name == "local-dir:$SCRATCH/m"  # what pairings call it


def test_an_unset_variable_names_its_field():
    value = {"zoo": [{"timm": "a", "checkpoint": "$NOT_SET/w"}, {"timm": "b"}], "data": DIGITS}
    with pytest.raises(UserError) as raised:
        parse_spec({**value, "store": "$NOT_SET/s"})
    first, second = str(raised.value).split("\n")
    assert first.startswith("spec: zoo[0].checkpoint: $NOT_SET is not set; set the variable")
    assert second.startswith("spec: store: $NOT_SET is not set")


def test_what_was_read_once_is_not_expanded_again():
    entry = ZooEntry(timm="a", checkpoint="/data/$SCRATCH/w")
    assert ZooEntry.model_validate(entry.model_dump()).checkpoint == "/data/$SCRATCH/w"
    assert Data.model_validate({**DIGITS, "cache": "$x"}).cache == "$x"


def read(tmp_path: Path, more: str, encoding: str = "utf-8"):
    (tmp_path / "spec.yaml").write_bytes((SPEC + more).encode(encoding))
    return load_spec(tmp_path / "spec.yaml")


@pytest.mark.parametrize(
    ("written", "rate"),
    [("1e-6", 1e-6), ("1E+1", 10), ("'2e-4'", 2e-4), ("1.0e-6", 1e-6), (".5", 0.5), ("1", 1)],
)
def test_numbers_are_read_as_people_write_them(tmp_path, written, rate):
    assert read(tmp_path, f"recipe: {{lr: {written}}}").recipe.lr == rate


@pytest.mark.parametrize(("written", "seed"), [("'20'", 20), ("010", 10), ("1_000", 1000)])
def test_whole_numbers_have_no_octal_surprise(tmp_path, written, seed):
    assert read(tmp_path, f"seeds: [{written}]").seeds == (seed,)


@pytest.mark.parametrize("written", ["1:30", "yes", "on", "0.5", "1e400", "abc", "''"])
def test_what_is_no_whole_number_is_refused(tmp_path, written):
    with pytest.raises(UserError, match=r"seeds\[0\] must be "):
        read(tmp_path, f"seeds: [{written}]")


def test_a_date_is_a_name(tmp_path):
    assert read(tmp_path, "name: 2026-01-31").name == "2026-01-31"


def test_fields_with_x_hold_anchors_and_merges_load(tmp_path):
    spec = read(
        tmp_path,
        """
x-base: &base {epochs: 5, lr: 1e-3}
x-more: &more {<<: *base, lr: 2e-3}
x-notes: |
  several
  lines
recipe: {<<: [*more, *base], batch_size: 8}
""",
    )
    assert (spec.recipe.epochs, spec.recipe.lr, spec.recipe.batch_size) == (5, 2e-3, 8)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_says_how_a_spec_is_encoded(tmp_path, encoding):
    assert read(tmp_path, "name: é", encoding).name == "é"


BOMB = "\n".join(f"x-{i}: &b{i} [{', '.join(f'*b{i - 1}' for _ in range(9))}]" for i in range(1, 9))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("x: &a [*a]", "line 4: not YAML: an alias here holds itself"),
        ("x-a: &a\n  <<: *a", "not YAML: an alias here holds itself"),
        (f"x-0: &b0 [1]\n{BOMB}\nseeds: *b8", "aliases make this more than 1,000,000 values"),
        ("seeds: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("name: a\nname: b", "line 5: not YAML: 'name' is given twice"),
        ("? [a]\n: b", "the name of a field must be text"),
        ("name: *nowhere", "line 4: not YAML: found undefined alias"),
        ("name: !!int x", "a value does not fit its tag"),
        ("name: !!timestamp x", "a value does not fit its tag"),
        ("name: !thing x", "could not determine a constructor for the tag"),
        ("recipe: {<<: 3}", "expected a mapping or list of mappings for merging"),
        ("---\na: b", "not YAML: but found another document"),
        ('name: "a\\0b"', "name: holds the control character '\\x00'; remove it"),
        ('name: "\\ud800"', "name must be a valid string"),
        ("seeds: [1" + "0" * 5000 + "]", "seeds[0] must be between -2**63 and 2**63 - 1"),
    ],
    ids=lambda text: str(text)[:16],
)
def test_every_fault_of_a_file_is_one_line(tmp_path, more, said):
    with pytest.raises(UserError) as raised:
        read(tmp_path, more)
    (line,) = str(raised.value).split("\n")
    assert said in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("given", "of_spec", "variable", "meant"),
    [
        ("~/s", "/spec", "/var", "/home/ann/s"),
        (None, "/spec/$x", "/var", "/spec/$x"),
        (None, None, "$SCRATCH/s", "/scratch/s"),
        (None, None, None, "./bikd-store"),
    ],
)
def test_the_store_is_expanded_wherever_it_is_named(monkeypatch, given, of_spec, variable, meant):
    monkeypatch.delenv("BIKD_STORE", raising=False)
    if variable:
        monkeypatch.setenv("BIKD_STORE", variable)
    assert store_uri(given, of_spec) == meant


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("$NOT_SET/s", r"store: \$NOT_SET is not set"),
        ("s3://", "store: 's3://' has no bucket"),
        ("gs://", "store: 'gs://' has no bucket"),
    ],
)
def test_a_store_that_names_nothing_is_refused(uri, said):
    with pytest.raises(UserError, match=said):
        open_store(uri)
    if "://" in uri:
        with pytest.raises(UserError, match="has no bucket"):
            StoreFS.at(uri)


def test_a_spec_that_is_submitted_is_read_there_as_here(tmp_path, monkeypatch):
    (tmp_path / "spec.yaml").write_text(SPEC.replace("{timm: b}", "{timm: b, checkpoint: w$$x/b}"))
    package = pack(tmp_path / "spec.yaml", "/store/$x", tmp_path / "code.zip")
    (tmp_path / "there").mkdir()
    with zipfile.ZipFile(package.zip) as packed:
        packed.extractall(tmp_path / "there")
    there = load_spec(tmp_path / "there" / "bikd-spec.yaml")
    assert there.zoo[1].checkpoint == str(tmp_path / "w$x" / "b")
    assert "--store '/store/$$x'" in entrypoint("/store/$x", [])
    given = {"limit": None, "goal": "best_partner", "regret": 0.3, "share": 0.5}
    words = "--goal best_partner --regret 0.3 --share 0.5 --retry-failed"
    assert entrypoint("/s", sweep_options(given, retry_failed=True)).endswith(f"/s {words}")
    with pytest.raises(UserError, match=r"cannot read the spec .*none\.yaml: No such file"):
        store_of(tmp_path / "none.yaml", "s3://b/s")
    (tmp_path / "s.yaml").write_text(SPEC + "store: results")
    with pytest.raises(UserError, match="store results is relative"):
        store_of(tmp_path / "s.yaml", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {**DIGITS, "classes": [0, 1]}}, r"spec: data.classes: must list text, and \[0\]"),
        ({"data": {**DIGITS, "classes": ["a", "b", "a"]}}, "spec: data.classes: lists 'a' twice"),
        ({"data": {**DIGITS, "classes": 3}}, "spec: data.classes must be a list of names or a"),
        ({"zoo": [{"timm": "a", "kwargs": {True: 1}}, {"timm": "b"}]}, "mapping from text, and Tr"),
        ({"zoo": [{"timm": "a", "alias": "b "}, {"timm": "b"}]}, "are both called 'b'"),
        ({"zoo": [{"timm": "a", "alias": "é"}, {"timm": "b", "alias": "e\u0301"}]}, "both called"),
        ({"zoo": [{"timm": "a", "alias": " "}, {"timm": "b"}]}, r"zoo\[0\].alias is blank"),
        (
            {"data": {**DIGITS, "train": {"source": "parquet", "path": "a.parquet::"}}},
            "'a.parquet::' has nothing before or after a '::'",
        ),
    ],
)
def test_what_is_wrong_is_said_once_and_where(change, said):
    spec = {"zoo": [{"timm": "a"}, {"timm": "b"}], "data": DIGITS, **change}
    with pytest.raises(UserError, match=said) as caught:
        parse_spec(spec)
    assert "\n" not in str(caught.value)


def test_google_is_not_waited_for_a_quarter_of_an_hour():
    from bikd_ray.store.filesystem import _with_limits

    assert _with_limits("gs://b/x") == "gs://b/x?retry_limit_seconds=30"
    assert _with_limits("gs://b/x?retry_limit_seconds=9") == "gs://b/x?retry_limit_seconds=9"
    assert _with_limits("s3://b/x?region=r") == "s3://b/x?region=r&allow_delayed_open=true"
    assert _with_limits("file:///x") == "file:///x"
