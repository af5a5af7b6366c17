"""What a plan says the val set can tell, where scores are no zeros and ones."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from bikd_pipelines.resolution import resolution_line
from bikd_ray.plan import ResolvedData
from bikd_ray.resolve import resolve
from bikd_ray.store import Store, Writer
from bikd_ray.tasks import task_of
from tests.clip_specs import spec_of
from tests.scene_nets import TWO, scene_spec

N = 12


@pytest.fixture(scope="module")
def data() -> ResolvedData:
    return resolve(scene_spec(TWO))[1]


def scores(model: str) -> np.ndarray:
    rng = np.random.default_rng(ord(model))
    return rng.normal(50, 10, N).astype("f4")


def row(data: ResolvedData, model: str, score_N: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"model": model, "model_id": model, "weights_id": model, "data_id": data.data_id,
            "eval_set": "val", "metric": "miou", "n": N, "value": float(score_N.mean()),
            "scores": score_N.tobytes(), "unit_set_id": "u", **more}  # fmt: skip


@pytest.fixture
def store(data, tmp_path) -> Store:
    writer = Writer(str(tmp_path))
    writer.write_metrics(data.data_id, "segmentation", task_of("segmentation").metrics)
    for model in "abc":
        own = row(data, model, scores(model), seconds=1.0)
        shown = {name: own[name] for name in ("model", "model_id", "weights_id", "data_id")}
        writer.commit_baseline([own], shown | {"resolved": "{}"} | dict.fromkeys(MISSING))
    return Store(str(tmp_path))


MISSING = ("source", "checkpoint", "params", "flops", "input_size", "mean", "std", "crop_pct",
           "interpolation", "licence")  # fmt: skip


def half_width(change_N: np.ndarray) -> float:
    """Of Student's interval of a mean."""
    return float(student.ppf(0.975, N - 1) * change_N.std(ddof=1) / np.sqrt(N))


def test_without_any_baseline_the_plan_says_that_it_cannot_know(data, tmp_path):
    for store in (None, Store(str(tmp_path))):
        line = resolution_line(data, store)
        assert line.endswith("bikd baseline, then plan again, tells it")
        assert "±" not in line


def test_from_baselines_alone_it_is_how_models_differ_in_points_of_miou(data, store):
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    half = np.median([half_width(scores(x) - scores(y).astype("f8")) for x, y in pairs])
    assert resolution_line(data, store) == (
        f"12 val images resolve ±{half:.2f} pp mIoU of one job's Δ with 95% "
        "(by how models differ before any training)"
    )


def test_with_results_it_is_how_scores_changed_and_of_many_some_are_read(data, store, monkeypatch):
    monkeypatch.setattr("bikd_pipelines.resolution.MOST", 3)
    writer, changes = Writer(store.uri), []
    for number in range(5):
        change = np.random.default_rng(number).normal(1, 2, N)
        changes.append(half_width((scores("a") + change).astype("f4") - scores("a").astype("f8")))
        job = {"job_id": f"{number:04d}", "data_id": data.data_id, "status": "done",
               "objective": "ce", "seed": number, "recipe_id": "r", "members": ["a"],
               "member_ids": ["a"]}  # fmt: skip
        result = row(data, "a", (scores("a") + change).astype("f4"), selection="last",
                     job_id=job["job_id"], partners=[], partner_ids=[])  # fmt: skip
        writer.commit_job(job, [result], [])
    line = resolution_line(data, store)
    read = changes[::2]
    assert line == (
        f"12 val images resolve ±{np.median(read):.2f} pp mIoU of one job's Δ with 95% "
        f"(by {len(read)} results)"
    )


VIDEO_METRICS = task_of("saliency").metrics


@pytest.fixture(scope="module")
def videos() -> ResolvedData:
    return resolve(spec_of())[1]


def of_videos(data: ResolvedData, tmp_path, **score_N: np.ndarray) -> Store:
    """Two baselines, the second of which is better by what is given of a metric by name."""
    writer = Writer(str(tmp_path))
    writer.write_metrics(data.data_id, "saliency", VIDEO_METRICS)
    for model, times in (("a", 0), ("b", 1)):
        rows = [
            row(data, model, (0.5 + times * score).astype("f4"), metric=name, seconds=1.0)
            for name, score in score_N.items()
        ]
        shown = {name: rows[0][name] for name in ("model", "model_id", "weights_id", "data_id")}
        writer.commit_baseline(rows, shown | {"resolved": "{}"} | dict.fromkeys(MISSING))
    return Store(str(tmp_path))


def test_of_videos_it_is_the_least_difference_of_cc_and_of_nss(videos, tmp_path):
    rng = np.random.default_rng(0)
    better = {"cc": rng.normal(0, 0.02, N), "nss": rng.normal(0, 0.2, N)}
    better["auc_j"] = better["cc"]
    cc, nss = (half_width(better[name]) for name in ("cc", "nss"))
    assert resolution_line(videos, of_videos(videos, tmp_path, **better)) == (
        f"12 val videos resolve ±{cc:.4f} CC and ±{nss:.4f} NSS of one job's Δ with 95% "
        "(by how models differ before any training)"
    )


def test_of_videos_without_fixations_it_is_of_cc_alone(videos, tmp_path):
    cc_N = np.random.default_rng(0).normal(0, 0.02, N)
    store = of_videos(videos, tmp_path, cc=cc_N, nss=np.full(N, np.nan))
    line = resolution_line(videos, store)
    assert line.startswith(f"12 val videos resolve ±{half_width(cc_N):.4f} CC of")
