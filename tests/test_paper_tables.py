"""The paper's specs ask for its tables, and its tables contradict themselves where we say so."""

import csv
import re
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml

from bikd_pipelines.paper.arithmetic import deviations, identity_share, recovered
from bikd_pipelines.paper.figures import MODELS, figures
from bikd_ray.plan import Job, all_jobs
from bikd_ray.spec_file import load_spec, parse_spec
from bikd_ray.specs import Recipe, Spec
from tests.plans import paper_zoo, resolved

ROOT = Path(__file__).parents[1]
SPECS = ROOT / "pipelines" / "specs"
JOBS = {  # spec: jobs as it is, and with MambaVision-T2
    "paper_table2": (87, 99),
    "paper_table6a": (21, 21),
    "vit_pairs": (36, 36),
    "reference": (45, 51),
}


def whole(name: str) -> Spec:
    """A spec with MambaVision-T2's lines, as its header says."""
    text = (SPECS / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_spec(yaml.safe_load(re.sub("^#~ ", "  ", text, flags=re.MULTILINE)))


def jobs_of(spec: Spec) -> list[Job]:
    return all_jobs(spec, *resolved(spec))


def groups_of(table: str) -> set[frozenset[str]]:
    return {frozenset((f.model, *f.partners)) for f in figures(table)}


def pairings_of(name: str) -> set[frozenset[str]]:
    return {frozenset(group) for group in whole(name).pairings.list}


@pytest.mark.parametrize("name", JOBS)
def test_every_spec_plans_the_jobs_that_its_header_counts(name):
    spec = load_spec(SPECS / f"{name}.yaml")
    assert (len(jobs_of(spec)), len(jobs_of(whole(name)))) == JOBS[name]
    header = (SPECS / f"{name}.yaml").read_text(encoding="utf-8").split("\nname:")[0]
    counted = [int(n) for n in re.findall(r"(\d+) jobs", header)]
    assert counted == sorted(set(JOBS[name]))
    assert "MambaVision-T2" not in {entry.name for entry in spec.zoo}


def test_the_specs_together_ask_for_the_pairings_of_the_tables():
    table2, vits = pairings_of("paper_table2"), pairings_of("vit_pairs")
    assert table2 | vits == groups_of("2") == groups_of("3")
    assert not table2 & vits
    assert pairings_of("paper_table6a") == groups_of("6a")
    assert pairings_of("reference") == table2
    labels = {job.objective.label for job in jobs_of(whole("paper_table2"))}
    assert labels == {f.objective for f in figures("2")} | {"ce"}


def test_the_models_and_the_recipe_are_those_of_the_papers_zoo():
    zoo = {entry.name: entry for entry in paper_zoo().zoo}
    for name in ("paper_table2", "paper_table6a", "vit_pairs"):
        assert all(entry == zoo[entry.name] for entry in whole(name).zoo)
    assert whole("paper_table2").recipe == whole("paper_table6a").recipe == Recipe()
    assert whole("vit_pairs").recipe == Recipe(augment="timm", schedule="cosine")


def test_table_6a_finds_twelve_of_its_jobs_where_table_2_is_done():
    ids = [{job.job_id for job in jobs_of(whole(f"paper_table{n}"))} for n in ("2", "6a")]
    assert len(ids[0] & ids[1]) == 12


def test_the_reference_spec_gives_all_models_one_preprocessing():
    first, *others = (entry.input for entry in whole("reference").zoo)
    assert all(other == first for other in others)
    assert (first.size, first.crop_pct, first.interpolation) == (224, 0.875, "bilinear")
    assert {entry.name for entry in whole("reference").zoo} == {
        entry.name for entry in whole("paper_table2").zoo
    }


def test_the_page_counts_the_same_jobs_and_leads_somewhere():
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    counted = re.findall(r"^\| `(\w+)\.yaml` \|.*?\| (\d+) \|", page, flags=re.MULTILINE)
    assert {name: int(jobs) for name, jobs in counted} == {
        name: len(jobs_of(load_spec(SPECS / f"{name}.yaml"))) for name in (*JOBS, "paper_zoo")
    }
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page):
        assert (ROOT / "docs" / link).exists(), link


