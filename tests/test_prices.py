"""What `bikd plan --price` says: against sums worked out by hand."""

import sys

import pytest
import yaml

from bikd_pipelines import cli
from bikd_pipelines.planning import on_gpu, paces_at
from bikd_pipelines.prices import money, price_lines, ways
from bikd_ray.plan import Pace, Plan, plan
from bikd_ray.spec_file import parse_spec
from tests.plans import DIGITS, jobs_of, spec_of

GPU = [{"CPU": 8.0, "GPU": 1.0, "memory": float(2**50)}]
TWO_CPUS = [{"CPU": 2.0, "memory": float(2**40)}]


def planned(spec, done: int = 0) -> Plan:
    jobs = jobs_of(spec)
    return plan(jobs, {job.job_id for job in jobs[:done]}, {})


def test_what_asks_less_is_counted_as_its_own_spec_would_be():
    spec = spec_of("abcd")
    found = {way.what: way for way in ways(spec, planned(spec))}
    assert {what: len(way.jobs) for what, way in found.items()} == {
        "all of it": 3 * (6 + 4),
        "one seed first": 6 + 4,
        "only pairs with a": 3 * (3 + 4),
        "a tenth of the images": 3 * (6 + 4),
        "together": 3 + 4,
    }


def test_the_lines_of_each_row_are_a_spec_with_the_same_jobs():
    spec = spec_of("abcd")
    for way in list(ways(spec, planned(spec)))[1:-1]:
        zoo = [{"factory": "m:f", "alias": name} for name in "abcd"]
        changed = parse_spec({"zoo": zoo, "data": DIGITS, **yaml.safe_load(way.lines)})
        assert {job.job_id for job in jobs_of(changed)} == {job.job_id for job in way.jobs}


def test_jobs_that_are_done_are_not_paid_again():
    spec = spec_of("abcd")
    left = {way.what: len(way.jobs) for way in ways(spec, planned(spec, done=8))}
    assert left["what is left"] == 30 - 8
    assert left["one seed first"] == 10 - 8
    assert left["a tenth of the images"] == 30  # another recipe: nothing of it is done
    assert price_lines(spec, planned(spec, done=30), None, 2.5, GPU) == [
        "nothing is left to pay for"
    ]


def test_what_is_as_cheap_as_can_be_has_no_cheaper_row():
    spec = spec_of("ab", seeds=[4], recipe={"train_fraction": 0.05})
    assert [way.what for way in ways(spec, planned(spec))] == ["all of it"]


def test_money_is_hours_by_the_price_and_one_gpu_is_one_gpu():
    spec = spec_of("ab", recipe={"epochs": 2})
    hour = {f"id-{name}": Pace(train=36.0, forward=0.0) for name in "ab"}
    # of 20 images in 2 epochs 0.4 h each model: a seed has a pair of 0.8 h, and two controls
    title, head, first, *rest = price_lines(spec, planned(spec), hour, 2.5, GPU)
    assert title == "at $2.50 a GPU-hour"
    assert head.split() == ["run", "in", "the", "spec", "jobs", "GPU-hours", "cost"]
    assert first.split()[-3:] == ["9", "4.8", "$12"]
    (seed,) = (line for line in rest if line.startswith("one seed first"))
    assert seed.split()[-3:] == ["3", "1.6", "$4.00"]
    assert "slot-hours" in price_lines(spec, planned(spec), hour, 2.5, TWO_CPUS)[1]


def test_without_a_time_only_shares_are_told():
    spec = spec_of("abc")
    title, head, first, *_ = price_lines(spec, planned(spec), None, 2.5, GPU)
    assert "no time is known yet" in title
    assert "cost" not in head
    assert first.split()[-1] == "100%"


def test_on_eighty_columns_no_row_is_wider():
    names = ["vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "b", "c"]
    spec = spec_of(names)
    hour = {f"id-{name}": Pace(train=36.0, forward=0.0) for name in names}
    lines = price_lines(spec, planned(spec), hour, 2.5, GPU, width=80)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("value", "text"), [(7166.8, "$7,167"), (10, "$10"), (2.5, "$2.50"), (0, "$0.00")]
)
def test_money_reads_as_money(value, text):
    assert money(value) == text


def test_the_command_plans_for_gpus_that_are_not_here(spec_file, monkeypatch, capsys):
    def run(*options: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["bikd", "plan", str(spec_file()), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    code, said = run("--tflops", "20", "--price", "2.5")
    assert code == 0
    assert "on one such GPU with 1 at a time (by 20 TFLOP/s" in said
    assert "at $2.50 a GPU-hour" in said
    code, said = run("--tflops", "20", "--calibrate")
    assert code == 2
    assert said.count("\n") == 1


def test_a_rate_is_three_forward_passes_for_a_step():
    spec = spec_of("ab")
    assert paces_at(planned(spec), 2e-12) == {
        f"id-{name}": Pace(train=30.0, forward=10.0) for name in "ab"
    }
    assert on_gpu()[1][0]["GPU"] == 1
