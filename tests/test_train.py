"""The K-model loop, without Ray: against plain loops, and bit for bit where that is promised."""

import dataclasses
import random
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bikd_ray.data.sources import open_images
from bikd_ray.plan import ResolvedInput, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.sweep.events import EpochEnd, Heartbeat, JobRequest, JobResult
from bikd_ray.sweep.job import run_job
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import measured
from bikd_ray.train import NonFiniteLoss
from bikd_ray.zoo import build
from tests.answers import statistics
from tests.failing import BadGradient
from tests.jobs import result_of
from tests.plain_loop import (
    CPU,
    NAMES,
    assert_equal,
    inputs,
    job_of,
    networks_of,
    noisy_zoo,
    run,
    states,
    whole,
)


@pytest.fixture
def tiny(spec_file):
    """Jobs of a spec, by their members' names and seed."""

    def jobs(**changes):
        spec = load_spec(spec_file(**changes))
        found = all_jobs(spec, *resolve(spec))
        return {(frozenset(j.names), j.seed): j for j in found}

    return jobs


def messages(order: JobRequest) -> tuple[list[EpochEnd], JobResult]:
    """What a worker says of a job: its epochs, and the end."""
    *said, end = run_job(order, CPU)
    assert isinstance(end, JobResult)
    epochs = [message for message in said if isinstance(message, EpochEnd)]
    assert len(epochs) == len(said)
    return epochs, end


def test_a_job_is_the_same_bit_for_bit_when_run_again_and_after_another(tiny):
    jobs = tiny()
    a, b = jobs[frozenset({"small", "medium"}), 0], jobs[frozenset({"small", "large"}), 1]
    first = states(run(a)[1])
    run(b)
    torch.rand(17)
    for one, two in zip(first, states(run(a)[1]), strict=True):
        assert_equal(one, two)


COLOURS = [[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 60]]
"""Of the four classes in conftest.py."""


class ByColour(nn.Module):
    """Knows the class by the mean colour, and with `scale` < 0 believes in it least of all."""

    def __init__(self, how: ResolvedInput, scale: float) -> None:
        super().__init__()
        self.how, self.scale = how, scale
        self.bias = nn.Parameter(torch.zeros(len(COLOURS)))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = torch.tensor(self.how.mean), torch.tensor(self.how.std)
        colour_B3 = (x.mean((2, 3)) * std + mean) * 255
        return self.bias - self.scale * torch.cdist(colour_B3, torch.tensor(COLOURS, dtype=x.dtype))


