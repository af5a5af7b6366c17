"""What a backbone is worth elsewhere: votes against a slow loop, and from a spec to answers."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bikd_ray.errors import BikdError, UserError
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.store import Store, Writer
from bikd_ray.sweep.events import JobRequest
from bikd_ray.sweep.probes import missing_probes
from bikd_ray.train import Fit, fit
from bikd_ray.train.knn import KNNProbe, votes
from bikd_ray.train.member import Member
from tests.conftest import CLASSES, write_images
from tests.jobs import result_of
from tests.plain_loop import CPU, NAMES, networks_of

RECIPE = {"epochs": 2, "batch_size": 16, "lr": 3e-2}
DIGITS = {split: {"source": "digits", "split": split} for split in ("train", "val")}


def cosine(x: list[float], y: list[float]) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def slow_vote(bank: list, labels: list, asked: list, k: int, temperature: float) -> int:
    """One image, neighbour by neighbour."""
    near = sorted(range(len(bank)), key=lambda i: -cosine(bank[i], asked))[:k]
    sums: dict[int, float] = defaultdict(float)
    for i in near:
        sums[labels[i]] += math.exp(cosine(bank[i], asked) / temperature)
    return max(sums, key=lambda c: sums[c])


@pytest.mark.parametrize("k", [1, 20, 500])
@pytest.mark.parametrize("temperature", [0.07, 1.0, 0.002])
def test_votes_are_those_of_a_plain_loop_however_many_are_compared_at_a_time(k, temperature):
    g = torch.Generator().manual_seed(k)
    bank = torch.randn(60, 5, generator=g) + 0.5
    asked = torch.randn(23, 5, generator=g)
    labels = torch.randint(7, (60,), generator=g)
    few = min(k, 60)
    want = [slow_vote(bank.tolist(), labels.tolist(), x, few, temperature) for x in asked.tolist()]
    for at_once in (1, 130, 1 << 24):
        found = votes(bank, labels, asked, 7, k, temperature, at_once=at_once)
        assert found.tolist() == want


def test_a_temperature_near_0_is_the_nearest_image():
    g = torch.Generator().manual_seed(0)
    bank, asked = torch.randn(40, 6, generator=g), torch.randn(15, 6, generator=g)
    labels = torch.arange(40)
    nearest = votes(bank, labels, asked, 40, 1)
    assert torch.equal(votes(bank, labels, asked, 40, 20, 1e-5), nearest)


# -- in a job --------------------------------------------------------------------------


@pytest.fixture
def probe(tmp_path: Path) -> dict[str, Any]:
    """Coloured images of a probe's own."""
    return {
        split: {"source": "parquet", "path": str(write_images(tmp_path / f"{split}.pq", n, seed))}
        for split, n, seed in (("train", 30, 7), ("val", 25, 8))
    }


@pytest.fixture
def made(spec_file, probe):
    def jobs(**changes: Any):
        given = {"probe": {"flowers": probe}, "recipe": RECIPE, "objectives": ["bikd"]} | changes
        spec = load_spec(spec_file(pairings={"list": [list(NAMES[:2])]}, seeds=[0], **given))
        zoo, data = resolve(spec)
        return spec, zoo, data, all_jobs(spec, zoo, data)

    return jobs


