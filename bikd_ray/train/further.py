"""What the learners of a finished job are on further sets: no epoch was chosen on these.

Suffix: K learners.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from bikd_ray.data import open_split
from bikd_ray.data.loader import DISK_FRACTIONS, Loader
from bikd_ray.errors import BikdError
from bikd_ray.plan import ResolvedData
from bikd_ray.tasks.base import Measured, Task
from bikd_ray.train.best_epochs import BestEpoch
from bikd_ray.train.evaluate import evaluate
from bikd_ray.train.member import Member
from bikd_ray.train.numerics import poisoned
from bikd_ray.train.parallel import Workers


@dataclass(frozen=True)
class Further:
    """outcomes: set -> selection -> of each learner. failed: set -> why it could not be measured,
    which costs the job nothing else.
    """

    outcomes: Mapping[str, Mapping[str, list[Measured]]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


def further_loader(
    data: ResolvedData, name: str, members: Sequence[Member], task: Task, decoders: int
) -> Loader:
    """The images of a further set as some members see them."""
    return Loader(
        open_split(data, name),
        [member.model.input.view for member in members],
        members[0].device,
        cache=data.data.cache,
        disk_fraction=DISK_FRACTIONS["further"],
        workers=decoders,
        skip=data.data.on_bad_image == "skip",
        task=task,
    )


def measure_further(
    data: ResolvedData,
    task: Task,
    members_K: Sequence[Member | None],
    chosen: Mapping[str, Sequence[BestEpoch]],
    keep: Collection[str],
    workers: Workers,
    *,
    decoders: int,
    batch_size: int,
) -> Further:
    """Measure the learners at the end of a job on every further set, at each selection whose
    weights are at hand: those of the last epoch, and of what is kept.

    members_K: as they are after the last epoch; what else is kept is loaded into them. None: of
    another worker. Each worker measures some of the learners by itself, and tells the others.
    """
    if not data.eval:
        return Further()
    mine = {
        k: member
        for k, member in enumerate(members_K)
        if member is not None and k // workers.models % workers.shares == workers.share
    }
    loaders: dict[str, tuple[Loader, Task]] = {}

    def loader(name: str) -> tuple[Loader, Task]:
        if name not in loaders:
            on = task.on(data.eval[name])
            loaders[name] = further_loader(data, name, [*mine.values()], on, decoders), on
        return loaders[name]

    found: dict[str, dict[str, list[Measured]]] = {name: {} for name in data.eval}
    failed: dict[str, str] = {}
    done: dict[tuple[int, ...], str] = {}
    for selection in ("last", *(s for s in chosen if s in keep and s != "last")):
        epochs = tuple(one.epoch for one in chosen[selection])
        same = done.setdefault(epochs, selection)
        if same == selection and selection != "last":
            for k, member in mine.items():
                state = chosen[selection][k].state
                assert state is not None
                member.network.load_state_dict(state)
        for name in data.eval:
            if name in failed:
                continue
            if same != selection:
                found[name][selection] = found[name][same]
                continue
            try:
                own, why = _outcomes(mine, lambda name=name: loader(name), batch_size), None
            except Exception as error:
                if mine and poisoned(error, next(iter(mine.values())).device):
                    raise
                short = str(error) if isinstance(error, BikdError) else f"{error!r}"
                own, why = {}, short.splitlines()[0]
            told = workers.gather((own, why))
            if whys := [why for _, why in told if why is not None]:
                failed[name] = whys[0]
                continue
            outcomes = {k: outcome for own, _ in told for k, outcome in own.items()}
            found[name][selection] = [outcomes[k] for k in range(len(members_K))]
    return Further({name: of for name, of in found.items() if name not in failed}, failed)


def _outcomes(
    mine: Mapping[int, Member], loader: Callable[[], tuple[Loader, Task]], batch_size: int
) -> dict[int, Measured]:
    if not mine:
        return {}
    images, task = loader()
    found = evaluate([*mine.values()], images, task=task, ensemble=False, batch_size=batch_size)
    return dict(zip(mine, found.outcomes, strict=True))


def measured_alone(member: Member, data: ResolvedData, name: str, task: Task) -> Measured:
    """One model on a further set."""
    on = task.on(data.eval[name])
    loader = further_loader(data, name, [member], on, 0)
    return evaluate([member], loader, task=on, ensemble=False).outcomes[0]
