"""Our figures stand beside the paper's: the right models, the right numbers, on any screen."""

import csv
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from bikd_pipelines.cli import app
from bikd_pipelines.paper.compare import BESIDE, compared, paper_name
from bikd_pipelines.paper.figures import figures
from bikd_pipelines.paper.notes import notes
from bikd_ray.analysis.bits import pack
from bikd_ray.specs import Objective, Recipe
from bikd_ray.store import Store, Writer
from bikd_ray.store.schema import SCHEMAS
from tests.plans import paper_zoo


@pytest.mark.parametrize(
    ("alias", "source", "checkpoint", "expected"),
    [
        ("mine", "timm:pit_b_224.in1k", None, "PiT-B"),
        ("mine", "timm:hf-hub:timm/pit_b_224.in1k", None, "PiT-B"),
        ("mine", "hub:facebookresearch/dinov2:dinov2_vits14_lc", None, "DINOv2"),
        ("mine", "hub:facebookresearch/dinov2@main:dinov2_vits14_lc", None, "DINOv2"),
        ("mine", "timm:vit_base_patch16_224", "s3://b/mae_finetuned_vit_base.pth", "MAE"),
        ("PiT-B", "timm:pit_b_224", None, None),
        ("PiT-B", "timm:resnet18.a1_in1k", None, None),
        ("ViT-B", "timm:vit_base_patch16_224.mae", None, None),
        ("PiT-B", "timm:pit_b_224.in1k", "/w/better.safetensors", "PiT-B"),
        ("mine", "timm:pit_b_224.in1k", "/w/better.safetensors", None),
        ("MambaVision-T2", "factory:zoo.mamba:t2", None, "MambaVision-T2"),
        ("SeNet154", "timm:local-dir:/w/senet", None, "SeNet154"),
        ("other", "factory:zoo.mamba:t2", None, None),
    ],
)
def test_a_model_is_the_papers_by_the_origin_of_its_weights(alias, source, checkpoint, expected):
    assert paper_name({"model": alias, "source": source, "checkpoint": checkpoint}) == expected


def test_every_model_of_the_papers_zoo_is_recognised_whatever_its_alias():
    for entry in paper_zoo().zoo:
        row = {"model": "mine", "source": entry.source, "checkpoint": entry.checkpoint}
        if entry.name == "MambaVision-T2":  # a factory says nothing: by its alias alone
            row["model"] = entry.name
        assert paper_name(row) == entry.name


N = 1000
ENSEMBLE = 84.4
ZOO = {  # alias: (source, checkpoint, images right before)
    "dino": ("hub:facebookresearch/dinov2:dinov2_vits14_lc", None, 813),
    "mae": ("timm:vit_base_patch16_224", "/w/mae_finetuned_vit_base.pth", 834),
    "pit": ("timm:pit_xs_224.in1k", None, 779),
    "coat": ("timm:coat_lite_mini.in1k", None, 789),
    "resmlp": ("timm:resmlp_24_224.fb_distilled_in1k", None, 805),
    "PiT-B": ("timm:resnet18.a1_in1k", None, 700),
    "SWSL-ResNext101": ("factory:mine:swsl", None, 843),
}


def right(count: int) -> np.ndarray:
    """The first `count` images: counts are accuracies, and their differences are Δ."""
    return np.arange(N) < count


def write_model(writer: Writer, alias: str) -> None:
    source, checkpoint, before = ZOO[alias]
    who = {"model": alias, "model_id": f"id-{alias}", "weights_id": f"w-{alias}", "data_id": "d"}
    row = {**dict.fromkeys(SCHEMAS["baselines"].names), **who, "n": N}
    row |= {
        "value": before / 10,
        "metric": "top1",
        "eval_set": "val",
        "bits": pack(right(before)),
        "unit_set_id": "s",
    }
    model = {**dict.fromkeys(SCHEMAS["models"].names), **who}
    model |= {"source": source, "checkpoint": checkpoint}
    writer.commit_baseline([row], model, SCHEMAS["predictions"].empty_table())


