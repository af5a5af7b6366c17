"""A whole job: K models, R epochs, one row for each member and epoch as they come."""

import copy
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import get_args

import numpy as np
import torch
from torch import nn

from bikd_ray.data.loader import Loader, parts_of
from bikd_ray.errors import BikdError
from bikd_ray.identity import derived_seed
from bikd_ray.plan import Job, ResolvedProbe
from bikd_ray.specs import Resources, Selection
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Measured
from bikd_ray.train.best_epochs import BestEpoch, BestEpochs
from bikd_ray.train.evaluate import EVAL_BATCH, Evaluation, evaluate
from bikd_ray.train.frozen import Answering, kept_answers, kept_lessons
from bikd_ray.train.further import Further, measure_further
from bikd_ray.train.job_images import JobImages
from bikd_ray.train.knn import Answers, KNNProbe
from bikd_ray.train.likeness import Likeness, likenesses
from bikd_ray.train.member import Learner, Member, fast_layout
from bikd_ray.train.parallel import ALONE, Workers
from bikd_ray.train.pictures import Pictures, pictures
from bikd_ray.train.state import Position, States, pack, unpack
from bikd_ray.train.step import EpochSums, Sources, train_step
from bikd_ray.transfer import OBJECTIVES

LOG_EVERY = 50
"""Steps between log points, where a run waits for its device: it looks for losses that are not
finite, and saves its state if it is time."""


_DEFAULTS = Resources(frozen_cache="none")
"""Nothing is kept on disk, or read from there, unless asked for."""


class NonFiniteLoss(BikdError):
    """A loss became NaN or infinite; says whose, at which step and learning rate."""


@dataclass(frozen=True)
class EpochRow:
    """One learner after one epoch; epoch 0 is the untouched model, with no training columns.

    score, select_score: the task's primary metric on val and on what is held out of train.
    train_score: percent of the training samples that are right. loss: the model's own, None without
    labels; train_loss: what it was trained by, with the lessons (kl). The case shares and the
    teacher share are of the training samples, and None where no sample has one teacher. What asks
    who is right is None where nothing says it.
    """

    member: int
    epoch: int
    score: float
    select_score: float | None = None
    train_score: float | None = None
    train_loss: float | None = None
    loss: float | None = None
    kl: float | None = None
    teacher_share: float | None = None
    case1: float | None = None
    case2: float | None = None
    case3: float | None = None
    case4: float | None = None


@dataclass(frozen=True)
class StepProgress:
    """A sign of life in the middle of an epoch."""

    epoch: int
    share: float  # of its steps that are done


@dataclass(frozen=True)
class Probed:
    """A learner on a probe, before and at the epoch of a selection."""

    probe: ResolvedProbe
    selection: str
    member: int
    before: Measured
    after: Measured


@dataclass
class Fit:
    """A finished job: before, and for each selection what every learner became."""

    before: Evaluation  # of all members, learners first
    chosen: dict[str, list[BestEpoch]]  # selection -> one for each learner
    ensemble_after: Measured  # of all members after the last epoch
    likeness: list[Likeness]
    images_per_s: float  # of training, each counted once however many models see it
    micro_batch: int | None  # images at a time, where memory or the spec asked for parts
    probed: list[Probed] = field(default_factory=list)
    further: Further = field(default_factory=Further)  # on sets that are only measured on
    pictures: Pictures = field(default_factory=Pictures)


def fit(
    job: Job,
    networks: Sequence[nn.Module | None],
    device: torch.device,
    *,
    decoders: int = 0,
    similarity: bool = True,
    resources: Resources = _DEFAULTS,
    workers: Workers = ALONE,
    states: States | None = None,
    beat: float | None = None,
    keep: Collection[str] = get_args(Selection),
    log_every: int = LOG_EVERY,
    untouched: Callable[[int], nn.Module] | None = None,
) -> Iterator[list[EpochRow] | StepProgress | Fit]:
    """Train the live members among `networks` (one for each member of the job).

    Yields a list of EpochRow, one for each learner, for epoch 0, 1, … and at the end one Fit; of
    several workers each yields the same. networks: None for a member of another worker; with
    `resources.frozen_cache` they must be those that the members' model_ids name. decoders:
    processes that decode images. similarity: compare the members' features too. states: where the
    state of the run is kept, from which it goes on. beat: seconds after which a Beat comes between,
    at log points, by each worker's own clock; None for none. keep: selections whose weights are
    wanted; of the others `Chosen.state` is None. log_every: steps between log points.
    untouched: a new network with the weights that learner k began with, for pictures of what it
    answered; None for no pictures. Raises NonFiniteLoss.
    """
    run = _Run(job, networks, device, decoders, similarity, resources, workers, keep)
    yield from run.epochs(states, beat, log_every)
    yield run.end(untouched)


