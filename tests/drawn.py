"""A finished sweep whose right and wrong answers are drawn, not trained."""

import json
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.bits import pack
from bikd_ray.analysis.pairs import counts
from bikd_ray.identity import digest
from bikd_ray.store import Writer

DATA, RECIPE, N = "d4f1c09a77e0b312", "9be1a0c3550d7f42", 899
SKILL = {"resnet": 1.35, "vit": 1.1, "mixer": 0.8, "convnext": 1.6}
CLASSES = 10
HELP = {("vit", "convnext"): 0.070, ("mixer", "convnext"): 0.060, ("mixer", "vit"): 0.012}
ALONE = 0.006
HOSTILE = "<script>alert('x')</script>"


def id_of(name: str) -> str:
    """As in a real store, an id has none of the characters of a name."""
    return "id-" + re.sub(r"\W", "", name)


class Zoo:
    """Models whose right and wrong answers are drawn, not trained."""

    def __init__(self, uri: Path, names: Sequence[str], n: int = N, epochs: int = 8) -> None:
        self.writer, self.names, self.n, self.epochs = Writer(str(uri)), names, n, epochs
        self.random = np.random.default_rng(7)
        hard_N = self.random.normal(size=n)
        self.before = {
            name: hard_N + self.random.normal(scale=0.7, size=n) < SKILL.get(name, 1.0)
            for name in names
        }

    def ids(self, name: str) -> dict[str, str]:
        return {"model": name, "model_id": id_of(name), "weights_id": f"w-{name}"}

    def baselines(self) -> None:
        shared = {"data_id": DATA, "eval_set": "val"}
        for name, correct_N in self.before.items():
            row = {
                **self.ids(name),
                **shared,
                "n": self.n,
                "metric": "top1",
                "eval_set": "val",
                "bits": pack(correct_N),
            }
            row |= {"value": 100 * correct_N.mean(), "unit_set_id": "s"}
            label_N = pa.array(np.arange(self.n) % CLASSES, pa.int32())
            predictions = pa.table({"sample": pa.array(range(self.n)), "label": label_N})
            for column in ("predicted", "label_prob", "top_classes", "top_probs"):
                predictions = predictions.append_column(column, pa.nulls(self.n))
            self.writer.commit_baseline([row], {**self.ids(name), "data_id": DATA}, predictions)
        self.writer.write_pairs(
            [
                {
                    "model_a": a,
                    "model_b": b,
                    "model_id_a": id_of(a),
                    "model_id_b": id_of(b),
                    **shared,
                    "metric": "top1",
                    **counts(self.before[a], self.before[b]),
                    "ensemble": self.ensemble(a, b),
                    "disagreement": float((self.before[a] != self.before[b]).mean()) * 1.2,
                }
                for a, b in combinations(self.names, 2)
            ]
        )

    def ensemble(self, *members: str) -> float:
        return 100 * max(self.before[m].mean() for m in members) + 1.5

    def job(
        self,
        members: Sequence[str],
        seed: int,
        objective: str = "bikd",
        selections: Sequence[str] = ("last",),
        recipe_id: str = RECIPE,
    ) -> None:
        """A finished job: every member gains a little, more with some partners."""
        run = {"job_id": digest(list(members), objective, seed, recipe_id), "data_id": DATA}
        run |= {"objective": objective, "seed": seed, "recipe_id": recipe_id}
        results, curves = [], []
        for name in members:
            mates = [m for m in members if m != name]
            gain = ALONE + max((HELP.get((name, m), 0.001) for m in mates), default=0.0)
            after_N = self.after(name, gain)
            before, after = 100 * self.before[name].mean(), 100 * after_N.mean()
            ensemble = self.ensemble(*members) if mates else None
            for selection in selections:
                results.append(
                    {
                        **run,
                        **self.ids(name),
                        "partners": mates,
                        "partner_ids": [id_of(m) for m in mates],
                        "role": "peer" if mates else "control",
                        "selection": selection,
                        "epoch": self.epochs,
                        "n": self.n,
                        "before": before,
                        "after": after,
                        "delta": after - before,
                        "ensemble_before": ensemble,
                        "error_overlap_after": 0.4 if mates else None,
                        "metric": "top1",
                        "eval_set": "val",
                        "bits": pack(after_N),
                        "unit_set_id": "s",
                    }
                )
            for epoch in range(self.epochs + 1):
                done = 1 - np.exp(-3 * epoch / self.epochs)
                wobble = self.random.normal(scale=0.12)
                row = {**run, **self.ids(name), "epoch": epoch}
                row["score"] = before + (after - before) * done + wobble * (0 < epoch < self.epochs)
                if epoch:
                    row |= {"loss": 0.5 - 0.2 * done, "kl": (0.3 - 0.15 * done) * bool(mates)}
                    row["train_loss"] = row["loss"] + row["kl"]
                    row["teacher_share"] = 0.5 + 0.1 * (SKILL.get(name, 1.0) - 1) * bool(mates)
                    if mates:
                        shares = (0.3 + 0.1 * done, 0.1 - 0.05 * done, 0.08 - 0.05 * done, 0.02)
                        row |= {f"case{c}": share for c, share in enumerate(shares, 1)}
                curves.append(row)
        self.commit(run, members, "done", None, results, curves)

    def failed(self, members: Sequence[str], seed: int, error: str) -> None:
        run = {"job_id": digest("failed", list(members), seed), "data_id": DATA}
        run |= {"objective": "bikd", "seed": seed, "recipe_id": RECIPE}
        self.commit(run, members, "failed", error, [], [])

    def commit(self, run, members, status, error, results, curves) -> None:
        recipe = {"epochs": self.epochs, "batch_size": 64, "optimizer": "adam", "lr": 1e-4}
        recipe |= {"schedule": "none", "precision": "fp32", "train_fraction": 1}
        job = {**run, "sweep": "demo", "members": list(members), "recipe": json.dumps(recipe)}
        job |= {"member_ids": [id_of(m) for m in members], "status": status, "error": error}
        self.writer.commit_job({**job, "seconds": 38.4}, results, curves)

    def after(self, name: str, gain: float) -> np.ndarray:
        """Correctness after training: some images lost, and about `gain` more of them won."""
        before_N = self.before[name]
        lost_N = before_N & (self.random.random(self.n) < 0.006)
        rate = (gain + 0.006) / (1 - before_N.mean())
        return (before_N & ~lost_N) | (~before_N & (self.random.random(self.n) < rate))


def sweep(uri: Path, names: Sequence[str] = tuple(SKILL), seeds: Sequence[int] = (0, 1, 2)) -> Zoo:
    """A finished sweep: baselines, pairs, controls and one job of each pair and seed."""
    zoo = Zoo(uri, names)
    zoo.baselines()
    for seed in seeds:
        for name in names:
            zoo.job([name], seed, objective="ce")
        for pair in combinations(names, 2):
            zoo.job(pair, seed)
    return zoo