class Draws(nn.Module):
    """Noise from every library that has a stream of its own, as a custom network's depth may."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        z = self.network(x)
        noise = torch.rand(1) + random.random() + np.random.rand()
        return z * (1 + 0.1 * noise.to(z)) if self.training else z


TWO_EPOCHS = {"epochs": 2, "batch_size": 16, "lr": 1e-2}


def alone(spec_file, recipe):
    job = job_of(spec_file, ["small"], {"name": "ce"}, zoo=noisy_zoo(), recipe=recipe)
    return states(run(job, networks_of(job, Draws))[1])[0]


@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"optimizer": "sgd", "schedule": "poly", "clip_norm": 0.5, "ema": 0.9},
    ],
    ids=str,
)
def test_a_model_that_no_partner_ever_teaches_trains_bit_for_bit_as_its_control(
    spec_file, recipe, members
):
    """Its partners draw random numbers, believe least in every true class, and do learn."""
    recipe = {**TWO_EPOCHS, **recipe}
    job = job_of(spec_file, NAMES[:members], {"name": "bikd"}, zoo=noisy_zoo(), recipe=recipe)
    networks = [
        network if model.name == "small" else Draws(ByColour(model.input, -0.1))
        for model, network in zip(job.members, networks_of(job, Draws), strict=True)
    ]
    rows, done = run(job, networks)
    small = job.names.index("small")
    assert [row[small].teacher_share for row in rows[1:]] == [1, 1]
    assert_equal(states(done)[small], alone(spec_file, recipe))
    for k, state in enumerate(states(done)):
        assert k == small or not torch.equal(state["network.bias"], torch.zeros(4))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_lesson_of_no_weight_disturbs_nobody_under_augmentation_either(spec_file, weight):
    recipe = {**TWO_EPOCHS, "augment": "timm"}
    objective = {"name": "bikd", "kl_weight": weight}
    job = job_of(spec_file, NAMES[:2], objective, zoo=noisy_zoo(), recipe=recipe)
    end = states(run(job, networks_of(job, Draws))[1])[job.names.index("small")]
    expected = alone(spec_file, recipe)
    assert all(torch.equal(end[n], expected[n]) for n in end) == (weight == 0)


def test_models_see_the_same_images_each_in_its_own_size_and_normalisation(tiny):
    zoo = [
        {"factory": "tests.conftest:net", "alias": "a", "input": {"size": 8, "crop_pct": 1.0}},
        {"factory": "tests.conftest:net", "alias": "b", "kwargs": {"width": 5},
         "input": {"size": 9, "crop_pct": 0.8, "mean": [0, 0, 0], "std": [1, 1, 1]}},
    ]  # fmt: skip
    job = tiny(zoo=zoo)[frozenset("ab"), 0]
    rows, _ = run(job)
    sizes = {m.input.view.size for m in job.members}
    assert sizes == {8, 9}
    assert len(rows) == 3
    assert all(np.isfinite(r.loss) and np.isfinite(r.kl) for r in rows[-1])


def test_an_epochs_row_is_the_mean_over_its_samples_whatever_the_batches(spec_file):
    """Batches of 25, 25 and 12 under a rate too small to change anything: then all 62 at once."""
    recipe = {"epochs": 1, "batch_size": 25, "optimizer": "sgd", "lr": 1e-30}
    objective = {"name": "bikd", "ce_weight": 0.5, "kl_weight": 2.0}
    job = job_of(spec_file, NAMES[:2], objective, recipe=recipe)
    networks = networks_of(job)
    images = open_images(job.data.data.train)
    labels, everything = torch.from_numpy(images.labels), np.arange(62)
    with torch.no_grad():
        x = [inputs(job, images, model, 1, everything) for model in job.members]
        z = [network(pixels) for network, pixels in zip(networks, x, strict=True)]
    log_p = [logits.log_softmax(-1) for logits in z]
    ce = [-p[everything, labels] for p in log_p]
    teaches = [ce[0] < ce[1], ce[0] >= ce[1]]
    right = [logits.argmax(-1) == labels for logits in z]
    rows, done = run(job, networks)
    for k, row in enumerate(rows[1]):
        student, teacher = ~teaches[k], 1 - k
        kl = (log_p[teacher].exp() * (log_p[teacher] - log_p[k])).sum(-1)[student].sum() / 62
        shares = {
            "teacher_share": teaches[k],
            "case1": student & right[k] & right[teacher],
            "case2": student & ~right[k] & right[teacher],
            "case3": student & ~right[k] & ~right[teacher],
            "case4": student & right[k] & ~right[teacher],
        }
        expected = {
            "score": done.chosen["last"][k].outcome.values["top1"],
            "train_score": 100 * right[k].double().mean().item(),
            "train_loss": (0.5 * ce[k].mean() + 2 * kl).item(),
            "loss": ce[k].mean().item(),
            "kl": kl.item(),
            **{name: share.double().mean().item() for name, share in shares.items()},
        }
        measured = {name: getattr(row, name) for name in expected}
        assert measured == pytest.approx(expected, rel=1e-9)
    assert rows[0][0].train_loss is None


class Scripted(nn.Module):
    """Right or wrong by the number of training steps it has seen, and by the size of the set."""

    def __init__(self, how: ResolvedInput, right: dict[int, set[int]]) -> None:
        super().__init__()
        self.network, self.right = ByColour(how, 1.0), right
        self.register_buffer("age", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.age += 1
        right = int(self.age) in self.right.get(len(x), set())
        return self.network(x) * (1 if right else -1)


def test_every_selection_keeps_its_epoch_for_each_member_by_itself(spec_file, images):
    """One step an epoch; 40 images are val and 16 are held out of train."""
    source = {"source": "parquet", "path": str(images / "train.parquet")}
    data = {"train": source, "val": {**source, "path": str(images / "val.parquet")},
            "select_fraction": 0.25}  # fmt: skip
    recipe = {"epochs": 4, "batch_size": 62, "lr": 1e-9}
    job = job_of(spec_file, NAMES[:2], {"name": "bikd"}, data=data, recipe=recipe)
    first, second = (member.input for member in job.members)
    networks = [
        Scripted(first, {40: {2, 3}, 16: {1, 4}}),  # of equal epochs the first
        Scripted(second, {40: {0, 4}, 16: set()}),  # right when untouched; wrong throughout
    ]
    rows, done = run(job, networks)
    assert [row[0].score for row in rows] == [0, 0, 100, 100, 0]
    assert [row[0].select_score for row in rows] == [0, 100, 0, 0, 100]
    chosen = {name: [c.epoch for c in found] for name, found in done.chosen.items()}
    assert chosen == {"last": [4, 4], "best_val": [2, 0], "best_select": [1, 0]}
    for found in done.chosen.values():
        assert [int(whole(c.state)["age"]) for c in found] == [c.epoch for c in found]
    top1 = {name: [c.outcome.values["top1"] for c in found] for name, found in done.chosen.items()}
    assert top1 == {"last": [0, 100], "best_val": [100, 100], "best_select": [0, 100]}
    assert_equal(done.chosen["best_val"][1].state, networks[1].state_dict())


class FailsAt(nn.Module):
    """Answers `value` from one training step on."""

    def __init__(self, network: nn.Module, step: int, value: float) -> None:
        super().__init__()
        self.network, self.step, self.value = network, step, value

    def forward(self, x: Tensor) -> Tensor:
        self.step -= self.training
        return self.network(x) * (self.value if self.training and self.step < 0 else 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("culprit", "setting"),
    [("small", "0.01; try a lower recipe.lr"), ("medium", "0.003; try a lower recipe.lrs.medium")],
)
def test_a_loss_that_is_not_finite_is_blamed_on_the_model_whose_it_is(
    spec_file, culprit, setting, value
):
    """It teaches the others (NaN is more than any number), whose losses fail with it."""
    recipe = {**TWO_EPOCHS, "lrs": {"medium": 3e-3}}
    job = job_of(spec_file, NAMES, {"name": "dml"}, recipe=recipe)
    networks = [
        FailsAt(network, 5, value) if name == culprit else network
        for name, network in zip(job.names, networks_of(job, lambda n: n), strict=True)
    ]
    with pytest.raises(NonFiniteLoss) as error:
        run(job, networks)
    assert str(error.value) == (
        f"the loss of {culprit} became NaN or infinite at step 5 (epoch 2) with lr {setting}"
    )


def test_weights_that_an_epochs_last_step_spoils_are_not_measured(spec_file):
    recipe = {**TWO_EPOCHS, "batch_size": 62}
    job = job_of(spec_file, NAMES[:1], {"name": "ce"}, recipe=recipe)
    with pytest.raises(NonFiniteLoss, match=r"^the weights of small .* at step 0 \(epoch 1\)"):
        run(job, [BadGradient()])


def test_a_job_whose_loss_is_not_finite_is_stored_as_failed_with_step_member_and_rate(tiny):
    recipe = {"epochs": 2, "batch_size": 16, "lr": 1e38, "optimizer": "sgd"}
    job = tiny(recipe=recipe)[frozenset({"small", "medium"}), 0]
    epochs, end = messages(JobRequest(job, "tiny", "/nowhere"))
    assert [(e.epoch, e.epochs) for e in epochs] == [(0, 2)]
    assert (end.job["status"], end.results) == ("failed", [])
    error = r"the loss of \w+ became NaN or infinite at step \d \(epoch 1\) with lr 1e\+38;"
    assert re.match(error, end.error or "")


def test_a_job_yields_its_epochs_and_then_the_rows_to_store(tiny, tmp_path):
    job = tiny()[frozenset({"small", "medium"}), 0]
    epochs, end = messages(JobRequest(job, "tiny", str(tmp_path), ("last",)))
    assert [(e.epoch, e.epochs) for e in epochs] == [(e, 2) for e in (0, 1, 2)]
    assert [row["epoch"] for e in epochs for row in e.rows] == [0, 0, 1, 1, 2, 2]
    assert end.error is None
    assert [(r["model"], r["selection"], r["metric"]) for r in end.results] == [
        (name, s, metric)
        for s in ("last", "best_val")
        for name in job.names
        for metric in ("top1", "top5", "nll", "ece")
    ]
    for row in end.results:
        assert row["delta"] == pytest.approx(row["after"] - row["before"])
        assert (row["bits"] is None) == (row["metric"] in ("nll", "ece")) != (row["scores"] is None)
        if row["scores"]:
            assert np.frombuffer(row["scores"], "<f4").mean() == pytest.approx(row["after"])
            continue
        assert row["delta"] == pytest.approx(100 * (row["gained"] - row["lost"]) / row["n"])
        assert (row["p_value"] is None) == (row["selection"] == "best_val")
    kept = [r["weights"] for r in end.results if r["weights"] and r["metric"] == "top1"]
    assert len(kept) == 2
    from safetensors.torch import load_file

    after = build(job.members[0].entry)
    after.load_state_dict(load_file(tmp_path / kept[0]))


def test_weights_that_changed_since_the_plan_are_refused(tiny, tmp_path):
    job = tiny()[frozenset({"small"}), 0]
    stale = dataclasses.replace(job.members[0], weights_id="0" * 16)
    _, end = messages(JobRequest(dataclasses.replace(job, members=(stale,)), "t", str(tmp_path)))
    assert "its checkpoint changed" in (end.error or "")


def test_metrics_equal_plain_definitions():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(500, 12, generator=g) * 2
    y = torch.randint(12, (500,), generator=g)
    values = measured(task_of(), statistics(z, y)).values
    p = z.softmax(-1)
    assert values["top1"] == pytest.approx(100 * (z.argmax(-1) == y).float().mean().item())
    top5 = sum(y[i] in z[i].topk(5).indices for i in range(500)) / 5
    assert values["top5"] == pytest.approx(top5)
    assert values["nll"] == pytest.approx(cross_entropy(z, y).item(), rel=1e-6)
    confidence, right = p.max(-1).values, z.argmax(-1) == y
    ece = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            gap = right[inside].float().mean() - confidence[inside].mean()
            ece += inside.float().mean().item() * abs(gap.item())
    assert values["ece"] == pytest.approx(ece, abs=1e-6)


def test_a_tie_of_classes_goes_to_the_lowest_as_argmax_has_it():
    found = statistics(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    assert found["predicted"].tolist() == [0, 0, 0]
    assert found["top_classes"].tolist() == [[0, 1, 2, 3]] * 3


def test_a_long_epoch_says_how_far_it_is(tiny):
    job = tiny(recipe={"epochs": 2, "batch_size": 10})[frozenset({"small", "large"}), 0]
    plain = result_of(JobRequest(job, "tiny", "/nowhere"))
    request = JobRequest(job, "tiny", "/nowhere")
    *told, end = run_job(request, CPU, heartbeat=0.0, log_every=2)
    assert [m.epoch for m in told if isinstance(m, EpochEnd)] == [0, 1, 2]
    beats = [m for m in told if isinstance(m, Heartbeat)]
    assert [m.epoch for m in beats] == sorted(m.epoch for m in beats)
    assert {int(m.epoch) for m in beats[:-1]} == {0, 1}
    assert len(beats) > 2
    assert isinstance(end, JobResult)
    assert [row["bits"] for row in end.results] == [row["bits"] for row in plain.results]