class _Run:
    """A job at work on one worker."""

    def __init__(
        self,
        job: Job,
        networks: Sequence[nn.Module | None],
        device: torch.device,
        decoders: int,
        similarity: bool,
        resources: Resources,
        workers: Workers,
        keep: Collection[str],
    ) -> None:
        self.job, self.device, self.workers, self.resources = job, device, workers, resources
        workers.connect()
        self.task = task_of(job.data.task).joined(job.members)
        self.metric = self.task.metrics[0]
        self.members = [
            net and Member(m, net, device, fast_layout(net, device, job.recipe.precision))
            for m, net in zip(job.members, networks, strict=True)
        ]
        self.similarity = similarity and len(self.members) > 1 and self.task.features
        live = len(job.live)
        images = JobImages(job, self.task, device, decoders)
        self.rows = images.rows
        self.batches = len(parts_of(self.rows, job.recipe.batch_size))
        frozen = _frozen(images, self.members, resources.frozen_cache)
        learning = [*self.members[:live], *(m for m in frozen if isinstance(m, Member))]
        self.train = images.train(learning if any(learning) else self.members)
        self.val, self.held = images.val(self.members), images.held(self.members)
        steps = job.recipe.epochs * self.batches
        self.learners = [
            m and Learner.of(m, job.recipe, steps, resources, workers) for m in self.members[:live]
        ]
        self.measured = [learner and learner.measured for learner in self.learners]
        self.sources = Sources(
            self.learners, job.objective, job.seed, frozen, job.recipe.precision, workers, self.task
        )
        self.keep, self.decoders = keep, decoders
        self.selections = BestEpochs(self.measured, keep, self.metric)
        self.tally = self._nothing()
        micro = resources.micro_batch
        self.at = Position(micro_batch=None if micro == "auto" else micro)
        untouched = self._untouched(images)
        self.teachers = untouched[live:]
        self.before = self._evaluate(untouched, self.val, self.similarity, True)
        self.probes = [
            KNNProbe.of(probe, job.data, self.measured, device, decoders)
            for probe in job.data.probes
        ]
        self.probed = self._probe(self.measured)
        self.after = self.before

    def epochs(
        self, states: States | None, beat: float | None, log_every: int
    ) -> Iterator[list[EpochRow] | StepProgress]:
        """Train, and yield the rows of each epoch; those of before the saved state at once."""
        select = self._select()
        self.selections.see(0, self.before, select)
        done = [self._rows(0, self.before, select)]
        done = self._resume(states) or done
        yield from done
        saved = told = time.monotonic()
        for epoch in range(self.at.epoch, self.job.recipe.epochs + 1):
            for learner in self.sources.here:
                learner.member.network.train()
            for _ in self._steps(epoch, log_every):
                due = time.monotonic() - saved > self.resources.save_every
                if states is not None and self.workers.agree(due):
                    self._save(states, done)
                    saved = time.monotonic()
                if beat is not None and time.monotonic() - told >= beat:
                    yield StepProgress(epoch, self.at.batch / self.batches)
                    told = time.monotonic()
            last = epoch == self.job.recipe.epochs
            members = [*self.measured, *self.teachers] if last else self.measured
            self.after = self._evaluate(members, self.val, self.similarity and last, last)
            select = self._select()
            self.selections.see(epoch, self.after, select)
            tally = self.tally.over(self.workers)
            done.append(self._rows(epoch, self.after, select, tally))
            yield done[-1]
            self.tally = self._nothing()
            self.at = replace(self.at, epoch=epoch + 1, batch=0)

    def _steps(self, epoch: int, log_every: int) -> Iterator[None]:
        """The rest of an epoch; stops at each log point."""
        recipe, job = self.job.recipe, self.job
        order = np.random.default_rng(derived_seed(job.seed, "order", epoch))
        batches = self.train.batches(
            order.permutation(self.rows),
            recipe.batch_size,
            epoch,
            begin=self.at.batch,
            shard=self.workers.shard if self.workers.by_samples else None,
        )
        began = time.monotonic()
        for batch in batches:
            at = self.at
            lesson = train_step(self.sources, batch, at.step, at.micro_batch)
            self.tally.add(lesson, at.step)
            self.at = replace(
                at, step=at.step + 1, batch=at.batch + 1, micro_batch=lesson.micro_batch
            )
            if self.at.step % log_every == 0:
                self._check_finite(epoch)
                self._add_time(began)
                yield
                began = time.monotonic()
        self._check_finite(epoch)
        self._refuse_bad_weights(epoch)
        self._add_time(began)

    def _add_time(self, began: float) -> None:
        self.at = replace(self.at, seconds=self.at.seconds + time.monotonic() - began)

    def _check_finite(self, epoch: int) -> None:
        """Raise NonFiniteLoss for a loss so far; waits for the device."""
        first_bad_K = self.tally.over(self.workers).first_bad_K.tolist()
        bad = [(step, k) for k, step in enumerate(first_bad_K) if step >= 0]
        if bad:
            step, k = min(bad)
            raise self._not_finite("loss", k, step, epoch)

    def _refuse_bad_weights(self, epoch: int) -> None:
        """Raise NonFiniteLoss for what the last step has made of the weights."""
        for k, learner in enumerate(self.learners):
            if learner is not None and not learner.is_finite():
                raise self._not_finite("weights", k, self.at.step - 1, epoch)

    def _not_finite(self, what: str, k: int, step: int, epoch: int) -> NonFiniteLoss:
        name, recipe = self.job.members[k].name, self.job.recipe
        setting = f"recipe.lrs.{name}" if name in recipe.lrs else "recipe.lr"
        return NonFiniteLoss(
            f"the {what} of {name} became NaN or infinite at step {step} (epoch {epoch}) "
            f"with lr {recipe.lrs.get(name, recipe.lr):g}; try a lower {setting}"
        )

    def _untouched(self, images: JobImages) -> list[Answering | None]:
        """The members before they are trained; their answers on val are read back where kept."""
        found: list[Answering | None] = []
        for member in self.members:
            kept = member and kept_answers(
                member,
                self.job,
                self.task,
                self.resources.frozen_cache,
                partial(images.val, [member]),
                self._at_most,
            )
            found.append(kept or member)
        return found

    def _nothing(self) -> EpochSums:
        return EpochSums.zero(len(self.job.live), self.device)

    def _evaluate(
        self,
        members: Sequence[Answering | None],
        loader: Loader,
        features: bool = False,
        ensemble: bool = False,
    ) -> Evaluation:
        return evaluate(
            members,
            loader,
            task=self.task,
            features=features,
            ensemble=ensemble,
            workers=self.workers,
            batch_size=self._at_most,
        )

    @property
    def _at_most(self) -> int:
        """Images at a time that are only looked at: where training does not fit in one piece, a
        larger batch may not fit here either.
        """
        return min(EVAL_BATCH, 2 * (self.at.micro_batch or EVAL_BATCH))

    def _rows(
        self,
        epoch: int,
        val: Evaluation,
        held: Evaluation | None,
        tally: EpochSums | None = None,
    ) -> list[EpochRow]:
        rows, name = [], self.metric.name
        for k in range(len(self.learners)):
            select = held.outcomes[k].values[name] if held else None
            lessons = _lessons(tally, k) if tally else {}
            rows.append(EpochRow(k, epoch, val.outcomes[k].values[name], select, **lessons))
        return rows

    def _select(self) -> Evaluation | None:
        return self._evaluate(self.measured, self.held) if self.held else None

    def _save(self, states: States, done: list[list[EpochRow]]) -> None:
        workers, step = self.workers, self.at.step
        tally = self.tally.over(workers).to(self.device)
        self.tally = tally if workers.share == 0 else self._nothing()
        if workers.share == 0:
            rows = [[asdict(row) for row in epoch] for epoch in done]
            states.write(step, pack(self.at, self.learners, self.tally, self.selections, rows))
        workers.gather(step)  # nobody deletes older states before all have written this one
        if workers.rank == 0:
            states.forget(step)

    def _resume(self, states: States | None) -> list[list[EpochRow]]:
        """Go on from the newest state that every worker can read; the rows of its past."""
        there = [] if states is None else states.steps()
        common = set.intersection(*map(set, self.workers.gather(there)))
        for step in sorted(common, reverse=True):
            assert states is not None
            found = unpack(states.read(step), self.learners, self.selections)
            if not all(self.workers.gather(found is not None)):
                continue
            assert found is not None
            self.at, tally, rows = found
            self.tally = tally.to(self.device) if self.workers.share == 0 else self._nothing()
            return [[EpochRow(**row) for row in epoch] for epoch in rows]
        return []

    def end(self, untouched: Callable[[int], nn.Module] | None) -> Fit:
        images = len(self.rows) * self.job.recipe.epochs
        live, ends = len(self.learners), (self.before, self.after)
        likeness = likenesses(*ends, live, self.device) if self.similarity else ()
        assert self.after.ensemble is not None
        chosen = self.selections.chosen()
        drawn = Pictures()
        if untouched is not None:
            last = [one.outcome for one in chosen["last"]]
            of = self.task, self.measured, self.members, untouched, self.val
            drawn = pictures(*of, self.before, last, self.workers)
        further = measure_further(
            self.job.data,
            self.task,
            self.measured,
            chosen,
            self.keep,
            self.workers,
            decoders=self.decoders,
            batch_size=self._at_most,
        )
        return Fit(
            self.before,
            chosen,
            self.after.ensemble,
            list(likeness),
            images / max(self.at.seconds, 1e-9),
            self.at.micro_batch,
            self._probed(chosen),
            further,
            drawn,
        )

    def _probe(self, members: Sequence[Member | None]) -> list[Answers]:
        """Of each probe and member, as all workers know it."""
        mine = [probe.answers(members) for probe in self.probes]
        if not self.workers.by_models or not mine:
            return mine
        everyone = self.workers.gather(mine)

        def known(of_k: Sequence[Measured | None]) -> Measured | None:
            return next((answer for answer in of_k if answer is not None), None)

        return [
            [known(of_k) for of_k in zip(*of_probe, strict=True)]
            for of_probe in zip(*everyone, strict=True)
        ]

    def _probed(self, chosen: Mapping[str, Sequence[BestEpoch]]) -> list[Probed]:
        """Every learner before and at the epoch of each selection; not where its weights are gone,
        since nobody wanted them.
        """
        if not self.probes:
            return []
        last = self._probe(self.measured)
        found = []
        for selection, ones in chosen.items():
            again = self._probe([self._at(k, one) for k, one in enumerate(ones)])
            for p, probe in enumerate(self.probes):
                for k, one in enumerate(ones):
                    known = {0: self.probed, self.job.recipe.epochs: last}.get(one.epoch, again)
                    before, after = self.probed[p][k], known[p][k]
                    if before is not None and after is not None:
                        found.append(Probed(probe.probe, selection, k, before, after))
        return found

    def _at(self, k: int, one: BestEpoch) -> Member | None:
        """A learner at an epoch that has passed."""
        member = self.measured[k]
        if member is None or one.state is None or one.epoch in (0, self.job.recipe.epochs):
            return None
        network = copy.deepcopy(member.network)
        network.load_state_dict(one.state)
        return replace(member, network=network)