def write_job(
    writer: Writer,
    gains: dict[str, int],
    seed: int,
    objective: Objective,
    *,
    partners: tuple[str, ...] = (),
    recipe: tuple[str, str] = ("r1", "{}"),
    selection: str = "last",
) -> None:
    """A job whose learners get `gains` more images right; `partners` are frozen."""
    members = (*gains, *partners)
    run = {"objective": objective.label, "seed": seed, "recipe_id": recipe[0], "data_id": "d"}
    run["job_id"] = "-".join([*members, objective.label, str(seed), recipe[0], selection])
    results = []
    for alias, gain in gains.items():
        mates = [m for m in members if m != alias]
        role = "control" if not mates else "student" if partners else "peer"
        before = ZOO[alias][2]
        row = {**dict.fromkeys(SCHEMAS["results"].names), **run}
        row |= {"model": alias, "model_id": f"id-{alias}", "weights_id": f"w-{alias}"}
        row |= {"partners": mates, "partner_ids": [f"id-{m}" for m in mates], "role": role}
        row |= {"selection": selection, "n": N, "before": before / 10}
        row |= {"after": (before + gain) / 10, "delta": gain / 10}
        row |= {"ensemble_before": ENSEMBLE if mates else None}
        row |= {
            "metric": "top1",
            "eval_set": "val",
            "bits": pack(right(before + gain)),
            "unit_set_id": "s",
        }
        results.append(row)
    job = {**dict.fromkeys(SCHEMAS["jobs"].names), **run, "sweep": "s", "status": "done"}
    job |= {"members": list(members), "member_ids": [f"id-{m}" for m in members]}
    job |= {"recipe": recipe[1], "resources": "{}", "result_version": 1}
    writer.commit_job(job, results, [])


BIKD, KL_DP, CE = Objective(), Objective(name="kl_dp"), Objective(name="ce")


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """DINOv2 with MAE by Bi-KD and, one way, KL+DP; groups of Table 6a; and what is not theirs."""
    uri = str(tmp_path_factory.mktemp("store"))
    writer = Writer(uri)
    for alias in ZOO:
        write_model(writer, alias)
    for seed, more in enumerate((-1, 0, 1)):
        write_job(writer, {"mae": 4 + more, "dino": 14 + more}, seed, BIKD)
        write_job(writer, {"dino": 5}, seed, KL_DP, partners=("mae",))
        write_job(writer, {"dino": 9 + more}, seed, CE)
        write_job(writer, {"coat": 4, "pit": 5, "resmlp": 2, "dino": 13}, seed, BIKD)
    write_job(writer, {"pit": 6, "coat": 3, "resmlp": 1}, 0, BIKD)
    write_job(writer, {"SWSL-ResNext101": 5, "dino": 15}, 0, BIKD)
    write_job(writer, {"PiT-B": 8, "SWSL-ResNext101": 2}, 0, BIKD)  # somebody's alias
    write_job(writer, {"mae": 1, "pit": 1}, 0, BIKD)  # a pair that the paper has not
    write_job(writer, {"mae": 7, "dino": 7}, 0, Objective(temperature=2.0))  # another method
    return Store(uri)


@pytest.fixture(scope="module")
def table(store) -> pa.Table:
    return compared(store)


@pytest.fixture
def own(store, tmp_path) -> str:
    """A copy of the store to write to."""
    shutil.copytree(store.uri, tmp_path / "own")
    return str(tmp_path / "own")


def rows_of(table: pa.Table, number: str, model: str, partner: str, objective: str = "bikd"):
    wanted = (number, model, partner, objective)
    names = ("table", "model", "partner", "objective")
    return [row for row in table.to_pylist() if tuple(row[n] for n in names) == wanted]


def test_ours_stand_beside_theirs_with_the_numbers_of_both(table):
    assert len(table) == len(figures())
    ours = {}
    for number in ("2", "3"):
        (row,) = rows_of(table, number, "DINOv2", "MAE")
        ours[number] = {k: v for k, v in row.items() if not k.startswith("paper_") and k != "table"}
        assert (row["our_model"], row["our_objective"], row["seeds"]) == ("dino", "bikd", 3)
        assert row["delta"] == pytest.approx(1.4)
        assert row["control_delta"] == pytest.approx(0.9)
        assert row["net_delta"] == pytest.approx(0.5)
        assert row["recovered"] == pytest.approx(100 * 1.4 / (84.4 - 81.3))
        assert row["delta_low"] < 1.4 < row["delta_high"]
    assert ours["2"] == ours["3"]
    (mean,) = rows_of(table, "2", "DINOv2", "MAE")
    assert (mean["paper_delta"], mean["paper_std"], mean["paper_recovered"]) == (1.494, 0.042, None)
    (run,) = rows_of(table, "3", "DINOv2", "MAE")
    assert (run["paper_before"], run["paper_after"], run["paper_delta"]) == (81.332, 82.722, 1.39)
    assert (run["paper_ensemble"], run["paper_recovered"]) == (84.332, 46.3)


def test_a_student_and_its_frozen_teacher_are_one_direction_of_kl_dp(table):
    (row,) = rows_of(table, "2", "DINOv2", "MAE", "kl_dp")
    assert (row["paper_delta"], row["delta"]) == (0.582, pytest.approx(0.5))
    (other,) = rows_of(table, "2", "MAE", "DINOv2", "kl_dp")
    assert (other["paper_delta"], other["delta"]) == (0.306, None)