def of_network(network: nn.Module, part: str, probe: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features by hand, of the tiny networks: all but the last layer."""
    images = probe.train if part == "train" else probe.val
    rows = []
    with torch.no_grad():
        for batch in images.batches(np.arange(len(images)), 64):
            (pixels,) = batch.views.values()
            x = pixels.float() / 255
            x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
            rows.append(network.eval()[:-1](x))  # type: ignore[index]
    return torch.cat(rows).numpy(), images.images.labels


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_a_model_is_probed_by_what_its_classifier_reads(made):
    _, _, data, jobs = made()
    job = next(job for job in jobs if len(job.members) == 2)
    network: Any = networks_of(job, lambda n: n)[0].train()
    nn.init.ones_(network[2].bias)  # no image is without features
    member = Member(job.members[0], network, CPU)
    at_work = KNNProbe.of(data.probes[0], data, [None, member], CPU)
    nobody, found = at_work.answers([None, member], batch_size=7)
    assert nobody is None
    assert found is not None
    assert member.network.training
    bank, labels = of_network(member.network, "train", at_work)
    asked, truth = of_network(member.network, "val", at_work)
    want = [slow_vote(bank.tolist(), labels.tolist(), x, 20, 0.07) for x in asked.tolist()]
    assert found.scores["knn"].tolist() == (np.array(want) == truth).tolist()
    assert found.values["knn"] == 100 * (np.array(want) == truth).mean()


class Sum(nn.Module):
    """No layer makes its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3 * 64, CLASSES), nn.Linear(3 * 64, CLASSES)

    def forward(self, x):
        return self.a(x.flatten(1)) + self.b(x.flatten(1))


class Infinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 64, CLASSES)

    def forward(self, x):
        return self.head(x.flatten(1) * torch.inf)


def test_no_features_is_no_answer_and_infinite_ones_are_refused(made):
    _, _, data, jobs = made()
    job = jobs[0]
    at_work = KNNProbe.of(data.probes[0], data, [Member(job.members[0], Sum(), CPU)], CPU)
    assert at_work.answers([Member(job.members[0], Sum(), CPU)]) == [None]
    with pytest.raises(BikdError, match=r"small has features that are NaN .* the probe flowers"):
        at_work.answers([Member(job.members[0], Infinite(), CPU)])


def test_a_probe_is_in_no_id(made):
    with_probe = made()[3]
    without = made(probe={})[3]
    assert [job.job_id for job in with_probe] == [job.job_id for job in without]


def test_a_learner_is_probed_before_and_at_each_selected_epoch(made):
    _, _, data, jobs = made()
    job = next(job for job in jobs if len(job.members) == 2)
    networks = networks_of(job, lambda network: network)
    *_, end = fit(job, networks, CPU)
    assert isinstance(end, Fit)
    found = {(one.selection, one.member): one for one in end.probed}
    assert set(found) == {(s, k) for s in ("last", "best_val") for k in (0, 1)}
    fresh = networks_of(job, lambda network: network)
    for (selection, k), one in found.items():
        chosen = end.chosen[selection][k]
        fresh[k].load_state_dict(networks_of(job, lambda n: n)[k].state_dict())
        for state, want in ((None, one.before), (chosen.state, one.after)):
            if state is not None:
                fresh[k].load_state_dict(state)
            member = Member(job.members[k], fresh[k], CPU)
            (again,) = KNNProbe.of(data.probes[0], data, [member], CPU).answers([member])
            assert again is not None
            assert again.scores["knn"].tolist() == want.scores["knn"].tolist()


def test_weights_that_nobody_keeps_are_probed_at_the_last_epoch_alone(made):
    job = next(job for job in made(recipe={**RECIPE, "epochs": 3})[3] if len(job.members) == 2)
    *_, end = fit(job, networks_of(job, lambda network: network), CPU, keep=())
    assert isinstance(end, Fit)
    for one in end.probed:
        assert one.selection == "last" or end.chosen[one.selection][one.member].epoch in (0, 3)
    assert {one.member for one in end.probed if one.selection == "last"} == {0, 1}


# -- in a store ------------------------------------------------------------------------