def _frozen(
    images: JobImages, members: Sequence[Member | None], cache: str
) -> list[Answering | None]:
    """The sources that do not learn, in the order of `transfer_loss`: the first learner as it is
    now, where the objective compares with it, then the teachers. What they say is read back where
    it is kept.
    """
    job, rows = images.job, images.rows
    old_self = OBJECTIVES[job.objective.name].old_self
    found: list[Answering | None] = []
    for source in [*members[:old_self], *members[len(job.live) :]]:
        if source is None:
            found.append(None)
            continue
        own = partial(images.train, [source])
        kept = kept_lessons(source, job, images.task, rows, cache, own)
        if kept is None and source is members[0]:
            source = replace(source, network=copy.deepcopy(source.network))
        source.network.eval()
        found.append(kept or source)
    return found


def _lessons(tally: EpochSums, k: int) -> dict[str, float | None]:
    """The training columns of learner k."""
    taught, own = float(tally.one_teacher) > 0, float(tally.own_K[k]) / tally.samples
    cases = (tally.cases_K4[k] / tally.samples).tolist()
    judged = not any(map(math.isnan, cases))
    return {
        "train_score": 100 * float(tally.right_K[k]) / tally.samples if judged else None,
        "train_loss": float(tally.loss_K[k]) / tally.samples,
        "loss": None if math.isnan(own) else own,
        "kl": float(tally.divergence_K[k]) / tally.samples,
        "teacher_share": float(tally.taught_K[k]) / tally.samples if taught else None,
        **{f"case{c}": share if taught and judged else None for c, share in enumerate(cases, 1)},
    }
