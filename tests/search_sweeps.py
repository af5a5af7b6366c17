"""Sweeps that search, without training: results are drawn, the same for the same job."""

from collections.abc import Sequence
from itertools import islice
from zlib import crc32

import numpy as np
import pyarrow as pa

from bikd_ray.analysis.bits import pack
from bikd_ray.analysis.halves import deciding_half
from bikd_ray.grouping import wishes
from bikd_ray.identity import derived_seed
from bikd_ray.plan import Job, plan
from bikd_ray.search.questions import deciding, questions
from bikd_ray.store import Store, Writer
from bikd_ray.store.sightings import Sightings
from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.search_strategy import ImproveStrategy, SearchStrategy, Told, decision_rows
from bikd_ray.sweep.strategy import PendingJob, Running
from tests.plans import jobs_of, resolved, spec_of

Strategy = SearchStrategy | ImproveStrategy
N = 4000
ONE = ResourceRequest(1, 0)


class World:
    """A store at `uri`, and what each job of a spec would find.

    seed: of the truth. other_half: how often the units that report are drawn anew. kept: whether
    results name a file of weights.
    """

    def __init__(self, uri, names="abcdefghij", seed=0, other_half=0, n=N, kept=False, **given):
        self.spec = spec_of(names, **{"goal": "best_partner", **given})
        self.zoo, self.data = resolved(self.spec)
        self.jobs = {job.job_id: job for job in jobs_of(self.spec)}
        self.writer, self.store = Writer(str(uri)), Store(str(uri))
        self.seed, self.n, self.other_half, self.kept = seed, n, other_half, kept
        rng = np.random.default_rng(seed)
        self.before = {}
        teaches = rng.normal(0.0, 0.8, len(names))
        learns = rng.uniform(2, 6, len(names))
        for name in names:
            right = np.random.default_rng([ord(name), seed]).random(n) < 0.6
            self.before[name] = self._redrawn(right)
        self.teaches = dict(zip(names, teaches, strict=True))
        self.learns = dict(zip(names, learns, strict=True))

    def _redrawn(self, bits: np.ndarray) -> np.ndarray:
        """The same bits; those of the reporting half are others if it is drawn anew."""
        if not self.other_half:
            return bits
        rest = np.flatnonzero(~deciding_half(self.n))
        rng = np.random.default_rng([self.other_half, crc32(np.packbits(bits).tobytes())])
        found = bits.copy()
        found[rest] = rng.random(len(rest)) < rng.random()
        return found

    def measure(self, names=None):
        for name in names or self.before:
            right = self.before[name]
            said = self.predictions(name, right)
            baseline_of(self.writer, name, self.data.data_id, right, said)

    def predictions(self, name: str, right: np.ndarray) -> pa.Table:
        """Of ten classes, class 0 right: the surer the more right; all ten are stored."""
        rng = np.random.default_rng([ord(name), self.seed, 9])
        probs = rng.dirichlet(np.ones(10), self.n)
        most = probs.argmax(1)
        at = np.where(right, 0, rng.integers(1, 10, self.n))
        rows = np.arange(self.n)
        probs[rows, most], probs[rows, at] = probs[rows, at], probs[rows, most]
        probs = probs.astype(np.float32)
        order = np.argsort(-probs, axis=1, kind="stable")
        ranked = np.take_along_axis(probs, order, 1)
        return pa.table(
            {
                "sample": pa.array(rows, pa.int64()),
                "label": pa.array(np.zeros(self.n), pa.int32()),
                "predicted": pa.array(order[:, 0], pa.int32()),
                "label_prob": pa.array(probs[:, 0], pa.float32()),
                "top_classes": pa.array([*order], pa.list_(pa.int32())),
                "top_probs": pa.array([*ranked], pa.list_(pa.float32())),
            }
        )

    def after(self, job: Job, name: str) -> np.ndarray:
        rng = np.random.default_rng(derived_seed(job.job_id, name, self.seed))
        mates = [m.name for m in job.members if m.name != name]
        gain = self.learns[name] + sum(self.teaches[m] for m in mates)
        gain += sum(_between(name, m, self.seed) for m in mates)
        right = np.random.default_rng([ord(name), self.seed]).random(self.n) < 0.6
        wrong = np.flatnonzero(~right)
        learned = right.copy()
        learned[rng.permutation(wrong)[: round(gain / 100 * self.n)]] = True
        return self._redrawn(learned)

    def finish(self, job: Job, error: str | None = None) -> None:
        run = {
            "job_id": job.job_id,
            "objective": job.objective.label,
            "seed": job.seed,
            "recipe_id": job.recipe_id,
            "data_id": job.data.data_id,
        }
        rows = []
        for member in job.members:
            right = self.after(job, member.name)
            mates = [m for m in job.members if m is not member]
            top1 = 100 * self.before[member.name].mean()
            rows.append(
                {
                    **run,
                    "model": member.name,
                    "model_id": member.model_id,
                    "weights_id": member.weights_id,
                    "partners": [m.name for m in mates],
                    "partner_ids": [m.model_id for m in mates],
                    "role": job.role,
                    "selection": "last",
                    "epoch": 2,
                    "n": self.n,
                    "before": top1,
                    "after": 100 * right.mean(),
                    "delta": 100 * right.mean() - top1,
                    "ensemble_before": top1 + 5 if mates else None,
                    "metric": "top1",
                    "eval_set": "val",
                    "bits": pack(right),
                    "unit_set_id": "s",
                    "weights": f"weights/{job.job_id}" if self.kept else None,
                }
            )
        row = {
            **run,
            "sweep": "s",
            "members": list(job.names),
            "member_ids": [m.model_id for m in job.members],
            "recipe": "{}",
            "status": "failed" if error else "done",
            "error": error,
            "seconds": 1.0,
            "resources": "{}",
            "result_version": 1,
        }
        self.writer.commit_job(row, [] if error else rows, [])

    def strategy(self, told: Told = lambda asked, decision: None, **options) -> SearchStrategy:
        found = plan(list(self.jobs.values()), self.store.done(), self.store.failures())
        asked = questions(self.spec, list(self.jobs.values()), "top1")
        todo = [*found.todo, *(found.failed if options.get("retry") else ())]
        jobs = {job.job_id: PendingJob(job.job_id, ONE, job.flops) for job in todo}
        sightings = Sightings(self.store, "last", deciding(self.spec.search))
        return SearchStrategy(asked, jobs, sightings, told=told, **options)

    def improving(self, told: Told = lambda asked, decision: None, **options) -> ImproveStrategy:
        """Of a world whose goal is improve and whose models are measured."""
        asked = wishes(self.spec, self.zoo, self.data, self.store)
        self.jobs = {job.job_id: job for one in asked for job in one.jobs.values()}
        jobs = {i: PendingJob(i, ONE, job.flops) for i, job in self.jobs.items()}
        return ImproveStrategy(asked, jobs, self.store, told=told, **options)

    def play(
        self, strategy: SearchStrategy | ImproveStrategy, slots: int = 1, most: int = 10_000
    ) -> list[str]:
        """Run a sweep of so many slots, at most so many jobs; the jobs in their order."""
        begun: list[str] = []
        while len(begun) < most:
            proposed = strategy.propose(self.store, Running(begun, ()), lambda needs: slots)
            if not proposed:
                break
            some = list(islice(proposed, min(slots, most - len(begun))))
            for job in self.ended(some):
                begun.append(job.job_id)
                self.finish(self.jobs[job.job_id])
        return begun

    def ended(self, some: Sequence[PendingJob]) -> Sequence[PendingJob]:
        """Jobs that ran at once, in the order in which they end."""
        return some


def _between(learner: str, teacher: str, seed: int) -> float:
    return float(np.random.default_rng([ord(learner), ord(teacher), seed, 7]).normal(0, 0.3))


def baseline_of(
    writer: Writer, name: str, data_id: str, right: np.ndarray, said: pa.Table | None = None
) -> None:
    from bikd_ray.store.schema import SCHEMAS

    row = {
        "model": name,
        "model_id": f"id-{name}",
        "weights_id": f"w-{name}",
        "data_id": data_id,
        "n": len(right),
        "value": 100 * right.mean(),
        "metric": "top1",
        "eval_set": "val",
        "bits": pack(right),
        "unit_set_id": "s",
        "seconds": 1.0,
    }
    known = {k: row[k] for k in ("model", "model_id", "weights_id", "data_id")}
    writer.commit_baseline([row], {**dict.fromkeys(SCHEMAS["models"].names), **known}, said)


def told_by(world, half=True):
    """Writes what a search of this world decides, as the engine does."""

    def told(asked, decision):
        rows = decision_rows(asked, decision, "s", half=half)
        world.writer.write_decision(rows)

    return told
