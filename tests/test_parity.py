"""A whole job, parameter for parameter, against a plain loop written from the equations.

In float64, where two orders of the same sum agree to about 1e-15; Adam divides a gradient by its
own size and so keeps such relative errors as they are, and 1e-10 leaves room for a few steps.
"""

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bikd_ray.plan import Job
from bikd_ray.specs import Objective
from tests.plain_loop import (
    NAMES,
    assert_close,
    assert_equal,
    job_of,
    networks_of,
    noisy_zoo,
    run,
    states,
    train,
)

THREE_STEPS = {"epochs": 1, "batch_size": 21, "lr": 1e-2}


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² Σ_c q_t (log q_t − log q_s) of one sample, q = softmax(z / T)."""
    log_s = (student / temperature).log_softmax(0)
    log_t = (teacher / temperature).log_softmax(0)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum()


def most_confident(values: list[float], ties: str) -> int | None:
    best = [k for k, value in enumerate(values) if value == max(values)]
    if ties == "auto":
        ties = "last" if len(values) == 2 else "first"
    if ties == "drop" and len(best) > 1:
        return None
    return best[-1] if ties == "last" else best[0]


def bikd(o: Objective, live: list[Tensor], frozen: list[Tensor], y: int) -> Tensor:
    log_p = [z.log_softmax(0)[y].item() for z in live]
    teacher = most_confident(log_p, o.ties)
    total = sum((o.ce_weight * cross_entropy(z, torch.tensor(y)) for z in live), torch.zeros(()))
    for j, student in enumerate(live):
        for i, source in enumerate(live):
            if i != j and (i == teacher or not o.mask):
                source = source.detach() if o.detach_teacher else source
                total = total + o.kl_weight * kl(student, source, o.temperature)
    return total


def dml(o: Objective, live: list[Tensor], frozen: list[Tensor], y: int) -> Tensor:
    total = torch.zeros(())
    for k, z in enumerate(live):
        peers = [p.detach() if o.detach_teacher else p for i, p in enumerate(live) if i != k]
        mean = sum(kl(z, p, o.temperature) for p in peers) / len(peers)
        total = total + o.ce_weight * cross_entropy(z, torch.tensor(y)) + o.kl_weight * mean
    return total


def kd(o: Objective, live: list[Tensor], frozen: list[Tensor], y: int) -> Tensor:
    q = torch.stack([(z / o.temperature).softmax(0) for z in frozen]).mean(0)
    pull = kl(live[0], o.temperature * q.log(), o.temperature)
    return (1 - o.kd_weight) * cross_entropy(live[0], torch.tensor(y)) + o.kd_weight * pull


def kl_dp(o: Objective, live: list[Tensor], frozen: list[Tensor], y: int) -> Tensor:
    supervised = o.name == "kl_dp_supervised"
    p = [z.log_softmax(0) for z in frozen]
    confidence = [(z[y] if supervised else z.max()).item() for z in p]
    source = frozen[most_confident(confidence, "first") or 0]  # a tie is the old self's, the first
    return kl(live[0], source, o.temperature)


def itself(o: Objective, live: list[Tensor], frozen: list[Tensor], y: int) -> Tensor:
    supervised = cross_entropy(live[0], torch.tensor(y))
    return o.ce_weight * supervised + o.kl_weight * kl(live[0], frozen[0], o.temperature)


def ce(o: Objective, live: list[Tensor], frozen: list[Tensor], y: int) -> Tensor:
    return cross_entropy(live[0], torch.tensor(y))


SAMPLE = {
    "bikd": bikd,
    "dml": dml,
    "kd": kd,
    "kl_dp": kl_dp,
    "kl_dp_supervised": kl_dp,
    "self": itself,
    "ce": ce,
}


def batch_mean(o: Objective, live: list[Tensor], frozen: list[Tensor], labels: Tensor) -> Tensor:
    """The mean over all B samples of what one sample adds."""
    return torch.stack(
        [
            SAMPLE[o.name](o, [z[n] for z in live], [z[n] for z in frozen], y)
            for n, y in enumerate(labels.tolist())
        ]
    ).mean()


def plain(job: Job, networks: list[nn.Module]) -> list[nn.Module]:
    """The job's learners after the plain loop."""
    nets = copy.deepcopy(networks)
    live = nets[:1] if job.objective.directed else nets
    frozen = list(zip(job.members, nets, strict=True))[len(live) :]
    if job.objective.name in ("self", "kl_dp", "kl_dp_supervised"):
        frozen = [(job.members[0], copy.deepcopy(networks[0])), *frozen]
    optimizers = [torch.optim.Adam(n.parameters(), job.recipe.lr, weight_decay=1e-5) for n in live]

    def update(step: int) -> None:
        for optimizer in optimizers:
            optimizer.step()

    train(job, live, partial(batch_mean, job.objective), update, frozen)
    return live


