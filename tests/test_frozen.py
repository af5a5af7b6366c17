"""What frozen models say of the train images is computed once, and is what they would say anew."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bikd_ray.data import open_split
from bikd_ray.data.loader import Batch, Loader
from bikd_ray.errors import BikdError
from bikd_ray.plan import Job
from bikd_ray.specs import Resources
from bikd_ray.tasks import task_of
from bikd_ray.tasks.classification import Classification
from bikd_ray.train import Fit, fit
from bikd_ray.train.frozen import kept_answers, kept_bytes, kept_lessons
from bikd_ray.train.member import Member
from tests.placed import run_placed
from tests.plain_loop import CPU, NAMES, assert_close, assert_equal, job_of, networks_of, noisy_zoo

RECIPE = {"epochs": 3, "batch_size": 16, "lr": 1e-2}
OBJECTIVES = [
    ({"name": "kd", "temperature": 2.0}, 3),
    ({"name": "kl_dp"}, 2),
    ({"name": "kl_dp_supervised"}, 3),
    ({"name": "self"}, 1),
]


class Counted(nn.Module):
    """Counts the images that it sees in eval mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.images += 0 if self.training else len(x)
        return self.network(x)


def trained(
    job: Job,
    cache: str,
    networks: list[nn.Module] | None = None,
    *,
    similarity: bool = False,
    **resources: Any,
) -> tuple[list[Any], Fit]:
    """(rows of each epoch, end); float32 as a sweep has it."""
    networks = networks or networks_of(job, lambda network: network)
    how = Resources(frozen_cache=cache, **resources)
    *rows, end = fit(job, networks, CPU, resources=how, similarity=similarity)
    assert isinstance(end, Fit)
    return rows, end


def kept(folder: Path, field: str = "loss") -> list[Path]:
    """What is kept of train ("loss") or of val ("answer")."""
    files = sorted(folder.glob("*.npy"))
    return [path for path in files if field in np.load(path, mmap_mode="r").dtype.names]


