"""Whatever a query of a person's own returns is shown, in every format, or refused in one line."""

import csv
import io
import json

import pytest

from bikd_pipelines.layout import Column, _wrapped, laid_out
from bikd_pipelines.tables import print_table
from bikd_ray.errors import UserError
from bikd_ray.store import Store

QUERIES = {
    "struct": ("select {'a': 1, 'b': [1, 2]} as x", {"a": 1, "b": [1, 2]}),
    "map": ("select map {'a': 1} as x", {"a": 1}),
    "map of numbers": ("select map {1: 2} as x", [[1, 2]]),
    "days": ("select interval 1 day as x", "P0M1DT0S"),
    "seconds": ("select interval 1.5 second as x", "P0M0DT1.5S"),
    "dates": ("select [date '2024-01-01'] as x", ["2024-01-01"]),
    "date": ("select date '2024-01-01' as x", "2024-01-01"),
    "decimals": ("select [1.5::decimal(5,2)] as x", [1.5]),
    "long decimal": (
        "select 12345678901234567.89::decimal(20,2) as x",
        "12345678901234567.89",
    ),
    "huge": ("select 170141183460469231731687303715884105727::hugeint as x", 2**127 - 1),
    "nanoseconds": (
        "select timestamp_ns '2024-01-01 00:00:00.123456789' as x",
        "2024-01-01 00:00:00.123456789",
    ),
    "time": ("select time '10:00:01' as x", "10:00:01.000000"),
    "bytes": ("select 'az'::blob as x", "617a"),
    "bytes inside": ("select {'b': 'az'::blob} as x", {"b": "617a"}),
    "enum": ("select 'u'::enum('u', 'v') as x", "u"),
    "uuid": (
        "select '2716dbd0-0d4e-40bc-b067-1f64e6563b2e'::uuid as x",
        "2716dbd0-0d4e-40bc-b067-1f64e6563b2e",
    ),
    "text": ("select 'é, \"q\"' as x", 'é, "q"'),
    "nan inside": ("select ['nan'::double] as x", [None]),
    "null inside": ("select [null] as x", [None]),
}


@pytest.fixture
def shown(tmp_path, capfdbinary):
    """Prints the answer to a query; returns what was printed."""

    def show(query: str, how: str) -> str:
        print_table(Store(str(tmp_path)).sql(query), how, "sql")
        return capfdbinary.readouterr().out.decode()

    return show


@pytest.mark.parametrize(("query", "value"), QUERIES.values(), ids=QUERIES)
def test_every_type_is_shown_in_every_format(shown, query, value):
    assert json.loads(shown(query, "json")) == [{"x": value}]
    (header, (text,)) = csv.reader(io.StringIO(shown(query, "csv")))
    assert header == ["x"]
    nested = isinstance(value, dict | list)
    assert (json.loads(text) if nested else text) == (value if nested else str(value))
    title, line, *_ = shown(query, "table").splitlines()
    assert title.strip() == "x"
    assert line.strip()


@pytest.mark.parametrize("how", ["json", "csv", "table"])
def test_columns_of_one_name_are_told_apart(shown, how):
    out = shown("select 1 as a, 2 as a, 3 as a_1, 4 as a", how)
    if how == "json":
        assert json.loads(out) == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]
    else:
        header, line = out.replace('"', "").replace(",", " ").splitlines()
        assert header.split() == ["a", "a_2", "a_1", "a_3"]
        assert line.split() == ["1", "2", "3", "4"]


def test_long_bytes_are_whole_but_for_people(shown):
    query = "select repeat('a', 1000)::blob as x"
    assert "61" * 1000 in shown(query, "json")
    assert "61" * 1000 in shown(query, "csv")
    assert "61" * 16 + "… (1,000 bytes)" in shown(query, "table")


@pytest.mark.parametrize("how", ["json", "csv", "table"])
@pytest.mark.parametrize("value", ["'infinity'::date", "date '294247-01-10'", "[date 'infinity']"])
def test_what_has_no_text_is_one_line_that_names_the_column(shown, how, value):
    with pytest.raises(UserError, match=r"column 'far' of type .* cannot be shown"):
        shown(f"select {value} as far", how)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("340282366920938463463374607431768211455::uhugeint", "UHUGEINT"),
        ("[{'a': 1::uhugeint}]", "UHUGEINT"),
        ("'101'::bit", "BIT"),
        ("timetz '12:34:56+02'", "TIME WITH TIME ZONE"),
    ],
)
def test_what_would_come_out_as_another_value_is_refused(tmp_path, value, kind):
    store = Store(str(tmp_path))
    with pytest.raises(UserError, match=f"column 'x' of type {kind} cannot be shown; cast it"):
        store.sql(f"select {value} as x")
    assert len(store.sql(f"select ({value})::varchar as x"))
    assert store.sql("select {'BIT': 1} as x").to_pylist() == [{"x": {"BIT": 1}}]


def test_a_matrix_of_long_names_fits_a_terminal():
    long = "vit_base_patch16_clip_quickgelu_224.openai_ft_in12k_in1k_an_even_longer"
    columns = [
        Column("model", lambda _: long, words=True),
        Column(long, lambda _: "+12.50*", titled=True),
        Column("a", lambda _: "-0.25 ", titled=True),
    ]
    lines = [line.plain for line in laid_out([{}], columns, 40)]
    assert max(map(len, lines)) <= 40
    assert sum("+12.50*" in line and "-0.25" in line for line in lines) == 1
    assert laid_out([{}], columns, None)[0].plain.split() == ["model", long, "a"]


def test_words_are_broken_after_spaces_and_only_what_is_wider_than_a_line_after_its_signs():
    lines = _wrapped("set resources.micro_batch, see --format csv", 24)
    assert lines == ["set", "resources.micro_batch,", "see --format csv"]
    assert _wrapped("a vit_base_patch16.in1k", 12) == ["a vit_base_", "patch16.in1k"]
    gain = _wrapped("net Δ +4.80 pp [+1.00, +2.00]", 14)
    assert gain == ["net Δ +4.80 pp", "[+1.00, +2.00]"]