def assert_parity(job: Job, networks: list[nn.Module]) -> list[dict[str, Tensor]]:
    fitted, expected = states(run(job, networks)[1]), plain(job, networks)
    assert len(fitted) == len(expected)
    for got, network in zip(fitted, expected, strict=True):
        assert_close(got, network.state_dict())
    return fitted


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("objective", "members"),
    [
        ({"name": "bikd"}, 2),
        ({"name": "bikd"}, 3),
        ({"name": "bikd", "detach_teacher": False}, 3),
        ({"name": "bikd", "mask": False}, 3),
        ({"name": "bikd", "ce_weight": 0.3, "kl_weight": 1.7}, 2),
        ({"name": "dml"}, 2),
        ({"name": "dml", "ce_weight": 0.3, "kl_weight": 1.7}, 3),
        ({"name": "dml", "detach_teacher": False}, 3),
        ({"name": "kd"}, 2),
        ({"name": "kd", "kd_weight": 0.9}, 3),
        ({"name": "kl_dp"}, 2),
        ({"name": "kl_dp"}, 3),
        ({"name": "kl_dp_supervised"}, 2),
        ({"name": "kl_dp_supervised"}, 3),
        ({"name": "self"}, 1),
        ({"name": "self", "ce_weight": 0.3, "kl_weight": 1.7}, 1),
    ],
    ids=lambda value: value if isinstance(value, int) else Objective(**value).label,
)
def test_every_objective_trains_as_its_equations_say(spec_file, objective, members, temperature):
    """With batch normalisation and dropout, and with models of two input sizes."""
    objective = {**objective, "temperature": temperature}
    job = job_of(spec_file, NAMES[:members], objective, zoo=noisy_zoo(), recipe=THREE_STEPS)
    assert_parity(job, networks_of(job))


def test_a_control_is_bit_for_bit_a_loop_of_cross_entropy_in_float32(spec_file):
    recipe = {"epochs": 2, "batch_size": 31, "lr": 1e-2}
    job = job_of(spec_file, ["small"], {"name": "ce"}, zoo=noisy_zoo(), recipe=recipe)
    network = networks_of(job, lambda n: n)[0]
    fitted = states(run(job, [network])[1])[0]
    optimizer = torch.optim.Adam(network.parameters(), 1e-2, weight_decay=1e-5, fused=True)
    train(job, [network], lambda z, _, y: cross_entropy(z[0], y), lambda step: optimizer.step())
    assert_equal(fitted, network.state_dict())


class Flat(nn.Module):
    """At the start, the same logits for every image: 1 for class `favourite` and else 0."""

    def __init__(self, network: nn.Module, favourite: int) -> None:
        super().__init__()
        self.network = network.double()
        head = list(network.children())[-1]
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)
        with torch.no_grad():
            head.bias.copy_(torch.arange(len(head.bias)) == favourite)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


@pytest.mark.parametrize("members", [2, 3])
def test_the_reference_code_is_reproduced_without_stop_gradient_for_each_rule_of_ties(
    spec_file, members
):
    """Three steps on its augmented pixels, from equal weights; the first step is rich in ties."""
    recipe = {"preset": "reference", **THREE_STEPS}
    ends = {}
    for ties in ("drop", "first", "last"):
        objective = {"name": "bikd", "detach_teacher": False, "ties": ties}
        job = job_of(spec_file, NAMES[:members], objective, zoo=noisy_zoo(), recipe=recipe)
        assert math.ceil(job.data.n_train / job.recipe.batch_size) == 3
        networks = [Flat(net, k + 1) for k, net in enumerate(networks_of(job, lambda n: n))]
        ends[ties] = assert_parity(job, list(networks))
    for one, other in (("drop", "first"), ("first", "last"), ("last", "drop")):
        name = "network.6.bias"
        assert (ends[one][0][name] - ends[other][0][name]).abs().max() > 1e-4


def test_a_stop_gradient_changes_what_the_teacher_learns(spec_file):
    ends = []
    for detach in (True, False):
        objective = {"name": "bikd", "detach_teacher": detach}
        job = job_of(spec_file, NAMES[:2], objective, zoo=noisy_zoo(), recipe=THREE_STEPS)
        ends.append(states(run(job)[1]))
    for one, other in zip(*ends, strict=True):
        assert not torch.equal(one["6.weight"], other["6.weight"])