@pytest.mark.parametrize(("objective", "members"), OBJECTIVES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_job_is_the_same_whether_its_teachers_are_remembered(
    spec_file, tmp_path, objective, members, precision
):
    """The losses to 1e-6. Dropout and batch normalisation are at work, in two input sizes."""
    recipe = {**RECIPE, "precision": precision}
    job = job_of(spec_file, NAMES[:members], objective, recipe=recipe, zoo=noisy_zoo())
    rows, plain = trained(job, "none")
    for _ in ("computed", "read back"):
        found, end = trained(job, str(tmp_path / "kept"))
        for [a], [b] in zip(found[1:], rows[1:], strict=True):
            assert (a.train_loss, a.kl) == pytest.approx((b.train_loss, b.kl), abs=1e-6)
            assert (a.teacher_share, a.case2) == (b.teacher_share, b.case2)
        assert_close(end.chosen["last"][0].state, plain.chosen["last"][0].state, 1e-4)


def test_where_batches_have_one_shape_it_is_the_same_bit_for_bit(spec_file, tmp_path):
    """Each row of a product then is computed alike: 62 images are one batch of every epoch."""
    recipe = {**RECIPE, "batch_size": 62}
    job = job_of(spec_file, NAMES[:2], {"name": "kl_dp"}, recipe=recipe, zoo=noisy_zoo())
    _, plain = trained(job, "none")
    for _ in ("computed", "read back"):
        _, end = trained(job, str(tmp_path))
        assert_equal(end.chosen["last"][0].state, plain.chosen["last"][0].state)


def test_every_image_is_asked_once_for_all_epochs_seeds_and_jobs(spec_file, tmp_path):
    """Of train's 62 images and of val's 40 by each model that has not been trained."""
    asked = []
    for seed in (0, 1):
        for student, teacher in (NAMES[:2], NAMES[1::-1]):
            job = job_of(
                spec_file, (student, teacher), {"name": "kl_dp"}, recipe=RECIPE, seeds=[seed]
            )
            networks: list[nn.Module] = [
                Counted(network) for network in networks_of(job, lambda network: network)
            ]
            trained(job, str(tmp_path), networks)
            asked.append(tuple(network.images for network in networks))
    val = 40 + 1  # and one to find what reads the features
    after = 3 * 40  # a student is measured after every epoch
    # the first teacher is the second job's student, whose first answers are known
    assert asked == [(62 + val + after, 62 + val), (after, 0), (after, 0), (after, 0)]
    sizes = [np.load(path, mmap_mode="r").nbytes for path in kept(tmp_path)]
    assert sizes == 2 * [kept_bytes((4, 1), 62)]  # as bikd plan says


def test_parts_of_a_batch_find_their_own_images(spec_file, tmp_path):
    job = job_of(spec_file, NAMES[:2], {"name": "kl_dp"}, recipe=RECIPE, zoo=noisy_zoo(norm=False))
    _, plain = trained(job, "none", networks_of(job), micro_batch=5)
    _, end = trained(job, str(tmp_path), networks_of(job), micro_batch=5)
    assert_close(end.chosen["last"][0].state, plain.chosen["last"][0].state)


def test_workers_of_a_job_read_what_one_of_them_computed(spec_file, tmp_path):
    """Two workers that begin together; float64, with a last batch of which one has no sample."""
    recipe = {"epochs": 2, "batch_size": 61, "lr": 1e-2}
    zoo = noisy_zoo(dropout=0.0)
    jobs = [
        job_of(spec_file, names, {"name": "kl_dp"}, recipe=recipe, zoo=zoo)
        for names in (NAMES[:2], NAMES[1:])
    ]
    found = run_placed(list(zip(jobs, ((2, 1), (1, 2)), strict=True)), 2, tmp_path)
    for job, of_ranks in zip(jobs, found, strict=True):
        _, plain = trained(job, "none", networks_of(job))
        assert_close(of_ranks[0]["states"][0], plain.chosen["last"][0].state)


@pytest.mark.parametrize("damage", ["torn", "foreign", "of other models", "empty"])
def test_a_file_that_is_not_what_it_should_be_is_computed_again(spec_file, tmp_path, damage):
    job = job_of(spec_file, NAMES[:2], {"name": "kd"}, recipe=RECIPE)
    _, plain = trained(job, str(tmp_path))
    [path] = kept(tmp_path)
    whole = path.read_bytes()
    if damage == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "of other models":
        other = np.dtype([("log_prob", np.float32, (7, 1)), ("loss", np.float32)])
        np.save(path, np.zeros(62, other))
    else:
        path.write_bytes(b"not an array" if damage == "foreign" else b"")
    _, end = trained(job, str(tmp_path))
    assert path.read_bytes() == whole
    assert_equal(end.chosen["last"][0].state, plain.chosen["last"][0].state)
    assert [p.suffix for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize(("objective", "members"), [({"name": "kl_dp"}, 2), ({"name": "bikd"}, 3)])
def test_what_is_measured_is_the_same_whether_answers_are_remembered(
    spec_file, tmp_path, objective, members
):
    """Before and after, the ensembles and how alike the features are; of two input sizes."""
    job = job_of(spec_file, NAMES[:members], objective, recipe=RECIPE, zoo=noisy_zoo())
    rows, plain = trained(job, "none", similarity=True)
    for _ in ("computed", "read back"):
        found, end = trained(job, str(tmp_path), similarity=True)
        assert [row.score for row in found[0]] == [row.score for row in rows[0]]
        ours, theirs = (
            [*one.before.outcomes, one.before.ensemble, one.ensemble_after] for one in (end, plain)
        )
        for a, b in zip(ours, theirs, strict=True):
            assert a is not None
            assert b is not None
            assert a.statistics.keys() == b.statistics.keys()
            for name, array in a.statistics.items():
                np.testing.assert_allclose(array, b.statistics[name], rtol=1e-5, atol=1e-6)
        assert end.likeness == [
            dataclasses.replace(
                like,
                before=pytest.approx(like.before, rel=1e-4),
                after=pytest.approx(like.after, rel=1e-4),
            )
            for like in plain.likeness
        ]
        assert all(like.before is not None for like in end.likeness)
    sizes = [np.load(path, mmap_mode="r").nbytes for path in kept(tmp_path, "answer")]
    widths = [model.cost.features or 0 for model in job.members]
    assert sorted(sizes) == sorted(kept_bytes((4, 1), 40, width) for width in widths)  # as planned


def test_networks_whose_features_nothing_reads_are_remembered_without(spec_file, tmp_path):
    class Shifted(Counted):
        """Its answers come of no module's own."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0

    job = job_of(spec_file, NAMES[:2], {"name": "kl_dp"}, recipe=RECIPE)
    for asked in (62 + 40 + 1, 0):  # one to look for what reads them
        networks: list[nn.Module] = [Shifted(network) for network in networks_of(job)]
        _, end = trained(job, str(tmp_path), networks, similarity=True)
        assert networks[1].images == asked
        assert end.before.features == (None, None)
    assert {np.load(path)["feature"].shape[1] for path in kept(tmp_path, "answer")} == {0}


def test_views_that_are_drawn_anew_are_not_remembered(spec_file, tmp_path):
    """With augmentation those of train are; val is seen as it is."""
    recipe = {"epochs": 1, "batch_size": 16, "augment": "timm"}
    job = job_of(spec_file, NAMES[:2], {"name": "kd"}, recipe=recipe)
    trained(job, str(tmp_path))
    assert (len(kept(tmp_path, "answer")), len(kept(tmp_path))) == (2, 0)


def test_other_weights_images_precisions_and_rows_are_other_files(spec_file, tmp_path):
    job = job_of(spec_file, NAMES[:2], {"name": "kd"}, recipe={"epochs": 1})
    for changed in (
        {},
        {"recipe": job.recipe.model_copy(update={"precision": "bf16"})},
        {"recipe": job.recipe.model_copy(update={"train_fraction": 0.5})},
        {"data": dataclasses.replace(job.data, data_id="other")},
    ):
        trained(dataclasses.replace(job, **changed), str(tmp_path))
    job = job_of(spec_file, NAMES[::2], {"name": "kd"}, recipe={"epochs": 1})
    trained(job, str(tmp_path))
    assert len(kept(tmp_path)) == 5


def test_a_folder_that_cannot_be_used_is_one_line(spec_file, tmp_path):
    (tmp_path / "file").write_text("")
    job = job_of(spec_file, NAMES[:2], {"name": "kd"}, recipe={"epochs": 1})
    with pytest.raises(BikdError, match=r"cannot keep .* set resources.frozen_cache to another"):
        trained(job, str(tmp_path / "file" / "kept"))


def test_a_task_that_would_keep_lists_is_told_so(spec_file, tmp_path):
    class Lists(Classification):
        def answer(self, output: Any, batch: Batch) -> Any:
            return list(super().answer(output, batch))

    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, recipe={"epochs": 1})
    member = Member(job.live[0], networks_of(job)[0], CPU)
    val = open_split(job.data, "val")

    def images() -> Loader:
        return Loader(val, [member.model.input.view], CPU)

    with pytest.raises(BikdError, match=r"a list, which cannot be kept: let `kept_shape` say"):
        kept_answers(member, job, Lists(), str(tmp_path), images, 64)
    assert not kept(tmp_path)


def test_all_files_together_take_a_quarter_of_the_disk_at_most(spec_file, tmp_path, monkeypatch):
    job = job_of(spec_file, NAMES, {"name": "bikd"}, recipe={"epochs": 1})
    sizes = [kept_bytes((4, 1), 40, model.cost.features or 0) for model in job.members]
    folder, disk = tmp_path / "bikd_ray" / "frozen", 4 * (sum(sizes[:2]) + 500)

    def usage(_: object) -> Any:
        used = sum(path.stat().st_size for path in kept(folder, "answer"))
        return SimpleNamespace(free=disk - used)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("bikd_ray.data.cache.shutil.disk_usage", usage)
    for _ in range(2):
        trained(job, "auto")
        assert len(kept(folder, "answer")) == 2


def test_two_jobs_at_once_compute_it_once(spec_file, tmp_path):
    job = job_of(spec_file, NAMES[:2], {"name": "kd"}, recipe={"epochs": 1, "batch_size": 4})
    together = threading.Barrier(2)

    def asked(_: int) -> int:
        network = Counted(networks_of(job, lambda network: network)[1])
        member = Member(job.teachers[0], network, CPU)

        def images() -> Loader:
            return Loader(train, [member.model.input.view], CPU)

        together.wait()
        assert kept_lessons(member, job, task_of(), np.arange(62), str(tmp_path), images)
        return network.images

    train = open_split(job.data, "train")
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(asked, range(2))) == [0, 62]
