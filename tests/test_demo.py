"""The demo's stories: who knows what, which labels are wrong, and that the files say so."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from bikd_pipelines import demo
from bikd_pipelines.demo import (
    CHEAP,
    EXPERT,
    SCENE_LESSONS,
    SEGMENTATION,
    STORIES,
    ZOO,
    cheap_labels,
    prepare_demo,
)
from bikd_ray.data.sources import open_images
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import DigitsData
from bikd_ray.tasks import DEFAULT

TRAIN = DigitsData(source="digits", split="train")
DIGITS = [name for name, told in STORIES.items() if told.task == DEFAULT]
BEGINNERS = [name for name in ZOO if name != EXPERT]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Path]:
    """A folder with both stories, whose first lessons are of one epoch for all these tests."""
    one = demo.FIRST_LESSONS.model_copy(update={"epochs": 1})
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "FIRST_LESSONS", one)
        patch.setattr(demo, "OTHER_LESSONS", {})
        for story in DIGITS:
            prepare_demo(str(folder), story)
        yield folder


@pytest.mark.parametrize("draw", [0, 1])
def test_of_a_thousand_cheap_labels_450_are_wrong_and_each_wrong_digit_is_as_likely(draw):
    truth_N = np.arange(1000) % 10
    cheap_N = cheap_labels(truth_N, draw)
    wrong_N = cheap_N != truth_N
    assert wrong_N.sum() == 450
    assert set(cheap_N) == set(range(10))
    off = np.bincount((cheap_N - truth_N)[wrong_N] % 10, minlength=10)
    assert off[0] == 0
    assert 25 < off[1:].min() <= off[1:].max() < 75  # 50 each, within 3.7 standard deviations
    assert np.array_equal(truth_N, np.arange(1000) % 10)  # what was given is left as it is


def test_another_draw_spoils_other_images():
    truth_N = np.arange(200) % 10
    first, second = cheap_labels(truth_N, 0), cheap_labels(truth_N, 1)
    assert np.array_equal(first, cheap_labels(truth_N, 0))
    assert not np.array_equal(first != truth_N, second != truth_N)


def test_the_expert_knows_a_half_and_each_beginner_a_tenth_and_the_sweep_has_the_rest():
    count = len(open_images(TRAIN).labels)
    share = {name: set(STORIES[CHEAP].share(name, count)) for name in ZOO}
    assert len(share[EXPERT]) == 450
    assert [len(share[name]) for name in BEGINNERS] == [90, 90, 90]
    assert all(share[name] < share[EXPERT] for name in BEGINNERS)
    assert not any(share[a] & share[b] for a, b in combinations(BEGINNERS, 2))
    assert not share[EXPERT] & set(range(1, count, 2))


def test_the_control_story_gives_each_model_a_quarter():
    rows = [row for name in ZOO for row in STORIES["control"].share(name, 899)]
    assert sorted(rows) == list(range(899))


def test_the_sweep_reads_the_images_with_their_cheap_labels_and_a_person_reads_the_truth(made):
    spec = load_spec(made / f"{CHEAP}.yaml")
    digits, cheap = open_images(TRAIN), open_images(spec.data.train)
    rows = range(1, 899, 2)
    assert np.array_equal(cheap.labels, cheap_labels(digits.labels[rows]))
    for i, row in enumerate(rows):
        assert np.array_equal(np.asarray(cheap.image(i)), np.asarray(digits.image(row)))
    with (made / CHEAP / "labels.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(line["truth"]) for line in table] == digits.labels[rows].tolist()
    wrong = sum(line["label"] != line["truth"] for line in table)
    assert wrong == 202  # 45% of 449


@pytest.mark.parametrize("story", DIGITS)
def test_a_story_is_an_ordinary_spec_whose_second_reading_teaches_nothing_again(
    made, story, capsys
):
    before = {p: p.read_bytes() for p in made.rglob("*") if p.is_file()}
    assert prepare_demo(str(made), story) == made / f"{story}.yaml"
    assert capsys.readouterr().err == ""
    assert {p: p.read_bytes() for p in made.rglob("*") if p.is_file()} == before
    spec = load_spec(made / f"{story}.yaml")
    assert spec.store == str(made)
    assert [entry.name for entry in spec.zoo] == list(ZOO)


def test_two_stories_share_a_folder_and_no_weights(made):
    weights = [p.read_bytes() for p in made.rglob("*.safetensors")]
    assert len(weights) == len(set(weights)) == 8


def test_lessons_come_out_the_same_every_time(made, tmp_path, capsys):
    prepare_demo(str(tmp_path))
    assert capsys.readouterr().err.count("takes its first lessons") == 4
    for name in ZOO:
        file = f"{CHEAP}/{name}.safetensors"
        assert (tmp_path / file).read_bytes() == (made / file).read_bytes()


def test_the_old_self_teaches_as_softly_as_the_expert_and_every_pair_is_tried(made):
    spec = load_spec(made / f"{CHEAP}.yaml")
    assert {o.name: o.temperature for o in spec.objectives} == {"kd": 4.0, "bikd": 1.0, "self": 4.0}
    zoo, data = resolve(spec)
    jobs = list(all_jobs(spec, zoo, data))
    # 12 students, 6 pairs, 4 old selves and 4 controls
    assert len(jobs) == (12 + 6 + 4 + 4) * len(spec.seeds)


def test_three_networks_see_clips_differently_and_each_knows_a_third_of_the_videos(
    tmp_path, monkeypatch
):
    one = demo.CLIP_LESSONS.model_copy(update={"epochs": 1})
    monkeypatch.setattr(demo, "CLIP_LESSONS", one)
    told = STORIES[demo.SALIENCY]
    assert sorted(row for name in told.zoo for row in told.share(name, 60)) == list(range(60))
    spec = load_spec(prepare_demo(str(tmp_path), demo.SALIENCY))
    zoo, data = resolve(spec)
    assert [model.input.view.shape for model in zoo.values()] == [
        (3, 64, 96),
        (3, 4, 64, 96),
        (3, 8, 32, 48),
    ]
    assert (data.n_train, data.n_val) == (60, 200)
    # 3 pairs, all three and 3 controls
    assert len(all_jobs(spec, zoo, data)) == 7 * len(spec.seeds)


def test_networks_of_two_families_learn_scenes_of_which_each_sees_half(tmp_path, monkeypatch):
    told = STORIES[SEGMENTATION]
    few = told.taught.model_copy(update={"count": 8})
    one = {name: recipe.model_copy(update={"epochs": 2}) for name, recipe in SCENE_LESSONS.items()}
    short = replace(told, taught=few, lessons=one.__getitem__)
    monkeypatch.setitem(STORIES, SEGMENTATION, short)
    spec = load_spec(prepare_demo(str(tmp_path), SEGMENTATION))
    assert spec.task == "segmentation"
    assert [entry.name for entry in spec.zoo] == list(told.zoo)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    shares = [set(told.share(name, 8).tolist()) for name in told.zoo]
    assert [len(share) for share in shares] == [4] * 4
    assert set.union(*shares) == set(range(8))
    zoo, data = resolve(spec)
    assert data.n_val == 400
    assert len({model.loss for model in zoo.values()}) == 2
