"""Specs, pairings and identities: what is asked, and when two askings are the same."""

import dataclasses

import pytest

from bikd_ray.errors import UserError, choices
from bikd_ray.identity import canonical, derived_seed, digest
from bikd_ray.plan import (
    all_jobs,
    pairings,
    plan,
)
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import Objective, Pairings
from tests.plans import DIGITS, jobs_of, resolved, spec_of


def test_all_pairings_of_a_zoo_each_once():
    assert pairings("abcd", Pairings()) == [tuple(p) for p in ("ab", "ac", "ad", "bc", "bd", "cd")]
    assert len(pairings("abcd", Pairings(size=3))) == 4


def test_anchored_pairings_hold_an_anchor():
    got = pairings("abcd", Pairings(mode="anchors", models=("a", "c")))
    assert got == [tuple(p) for p in ("ab", "ac", "ad", "bc", "cd")]


def test_listed_pairings_are_sets_in_the_order_of_the_zoo():
    spec = spec_of(pairings={"list": [["b", "a"], ["a", "b"], ["c", "a", "b"]]})
    assert pairings("abc", spec.pairings) == [("a", "b"), ("a", "b", "c")]


def test_a_sweep_is_all_pairings_and_a_control_for_each_model_and_seed():
    jobs = jobs_of(spec_of("abcd"))
    assert len(jobs) == 3 * (6 + 4)
    assert sum(job.role == "control" for job in jobs) == 12
    assert len({job.job_id for job in jobs}) == 30
    assert [j.seed for j in jobs] == sorted(j.seed for j in jobs)


def test_without_controls_there_are_none():
    assert not any(job.role == "control" for job in jobs_of(spec_of(controls=False)))


def test_identity_is_the_science_and_not_the_machine_the_name_or_the_order():
    base = {job.job_id for job in jobs_of(spec_of())}
    same = [
        spec_of("cab"),
        spec_of(name="other"),
        spec_of(store="/elsewhere"),
        spec_of(resources={"cpus_per_job": 7, "keep_weights": "none"}),
        spec_of(selection="best_val"),
        spec_of(data={**DIGITS, "cache": "none"}),
    ]
    for spec in same:
        assert {job.job_id for job in jobs_of(spec)} == base
    for recipe in ({"lr": 2e-6}, {"epochs": 3}, {"batch_size": 64}, {"precision": "bf16"}):
        assert not {job.job_id for job in jobs_of(spec_of(recipe=recipe))} & base
    hot = jobs_of(spec_of(objectives=[{"name": "bikd", "temperature": 2}]))
    assert {j.job_id for j in hot} & base == {j.job_id for j in hot if j.role == "control"}
    assert not {j.job_id for j in jobs_of(spec_of(data={**DIGITS, "select_fraction": 0.1}))} & base


def test_an_alias_is_not_part_of_a_job_but_its_weights_are():
    spec = spec_of("ab")
    zoo, data = resolved(spec)
    renamed = {f"{n}2": m for n, m in zoo.items()}
    ids = {j.job_id for j in all_jobs(spec, zoo, data)}
    assert {j.job_id for j in all_jobs(spec, renamed, data)} == ids
    zoo["a"] = dataclasses.replace(zoo["a"], model_id="other")
    assert len({j.job_id for j in all_jobs(spec, zoo, data)} & ids) == 3  # b's controls


def test_a_model_added_to_n_costs_n_pairings():
    before = {j.job_id for j in jobs_of(spec_of("abcd"))}
    new = [j for j in jobs_of(spec_of("abcde")) if j.job_id not in before]
    assert sum(j.role != "control" for j in new) == 3 * 4
    assert sum(j.role == "control" for j in new) == 3


def test_what_is_done_is_not_planned_again_and_failures_only_when_asked():
    jobs = jobs_of(spec_of("ab", seeds=[0]))
    done, failed = {jobs[0].job_id}, {jobs[1].job_id: "boom"}
    got = plan(jobs, done, failed)
    assert list(got) == [jobs[2]]
    assert len(got) == 1
    assert (got.done, got.failed, got.errors) == ((jobs[0],), (jobs[1],), failed)
    again = plan(jobs, done, failed, retry_failed=True)
    assert list(again) == [jobs[1], jobs[2]]
    assert again.failed == ()


def test_objective_labels_name_what_differs():
    assert Objective().label == "bikd"
    assert Objective(temperature=2.0, ties="drop").label == "bikd(temperature=2.0, ties=drop)"


def test_digests_are_stable_and_refuse_what_has_no_stable_form():
    assert digest({"a": 1, "b": (1.0, None)}) == digest({"b": [1, None], "a": 1})
    assert digest(1) == "080a9ed428559ef6"
    assert canonical(0.1) == "0.1"
    assert derived_seed(1, "order", 2) < 2**63
    for bad in ({1, 2}, b"x", float("nan"), object()):
        with pytest.raises(TypeError):
            digest({"kwargs": bad})


def test_the_spec_of_the_design_reads_with_its_defaults_and_short_forms(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        """
name: paper-table-2
zoo:
  - timm: pit_b_224.in1k
    alias: PiT-B
  - timm: vit_base_patch16_224
    kwargs: {global_pool: avg, drop_path_rate: 0.1}
    checkpoint: s3://bucket/mae_finetuned_vit_base.pth
    alias: MAE
  - factory: my_models.resnet:build
    kwargs: {depth: 20}
    checkpoint: weights/r20.safetensors
    input: {size: 32, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], crop_pct: 1.0}
data:
  train: {source: folder, path: /data/imagenet/train}
  val: {source: parquet, path: "s3://bucket/in1k/val-*.parquet"}
  num_classes: 1000
objectives: [bikd]
"""
    )
    spec = load_spec(path)
    assert spec.entry("PiT-B").timm == "pit_b_224.in1k"
    papers = {
        "epochs": 20,
        "batch_size": 128,
        "optimizer": "adam",
        "lr": 1e-6,
        "weight_decay": 1e-5,
        "schedule": "none",
        "augment": "none",
        "precision": "fp32",
        "train_fraction": 1.0,
    }
    assert spec.recipe.model_dump() == spec.recipe.model_dump() | papers
    assert spec.seeds == (0, 1, 2)
    assert spec.objectives == (Objective(),)
    assert spec.zoo[1].checkpoint == "s3://bucket/mae_finetuned_vit_base.pth"
    assert spec.zoo[2].checkpoint == str(tmp_path / "weights/r20.safetensors")


def test_choices_name_the_nearest():
    assert choices("bi-kd", ["ce", "bikd"]) == "choose from bikd, ce (did you mean 'bikd'?)"
    many = [f"model{i}" for i in range(100)]
    assert "did you mean 'model7'" in choices("modle7", many)


def test_a_spec_with_one_objective_name_may_leave_the_list_out():
    assert spec_of(objectives="bikd").objectives == (Objective(),)
    with pytest.raises(UserError, match="did you mean 'bikd'"):
        spec_of(objectives="bikdd")