# -- the paper's own arithmetic --------------------------------------------------------------


def printed() -> list[dict[str, str]]:
    path = ROOT / "pipelines" / "bikd_pipelines" / "paper" / "figures.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_one_recovered_share_does_not_follow_from_its_row_by_equation_14():
    wrong = []
    for row in (row for row in printed() if row["table"] == "3"):
        before = Decimal(str(MODELS[row["model"]].top1))
        share = 100 * (Decimal(row["after"]) - before) / (Decimal(row["ensemble"]) - before)
        shown = Decimal(row["recovered"])
        if share.quantize(shown, ROUND_HALF_UP) != shown:
            wrong.append((row["model"], row["partners"], float(shown), float(round(share, 1))))
    assert wrong == [("DINOv2", "SWSL-ResNext101", 40.1, 41.0)]
    said = [line for line in deviations() if "Eq. 14" in line]
    assert len(said) == 1
    assert all(str(word) in said[0] for word in wrong[0])


def test_equation_14_on_a_row_worked_out_by_hand():
    figure = next(f for f in figures("3") if f.model == "MAE")
    assert figure.delta == 0.396  # 83.842 - 83.446
    assert recovered(figure) == pytest.approx(44.6953, abs=1e-4)  # 39.6 / 0.886


def test_one_run_of_table_3_cannot_be_among_the_seeds_of_table_2():
    """Of n values with mean m and standard deviation s, one is at most s √(n-1) from m."""
    rng = np.random.default_rng(0)
    values = rng.standard_cauchy((10_000, 3))
    reach = np.abs(values - values.mean(1, keepdims=True)).max(1) / values.std(1)
    assert 1.41 < reach.max() < 2**0.5 + 1e-6
    lines = [line for line in deviations() if "seeds" in line]
    assert [line.split(":")[0] for line in lines] == ["Table 3, DINOv2 with MAE"]


def test_there_is_no_other_deviation_and_table_6a_repeats_a_pair_of_table_3():
    assert len(deviations()) == 2
    pair = {"CoaT-lite-mini", "PiT-XS"}
    both = [
        {f.model: f.delta for f in figures(t) if {f.model, *f.partners} == pair}
        for t in ("3", "6a")
    ]
    assert both[0] == both[1] == {"CoaT-lite-mini": 0.38, "PiT-XS": 0.45}


def test_every_accuracy_of_one_run_is_a_count_of_50000_images():
    single = [row for row in printed() if not row["std"]]
    for row, name in product(single, ("delta", "after", "ensemble")):
        if row[name]:
            assert (Fraction(row[name]) * 500).denominator == 1, row
    assert all((Fraction(str(known.top1)) * 500).denominator == 1 for known in MODELS.values())


def test_the_learner_explains_nearly_all_of_table_3():
    share = identity_share("3")
    values = [(f.model, f.delta) for f in figures("3")]
    several = [(m, d) for m, d in values if [n for n, _ in values].count(m) > 1]
    deltas = np.array([d for _, d in several])
    fitted = [np.mean([d for n, d in several if n == m]) for m, _ in several]
    assert share.explained == pytest.approx(np.corrcoef(deltas, fitted)[0, 1] ** 2)
    assert (round(share.explained, 2), share.models, share.values) == (0.96, 7, 17)
    names = np.array([m for m, _ in several])
    same = names[:, None] == names
    dealt = np.random.default_rng(0).permuted(np.tile(deltas, (4000, 1)), axis=1)
    means = dealt @ (same / same.sum(0))  # of the model that each value was dealt to
    assert share.by_chance == pytest.approx((means.var(1) / deltas.var()).mean(), abs=0.01)