def test_groups_of_table_6a_are_found_in_any_order_of_their_members(table):
    (three,) = rows_of(table, "6a", "PiT-XS", "CoaT-lite-mini + ResMLP-24-dist")
    assert (three["paper_delta"], three["delta"]) == (0.476, pytest.approx(0.6))
    (four,) = rows_of(table, "6a", "DINOv2", "CoaT-lite-mini + PiT-XS + ResMLP-24-dist")
    assert (four["paper_delta"], four["delta"]) == (1.28, pytest.approx(1.3))
    (pair,) = rows_of(table, "6a", "PiT-XS", "CoaT-lite-mini")
    assert pair["delta"] is None


def test_an_alias_of_the_papers_on_other_weights_is_not_taken_for_it(store, table):
    (row,) = rows_of(table, "3", "SWSL-ResNext101", "PiT-B")
    assert row["delta"] is None
    (row,) = rows_of(table, "3", "SWSL-ResNext101", "DINOv2")
    assert row["delta"] == pytest.approx(0.5)
    last = notes(store, table, "last")[-1]
    assert last == "Taken for the paper's by their names alone: SWSL-ResNext101"


def test_recipes_and_readings_of_the_method_have_rows_of_their_own(own):
    writer = Writer(own)
    reading = Objective(detach_teacher=False)
    vit = ("r2", Recipe(augment="timm", schedule="cosine").model_dump_json())
    write_job(writer, {"mae": 3, "dino": 10}, 0, reading)
    write_job(writer, {"mae": 3, "dino": 11}, 0, BIKD, recipe=vit)
    odd = ("r3", Recipe(epochs=3).model_dump_json())
    write_job(writer, {"mae": 3, "dino": 12}, 0, BIKD, recipe=odd)
    table = compared(Store(own))
    rows = rows_of(table, "3", "DINOv2", "MAE")
    seen = {(r["our_objective"], r["recipe_id"]): r["delta"] for r in rows}
    assert seen == {
        ("bikd", "r1"): pytest.approx(1.4),
        ("bikd(detach_teacher=False)", "r1"): pytest.approx(1.0),
        ("bikd", "r2"): pytest.approx(1.1),
        ("bikd", "r3"): pytest.approx(1.2),
    }
    said = "\n".join(notes(Store(own), table, "last"))
    assert "recipe r1 is paper; r2 is paper_vit; r3 is paper with epochs 3" in said


def test_the_papers_selection_has_no_intervals(own):
    write_job(Writer(own), {"mae": 4, "dino": 16}, 0, BIKD, selection="best_val")
    (row,) = rows_of(compared(Store(own), "best_val"), "3", "DINOv2", "MAE")
    assert (row["delta"], row["delta_low"]) == (pytest.approx(1.6), None)


def test_the_notes_say_how_far_the_models_are_from_the_papers(store, table):
    said = "\n".join(notes(store, table, "last"))
    assert "within 0.05 pp of the paper's (farthest: ResMLP-24-dist, 80.500 to 80.548)" in said
    assert "Some of ours are of 1,000 val images, the paper's all of 50,000" in said


def bikd_paper(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["paper", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


@pytest.mark.parametrize("make", [False, True], ids=["no store", "an empty one"])
def test_the_papers_side_stands_without_a_store(tmp_path, make):
    place = tmp_path / "store"
    if make:
        place.mkdir()
    out, notes_ = bikd_paper("--store", str(place))
    assert place.exists() == make
    for title in ("Table 2, KL+DP", "Table 2, Bi-KD", "Table 3, Bi-KD", "Table 6a", "Table 4"):
        assert title in out
    assert sum(line[:1].isalpha() for line in out.splitlines()) == len(figures()) + 5 + 5
    assert "no results of the paper's pairings yet" in " ".join(notes_.split())


def test_a_persons_table_shows_both_sides(store):
    out, _ = bikd_paper("--store", store.uri)
    lines = [line for line in out.splitlines() if line.startswith("DINOv2 + MAE")]
    both = [re.split(r"  +", line) for line in lines]
    assert both[0][1] == "+1.494 ± 0.042"
    assert both[0][2].startswith("+1.40 [")
    assert both[0][3].startswith("+0.50 [")
    assert both[1][1] == "+1.390"
    assert both[1][2:] == ["+1.40", "84.33", "84.40", "46.3", "45.2", "bikd r1 ×3"]


def test_csv_has_every_column_and_figure(store):
    out, _ = bikd_paper("--store", store.uri, "--format", "csv")
    rows = list(csv.DictReader(out.splitlines()))
    assert (list(rows[0]), len(rows)) == (BESIDE.names, len(figures()))
