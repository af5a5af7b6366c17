"""Video saliency as a task: what a step, an evaluation and a store see of it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bikd_ray.analysis.clustered import ClusterSums, pseudo_values, ratios_of_parts
from bikd_ray.analysis.scores import Scores, stored
from bikd_ray.errors import UserError
from bikd_ray.plan import Window, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.specs import Objective, ZooEntry
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import measured
from bikd_ray.tasks.saliency import METRICS
from bikd_ray.train import fit
from bikd_ray.train.step import _joint
from bikd_ray.zoo import build, resolve_model
from tests.clip_specs import ZOO, spec_of

VECTORS = json.loads((Path(__file__).parent / "data" / "saliency-vectors.json").read_text())
LOSSES = {case["name"]: case for case in VECTORS["loss"]}
SALIENCY = task_of("saliency")
CPU = torch.device("cpu")

# Learning


@pytest.mark.parametrize("ties", ["first", "last", "drop"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_steps_loss_gradients_and_teachers_equal_the_vectors(name, ties):
    case = LOSSES[name]
    truth = torch.tensor(case["gt_BHW"], dtype=torch.float64)
    maps = torch.tensor(case["pred_KBHW"], dtype=torch.float64, requires_grad=True)
    batch: Any = SimpleNamespace(target={"truth": truth}, index=torch.arange(len(truth)))
    predictions = [SALIENCY.predict(one, batch) for one in maps]
    losses = [
        SALIENCY.loss(one, found, batch) for one, found in zip(maps, predictions, strict=True)
    ]
    cut = [type(found)(found.log_prob_BEP.detach()) for found in predictions]
    found, _, gradients = _joint(
        SALIENCY, Objective(ties=ties), cut, [loss.detach() for loss in losses], len(maps), batch
    )
    roots = [
        (root, gradient)
        for one, loss, pair in zip(predictions, losses, gradients, strict=True)
        for root, gradient in zip((one.log_prob_BEP, loss), pair, strict=True)
        if gradient is not None
    ]
    torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
    want = case["by_ties"][ties]
    assert found.teacher.tolist() == want["teacher_B"]
    assert float(found.total.detach()) == pytest.approx(want["detached"]["total"], rel=1e-10)
    wanted = torch.tensor(want["detached"]["grad_KBHW"], dtype=torch.float64)
    assert maps.grad is not None
    assert_close(maps.grad, wanted, rtol=1e-10, atol=1e-12)


def batch_of(truth: torch.Tensor) -> Any:
    return SimpleNamespace(target={"truth": truth}, index=torch.arange(len(truth)))


def test_an_empty_and_a_bright_truth_give_a_finite_loss_and_the_empty_one_none():
    truth = torch.rand(2, 8, 8) * 255
    truth[0] = 0
    batch, maps = batch_of(truth), torch.rand(2, 8, 8, requires_grad=True)
    found = SALIENCY.predict(maps, batch)
    loss_B = SALIENCY.loss(maps, found, batch)
    loss_B.sum().backward()
    assert loss_B[0] == 0
    assert loss_B.isfinite().all()
    assert maps.grad is not None
    assert not maps.grad[0].any()
    assert maps.grad[1].isfinite().all()
    assert not SALIENCY.confidence(found, loss_B, batch)[0] > -torch.inf


def test_maps_in_half_precision_are_compared_in_float32():
    truth = torch.rand(2, 8, 12)
    maps = torch.rand(2, 4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = SALIENCY.predict(maps, batch_of(truth))
        loss_B = SALIENCY.loss(maps, found, batch_of(truth))
    assert found.log_prob_BEP.dtype == torch.float32
    plain = SALIENCY.predict(maps, batch_of(truth))
    assert_close(loss_B, SALIENCY.loss(maps, plain, batch_of(truth)))
    assert SALIENCY.predict(maps.bfloat16(), batch_of(truth)).log_prob_BEP.dtype == torch.float32


def test_three_models_with_other_windows_learn_together_and_are_measured():
    spec = spec_of(pairings={"size": 3})
    zoo, data = resolve(spec)
    assert (data.n_train, data.n_val) == (6, 15)
    job = next(job for job in all_jobs(spec, zoo, data) if len(job.members) == 3)
    told: list[Any] = list(fit(job, [build(m.entry) for m in job.members], CPU))
    *rows, done = told
    assert [len(epoch) for epoch in rows] == [3, 3]
    taught = [row.teacher_share for row in rows[1]]
    assert sum(taught) == pytest.approx(1)
    for chosen in done.chosen["last"]:
        assert set(chosen.outcome.values) == {metric.name for metric in METRICS}
        assert all(len(score) == 5 for score in chosen.outcome.scores.values())
    again: list[Any] = list(fit(job, [build(m.entry) for m in job.members], CPU))
    assert again[-1].chosen["last"][0].outcome.values == done.chosen["last"][0].outcome.values


def test_held_out_videos_choose_the_epoch():
    held = {**spec_of().data.model_dump(exclude_none=True), "select_fraction": 0.3}
    spec = spec_of(ZOO[:2], data=held)
    zoo, data = resolve(spec)
    job = next(job for job in all_jobs(spec, zoo, data) if len(job.members) == 1)
    told: list[Any] = list(fit(job, [build(m.entry) for m in job.members], CPU))
    *rows, _ = told
    assert all(row.select_score is not None for epoch in rows for row in epoch)


# Measuring


def statistics(values: list[list[float]], lacking: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """Of frames whose every metric has these values, a list a video."""
    value_N = np.concatenate([np.array(v) for v in values]).astype(np.float32)
    unit_N = np.repeat(np.arange(len(values)), [len(v) for v in values])
    known = ~np.isin(np.arange(len(value_N)), lacking)
    found = {metric.name: np.where(known, value_N, 0) for metric in METRICS}
    flags = {f"known_{metric.name}": known for metric in METRICS}
    return {**found, **flags, "unit": unit_N}


def test_frames_weigh_equally_and_those_without_a_value_are_left_out():
    found = measured(SALIENCY, statistics([[0.1, 0.2, 0.9], [0.6]], lacking=(2,)))
    assert found.values["cc"] == pytest.approx(0.3)
    assert found.sums["cc"] == pytest.approx(np.array([[0.3, 0.6], [2, 1]]))
    assert len(found.scores["cc"]) == 2


def test_no_fixations_at_all_are_no_nss_and_are_said():
    frames = statistics([[0.1, 0.2], [0.3]])
    frames["known_nss"] = frames["known_auc_j"] = np.zeros(3, bool)
    found = measured(SALIENCY, frames)
    assert np.isnan(found.values["nss"])
    assert found.values["cc"] == pytest.approx(0.2)
    assert SALIENCY.doubt(frames) == "3 of 3 frames have no fixation: out of NSS and AUC-J"
    frames["known_cc"] = np.array([False, True, True])
    said = SALIENCY.doubt(frames)
    assert said is not None
    assert said.endswith("; 1 of 3 frames have no map: out of CC, SIM and KLDiv")


def test_a_single_video_has_its_metric_and_no_spread():
    assert pseudo_values(np.array([[0.6], [2.0]])) == pytest.approx(np.array([0.3]))


def test_a_video_without_a_value_moves_nothing():
    scores = pseudo_values(np.array([[0.6, 0.4, 0.0], [2.0, 4.0, 0.0]]))
    assert scores.mean() == pytest.approx(1 / 6)
    assert scores[2] == pytest.approx(scores.mean(), abs=0.1)


def test_halves_of_the_videos_have_the_metric_of_their_own_frames():
    rng = np.random.default_rng(0)
    values = [rng.random(n).tolist() for n in (1, 9, 4, 6)]
    metric = METRICS[0]
    found = measured(SALIENCY, statistics(values))
    row = stored(found.scores["cc"], metric, found.sums["cc"])
    assert row["sums"] is not None
    parts = ratios_of_parts([row["sums"]], 4)
    half = np.array([[True, False, True, False]])
    assert parts(half)[0, 0] == pytest.approx(np.mean(values[0] + values[2]), rel=1e-6)
    assert np.isnan(parts(np.zeros((1, 4), bool))).all()
    scores = Scores.of([row], 4, metric, parts)
    halves, sizes = scores.in_halves()
    assert np.isfinite(halves).all()
    assert sizes == (1, 1)
    whole = ClusterSums.of(np.concatenate(values), np.repeat(range(4), [1, 9, 4, 6]), 4)
    assert scores.totals[0] / 4 == pytest.approx(whole.mean, rel=1e-5)


# Models


def test_a_published_network_sees_what_it_was_published_with():
    how = SALIENCY.input(ZooEntry(saliency="vinet_a"), torch.nn.Identity())
    assert how.view.shape == (3, 32, 256, 456)
    assert how.window == Window(32, 2, -31)
    assert (how.mean, how.crop_mode) == ((0.45, 0.45, 0.45), "squash")
    window = {"frames": 32, "stride": 2, "first": -31, "phase": -1}
    entry = ZooEntry.model_validate({"saliency": "vinet_a", "input": {"window": window}})
    assert SALIENCY.input(entry, torch.nn.Identity()).window == Window(32, 2, -31, -1)


def test_a_window_ends_with_its_frame_unless_it_says_otherwise():
    how = SALIENCY.input(ZooEntry.model_validate(ZOO[2]), torch.nn.Identity())
    assert how.window is not None
    assert how.window.offsets == (-9, -6, -3, 0)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"input": {}}, "say what it sees"),
        ({"input": {"size": 32, "crop_pct": 0.9}}, "remove crop_pct"),
        ({"factory": "tests.tiny_clip_net:Logits"}, "below 0"),
        ({"factory": "torch.nn:Flatten", "kwargs": {}}, "no trainable parameter"),
        ({"kwargs": {"frames": 9}}, "cannot take samples of 3 x 4 x 32 x 48"),
    ],
)
def test_a_network_that_does_not_fit_is_one_line(changed, said):
    with pytest.raises(UserError, match=said) as caught:
        resolve_model(ZooEntry.model_validate({**ZOO[1], **changed}), SALIENCY)
    assert "\n" not in str(caught.value)


# Specs


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"objectives": [{"name": "bikd", "temperature": 2.0}]}, "has no temperature"),
        ({"data": {"train": {"source": "digits", "split": "train"}}}, "has no videos with maps"),
        ({"task": "classification"}, "no images of classes"),
    ],
)
def test_what_does_not_go_with_videos_is_one_line(changed: dict[str, Any], said: str):
    if "data" in changed:
        changed = {"data": {**spec_of().data.model_dump(exclude_none=True), **changed["data"]}}
    with pytest.raises(UserError, match=said):
        resolve(spec_of(**changed))