@pytest.fixture
def store(made, tmp_path) -> Store:
    """What a sweep writes of a pair and its controls, without Ray."""
    from bikd_ray.metrics import KNN
    from bikd_ray.sweep.baselines import Baseline, model_row
    from bikd_ray.sweep.baselines import measure as baseline
    from bikd_ray.sweep.capacity import ResourceRequest
    from bikd_ray.sweep.probes import measure
    from bikd_ray.tasks import task_of
    from bikd_ray.weights import keep_all

    _, zoo, data, jobs = made()
    uri, one = str(tmp_path / "kept"), ResourceRequest(1, 0)
    writer = Writer(uri)
    keep_all(writer.fs, zoo.values())
    writer.write_metrics(data.data_id, data.task, (*task_of().metrics, KNN))
    for model in zoo.values():
        found: Baseline = baseline(model, data, one, uri, "val")
        writer.commit_baseline(found.rows, model_row(model, data), found.statistics)
        for row in measure(model, data, data.probes, one, uri):
            writer.commit_baseline([row], model_row(model, data))
    for job in jobs:
        end = result_of(JobRequest(job, "s", uri, keep=("last",)))
        assert end.error is None
        writer.commit_job(end.job, end.results, end.curves, end.similarities)
    return Store(uri)


def test_answers_are_those_of_any_metric_on_any_set(store):
    assert store.eval_sets() == ["val", "flowers"]
    untouched = {r["model"]: r for r in store.baselines("knn", "flowers").to_pylist()}
    assert set(untouched) == set(NAMES)
    (row,) = store.partners("small", metric="knn", eval_set="flowers").to_pylist()
    assert (row["metric"], row["unit"], row["eval_set"], row["n"]) == ("knn", "%", "flowers", 25)
    assert row["before"] == untouched["small"]["value"]
    assert row["delta_low"] <= row["delta"] <= row["delta_high"]
    assert row["control_delta"] is not None
    assert row["net_delta"] == pytest.approx(row["delta"] - row["control_delta"])
    assert row["q_value"] is not None
    assert row["verdict"] in ("no difference found", "improves", "harmed")
    (val,) = store.partners("small").to_pylist()
    assert (val["metric"], val["eval_set"], val["n"]) == ("top1", "val", 40)
    assert not len(store.partners("small", metric="knn"))
    with pytest.raises(UserError, match=r"no evaluation set 'flower' .*\(did you mean 'flowers'"):
        store.partners("small", metric="knn", eval_set="flower")


def test_what_the_store_has_is_not_measured_again_and_other_images_need_another_name(
    store, made, probe
):
    _, zoo, data, _ = made()
    assert missing_probes(zoo, data, store) == {}
    _, zoo, data, _ = made(probe={"flowers": probe, "birds": probe})
    assert {n: [p.name for p in ps] for n, ps in missing_probes(zoo, data, store).items()} == {
        name: ["birds"] for name in NAMES
    }
    _, zoo, data, _ = made(probe={"flowers": {**probe, "k": 5}})
    with pytest.raises(UserError, match=r"^probe.flowers: the store .* another name"):
        missing_probes(zoo, data, store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "probe.flowers.k"),
        ({"temperature": 0}, "probe.flowers.temperature"),
        ({"val": {"source": "digits", "split": "val", "labels": "none"}}, "val needs labels"),
        ({"neighbours": 3}, "probe.flowers.neighbours"),
    ],
)
def test_what_is_wrong_with_a_probe_is_one_line(spec_file, probe, changes, message):
    with pytest.raises(UserError) as caught:
        load_spec(spec_file(probe={"flowers": {**probe, **changes}}))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_probe_that_cannot_be_opened_is_named(spec_file, probe, tmp_path):
    lost = {**probe, "val": {"source": "parquet", "path": str(tmp_path / "lost.parquet")}}
    with pytest.raises(UserError, match=r"^probe\.flowers: "):
        resolve(load_spec(spec_file(probe={"flowers": lost})))
    with pytest.raises(UserError, match=r"probe: 'val' cannot be a probe's name"):
        load_spec(spec_file(probe={"val": probe}))
    given = spec_file(probe={"flowers": DIGITS}, task="tests.ordinal:Ordinal", objectives=["bikd"])
    with pytest.raises(UserError, match=r"^probe: models of task .* have no features"):
        resolve(load_spec(given))
