"""A small store written by hand: three models whose right answers are drawn."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.bits import pack
from bikd_ray.store import Writer
from bikd_ray.store.schema import SCHEMAS

N = 500
RNG = np.random.default_rng(0)
BEFORE = {m: RNG.random(N) < a for m, a in (("a", 0.7), ("b", 0.75), ("c", 0.65))}


def after(model: str, gain: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng([ord(model), round(gain * 1e4), seed])
    right = BEFORE[model].copy()
    right[rng.random(N) < 0.02] = False
    right |= rng.random(N) < gain
    return right


def baseline(
    writer: Writer,
    model: str,
    data: str = "d",
    labels: np.ndarray | None = None,
    before: Mapping[str, np.ndarray] = BEFORE,
) -> None:
    right = before[model]
    row = {
        "model": model,
        "model_id": f"id-{model}",
        "weights_id": f"w-{model}",
        "data_id": data,
        "n": N,
        "value": 100 * right.mean(),
        "metric": "top1",
        "eval_set": "val",
        "bits": pack(right),
        "unit_set_id": "s",
        "seconds": 1.0,
    }
    predictions = pa.table(
        {
            "sample": np.arange(N),
            "label": np.zeros(N, np.int32) if labels is None else labels.astype(np.int32),
            "predicted": (~right).astype(np.int32),
            "label_prob": np.full(N, 0.5, np.float32),
            "top_classes": [[0, 1]] * N,
            "top_probs": [[0.5, 0.5]] * N,
        }
    )
    known = {k: row[k] for k in ("model", "model_id", "weights_id", "data_id")}
    empty = dict.fromkeys(SCHEMAS["models"].names)
    writer.commit_baseline([row], {**empty, **known}, predictions)


def job(
    writer: Writer,
    members: dict[str, np.ndarray],
    seed: int,
    *,
    job_id: str | None = None,
    status: str = "done",
    objective: str | None = None,
    recipe: str = "r",
    data: str = "d",
    commit: bool = True,
    before: Mapping[str, np.ndarray] = BEFORE,
    statistics: Mapping[str, pa.Table] | None = None,
) -> str:
    names = sorted(members)
    objective = objective or ("bikd" if len(names) > 1 else "ce")
    job_id = job_id or f"{data}-{recipe}-{objective}-{'-'.join(names)}-{seed}"
    run = {
        "job_id": job_id,
        "objective": objective,
        "seed": seed,
        "recipe_id": recipe,
        "data_id": data,
    }
    results, curves = [], []
    for m, right in members.items():
        mates = [x for x in names if x != m]
        who = {"model": m, "model_id": f"id-{m}", "weights_id": f"w-{m}"}
        top1 = 100 * before[m].mean()
        results.append(
            {
                **run,
                **who,
                "partners": mates,
                "partner_ids": [f"id-{x}" for x in mates],
                "role": "peer" if mates else "control",
                "selection": "last",
                "epoch": 2,
                "n": N,
                "before": top1,
                "after": 100 * right.mean(),
                "delta": 100 * right.mean() - top1,
                "ensemble_before": 80.0 if mates else None,
                "metric": "top1",
                "eval_set": "val",
                "bits": pack(right),
                "unit_set_id": "s",
            }
        )
        curves.append({**run, **who, "epoch": 0, "score": top1})
        curves.append(
            {**run, **who, "epoch": 1, "score": 100 * right.mean(), "loss": 1.0, "kl": 0.5}
        )
    alike = [
        {**run, "model_a": a, "model_b": b, "model_id_a": f"id-{a}", "model_id_b": f"id-{b}",
         "cca_before": 0.5, "cca_after": 0.6, "top": 100, "ridge": 0.0, "n": N}
        for a, b in combinations(names, 2)
    ]  # fmt: skip
    row = {
        **run,
        "sweep": "s",
        "members": names,
        "member_ids": [f"id-{x}" for x in names],
        "recipe": "{}",
        "status": status,
        "error": "boom" if status == "failed" else None,
        "seconds": 1.0,
        "resources": "{}",
        "result_version": 1,
    }
    if commit:
        done = status == "done"
        of_done = (results, curves, alike) if done else ([], curves, [])
        writer.commit_job(row, *of_done, statistics=statistics if done else None)
    else:  # as if the process died before the commit
        writer._put("results", f"{job_id}-x", results, "x")
    return job_id


def answers(members: Mapping[str, np.ndarray]) -> dict[str, pa.Table]:
    """What tasks keep of the answers of trained models: counts of pixels, values of frames, and a
    picture.
    """
    counts = [
        {"model_id": f"id-{m}", "selection": "last", "eval_set": "val", "sample": sample,
         "classes": [0, 3], "labelled": [5, 4], "right": [sample % 5, 4], "predicted": [5, 4]}
        for m in members
        for sample in range(6)
    ]  # fmt: skip
    frames = [
        {"model_id": f"id-{m}", "selection": "last", "eval_set": "val", "sample": sample,
         "video": sample // 3, "frame": sample % 3,
         **dict.fromkeys(("cc", "nss", "sim", "kldiv", "auc_j"), 0.1 * sample)}
        for m in members
        for sample in range(6)
    ]  # fmt: skip
    pictures = [
        {"model_id": f"id-{m}", "sample": 2, "name": f"photo of {m}", "metric": "top1",
         "value_before": 0.0, "value_after": 100.0, "image": b"image", "truth": b"truth",
         "before": b"before", "after": b"after",
         "others": [f"of {p}".encode() for p in sorted(members) if p != m]}
        for m in members
    ]  # fmt: skip
    tables = {"result_counts": counts, "result_frames": frames, "pictures": pictures}
    return {name: pa.Table.from_pylist(rows) for name, rows in tables.items()}


def write_pair_rows(uri):
    from bikd_ray.analysis.pairs import counts

    rows = []
    for a, b in (("a", "b"), ("a", "c"), ("b", "c")):
        names = {"model_a": a, "model_b": b, "model_id_a": f"id-{a}", "model_id_b": f"id-{b}"}
        extra = {"disagreement": 0.1, "ensemble": 80.0}
        rows.append(
            {
                **names,
                **counts(BEFORE[a], BEFORE[b]),
                **extra,
                "metric": "top1",
                "eval_set": "val",
                "data_id": "d",
            }
        )
    Writer(uri).write_pairs(rows)
