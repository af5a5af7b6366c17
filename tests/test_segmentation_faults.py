"""What goes wrong with segmentation elsewhere: it is refused, named, or does no harm here."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bikd_pipelines.check import check
from bikd_ray.data import open_split
from bikd_ray.data.loader import Loader
from bikd_ray.errors import UserError
from bikd_ray.plan import Job, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.specs import Recipe
from bikd_ray.tasks import task_of
from bikd_ray.tasks.segmentation import LABELS
from bikd_ray.train import Fit, fit
from bikd_ray.train.fit import NonFiniteLoss
from bikd_ray.train.member import Learner, Member
from bikd_ray.train.step import Sources, train_step
from bikd_ray.zoo import build
from tests.scene_nets import TWO, entry, scene_spec

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


def jobs(zoo: list[dict[str, Any]], **changes: Any) -> list[Job]:
    spec = scene_spec(zoo, **changes)
    return all_jobs(spec, *resolve(spec))


def trained(job: Job) -> Fit:
    *_, end = fit(job, [build(m.entry) for m in job.members], CPU)
    assert isinstance(end, Fit)
    return end


@pytest.mark.parametrize("alias", ["pixels", "masks"])
def test_a_loss_that_is_no_number_fails_the_job_with_member_and_step(alias):
    recipe = {"epochs": 1, "batch_size": 8, "lr": 3e-3, "lrs": {alias: 1e30}, "optimizer": "sgd"}
    pair = next(job for job in jobs(TWO, recipe=recipe) if len(job.members) == 2)
    with pytest.raises(
        NonFiniteLoss, match=rf"of {alias} became NaN or infinite at step \d .*1e\+30"
    ):
        trained(pair)


def test_a_batch_without_labels_teaches_nobody_and_counts():
    """Such as crops in which everything is ignored: the task loss is 0 and there is no KL."""
    pair = next(job for job in jobs(TWO) if len(job.members) == 2)
    task = task_of("segmentation").joined(pair.members)

    def lesson(*unlabelled: int) -> Any:
        members = [Member(m, build(m.entry), CPU) for m in pair.members]
        learners = [Learner.of(m, Recipe(lr=1e-3, batch_size=4), 10) for m in members]
        images = open_split(pair.data, "train")
        view = pair.members[0].input.view
        loader = Loader(images, [view], CPU, cache="none", task=task, whole=True)
        (batch,) = loader.batches(np.arange(4), 4)
        for row in unlabelled:
            batch.target[LABELS][row] = 255
        sources = Sources(learners, pair.objective, seed=0, task=task)
        return train_step(sources, batch, 0)

    whole, part, nothing = lesson(), lesson(1, 3), lesson(0, 1, 2, 3)
    assert (whole.teacher_B >= 0).all()
    assert (part.teacher_B >= 0).tolist() == [True, False, True, False]
    assert part.teacher_B[::2].tolist() == whole.teacher_B[::2].tolist()
    assert part.samples == nothing.samples == 4
    assert nothing.teacher_B.tolist() == [-1] * 4
    assert nothing.divergence_K.tolist() == [0, 0]
    assert nothing.supervised_K.isfinite().all()
    pixels = pair.names.index("pixels")
    assert nothing.supervised_K[pixels] == 0
    assert (part.divergence_K > 0).any()
    assert not nothing.failed_K.any()


MANY = """
import resource
import torch
from bikd_ray.data.loader import Loader
from bikd_ray.data.masks import DigitScenes
from bikd_ray.resolve import resolve
from bikd_ray.tasks import task_of
from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.member import Member
from bikd_ray.zoo import build
from tests.scene_nets import TWO, scene_spec

torch.set_num_threads(1)
zoo, _ = resolve(scene_spec(TWO))
task, cpu = task_of("segmentation"), torch.device("cpu")
members = [Member(model, build(model.entry), cpu) for model in zoo.values()]
for count in (50, 500):
    scenes = DigitScenes("val", count, size=48)
    loader = Loader(scenes, [members[0].model.input.view], cpu, cache="none", task=task)
    evaluate(members, loader, task=task, batch_size=25)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_images():
    run = subprocess.run(
        [sys.executable, "-c", MANY], capture_output=True, text=True, check=True, cwd=ROOT
    )
    few, many = map(float, run.stdout.split())
    assert many < few + 10  # MiB; the predicted classes of 450 scenes have 25, their maps 45 each


SINGLE = {"recipe": {"epochs": 1, "batch_size": 1, "lr": 1e-3}}


def checked(tmp_path, zoo: list[dict[str, Any]], **changes: Any) -> list[str]:
    spec = scene_spec(zoo, **changes).model_dump(mode="json", exclude_defaults=True)
    path = tmp_path / "spec.yaml"
    path.write_text(
        yaml.safe_dump({"task": "segmentation", "zoo": zoo, "data": spec["data"], **changes})
    )
    return check(path).problems


@pytest.mark.parametrize(
    "changes", [SINGLE, {"resources": {"micro_batch": 1}}, {"resources": {"micro_batch": 2}}]
)
def test_one_image_at_a_time_is_refused_where_batch_norm_cannot_train_on_it(tmp_path, changes):
    (problem,) = checked(tmp_path, [entry("Pooled", "deep"), TWO[0]], **changes)
    assert problem.startswith("zoo: deep cannot be trained on one sample alone (Expected more than")
    assert problem.endswith("raise them, or set recipe.freeze_batchnorm: true")
    assert "\n" not in problem


def test_one_image_at_a_time_trains_with_frozen_batch_norm(tmp_path):
    frozen = {"recipe": {**SINGLE["recipe"], "freeze_batchnorm": True}}
    assert checked(tmp_path, [entry("Pooled", "deep"), TWO[0]], **frozen) == []
    alone = next(job for job in jobs([entry("Pooled", "deep"), TWO[0]], **frozen)
                 if job.names == ("deep",))  # fmt: skip
    assert np.isfinite(trained(alone).chosen["last"][0].outcome.values["miou"])


def test_a_lone_last_image_joins_the_batch_before_it():
    odd = {"recipe": {"epochs": 1, "batch_size": 23, "lr": 1e-3}}  # of 24
    alone = next(job for job in jobs([entry("Pooled", "deep"), TWO[0]], **odd)
                 if job.names == ("deep",))  # fmt: skip
    assert np.isfinite(trained(alone).chosen["last"][0].outcome.values["miou"])


def test_classes_in_another_order_are_refused_and_in_the_datas_are_not():
    names = ["background", *map(str, range(10))]
    turned = [*names[:3], names[4], names[3], *names[5:]]
    with pytest.raises(UserError, match=r"zoo: odd has class 4 '2', which is class 3 in the data"):
        resolve(scene_spec([entry("Named", "odd", names=turned), TWO[0]]))
    zoo, _ = resolve(scene_spec([entry("Named", "even", names=names), TWO[0]]))
    assert zoo["even"].classes == tuple(names)
