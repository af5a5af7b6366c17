"""The K-model loop, without Ray: against plain loops, and bit for bit where that is promised."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from bikd_ray.data.loader import Loader
from bikd_ray.data.sources import open_images
from bikd_ray.data.views import Normalise
from bikd_ray.identity import derived_seed
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import Objective
from bikd_ray.sweep.job import run_job
from bikd_ray.sweep.messages import Epoch, Order, Outcome
from bikd_ray.tasks.classification import outcome
from bikd_ray.train import Fit, NonFiniteLoss, fit
from bikd_ray.zoo import build

CPU = torch.device("cpu")


@pytest.fixture
def tiny(spec_file):
    """Jobs of a spec, by their members' names and seed."""

    def jobs(**changes):
        spec = load_spec(spec_file(**changes))
        found = all_jobs(spec, *resolve(spec))
        return {(frozenset(j.names), j.seed): j for j in found}

    return jobs


def run(job):
    *rows, done = fit(job, [build(m.entry) for m in job.members], CPU)
    assert isinstance(done, Fit)
    return rows, done


def states(done, selection="last"):
    return [c.state for c in done.chosen[selection]]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("members", [("small", "medium"), ("small", "medium", "large")])
def test_two_epochs_equal_a_plain_loop_written_from_the_equations(tiny, members):
    pairing = {"list": [list(members)]}
    job = tiny(pairings=pairing, recipe={"epochs": 2, "batch_size": 16, "lr": 1e-2})[
        frozenset(members), 0
    ]
    _, done = run(job)

    nets = [build(m.entry).train() for m in job.members]
    optimizers = [torch.optim.Adam(n.parameters(), lr=1e-2, weight_decay=1e-5) for n in nets]
    images = open_images(job.data.data.train)
    loader = Loader(images, [m.input.view for m in job.members], CPU, cache="none")
    normalise = Normalise(job.members[0].input, CPU)
    for epoch in (1, 2):
        order = np.random.default_rng(derived_seed(0, "order", epoch)).permutation(62)
        for batch in loader.batches(order, 16):
            x = normalise(batch.views[job.members[0].input.view])
            z = [n(x) for n in nets]
            p = torch.stack([F.softmax(-1) for F in z]).detach()
            p_true = p[:, torch.arange(len(batch.labels)), batch.labels]
            total = sum(cross_entropy(logits, batch.labels) for logits in z)
            teacher = p_true.argmax(0)
            for j, logits in enumerate(z):
                for n in range(len(batch.labels)):
                    if teacher[n] != j:
                        kl = kl_div(logits[n].log_softmax(-1), p[teacher[n], n], reduction="sum")
                        total = total + kl / len(batch.labels)
            for optimizer in optimizers:
                optimizer.zero_grad()
            total.backward()
            for optimizer in optimizers:
                optimizer.step()
    for net, state in zip(nets, states(done), strict=True):
        for name, tensor in net.state_dict().items():
            assert torch.allclose(tensor, state[name], atol=2e-5), name


def test_a_job_is_the_same_bit_for_bit_when_run_again_and_after_another(tiny):
    jobs = tiny()
    a, b = jobs[frozenset({"small", "medium"}), 0], jobs[frozenset({"small", "large"}), 1]
    first = states(run(a)[1])
    run(b)
    torch.rand(17)
    for one, two in zip(first, states(run(a)[1]), strict=True):
        assert_equal(one, two)


@pytest.mark.parametrize("augment", ["none", "timm"])
def test_a_member_whose_partner_never_teaches_trains_as_its_control_does(tiny, augment):
    """With dropout: the partner draws random numbers too, and must not disturb the member."""
    zoo = [
        {"factory": "tests.conftest:net", "alias": a, "kwargs": {"width": w, "dropout": 0.3},
         "input": {"size": size, "crop_pct": 1.0}} for a, w, size in (("a", 4, 8), ("b", 6, 9))
    ]  # fmt: skip
    recipe = {"epochs": 2, "batch_size": 16, "lr": 1e-2, "augment": augment}
    jobs = tiny(zoo=zoo, controls=True, recipe=recipe)
    pair, control = jobs[frozenset("ab"), 0], jobs[frozenset("a"), 0]
    silent = dataclasses.replace(pair, objective=Objective(name="ce"))
    alone = states(run(control)[1])[0]
    together = states(run(silent)[1])[pair.names.index("a")]
    assert_equal(alone, together)
    taught = states(run(pair)[1])[pair.names.index("a")]
    assert any(not torch.equal(taught[n], alone[n]) for n in alone)


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
    assert all(np.isfinite(r.ce) and np.isfinite(r.kl) for r in rows[-1])


def test_rows_of_an_epoch_add_up(tiny):
    job = tiny()[frozenset({"small", "medium"}), 0]
    rows, done = run(job)
    assert [r[0].epoch for r in rows] == [0, 1, 2]
    assert rows[0][0].train_loss is None
    for one in rows[1:]:
        assert sum(r.teacher_share for r in one) == pytest.approx(1)
        for r in one:
            assert r.train_loss == pytest.approx(r.ce + r.kl)
    assert rows[-1][0].top1 == done.chosen["last"][0].outcome.top1


def test_best_val_is_the_highest_epoch_and_the_untouched_model_can_win(tiny):
    job = tiny(recipe={"epochs": 3, "batch_size": 16, "lr": 10.0})[frozenset({"small"}), 0]
    rows, done = run(job)
    top = [r[0].top1 for r in rows]
    chosen = done.chosen["best_val"][0]
    assert chosen.outcome.top1 == max(top)
    assert chosen.epoch == top.index(max(top))
    if chosen.epoch == 0:
        assert_equal(chosen.state, build(job.members[0].entry).state_dict())


def test_a_held_out_part_of_train_chooses_best_select(tiny, spec_file):
    base = load_spec(spec_file()).data.model_dump()
    job = tiny(data={**base, "select_fraction": 0.25})[frozenset({"small", "medium"}), 0]
    rows, done = run(job)
    assert set(done.chosen) == {"last", "best_val", "best_select"}
    select = [r[0].select_top1 for r in rows]
    assert done.chosen["best_select"][0].epoch == select.index(max(select))


def test_a_loss_that_is_not_finite_ends_the_job_with_the_step_and_the_learning_rate(tiny):
    job = tiny(recipe={"epochs": 2, "batch_size": 16, "lr": 1e38, "optimizer": "sgd"})[
        frozenset({"small", "medium"}), 0
    ]
    with pytest.raises(NonFiniteLoss, match=r"at step \d+ \(epoch \d\) with lr 1e\+38"):
        run(job)
    order = Order(job, "tiny", "/nowhere")
    end = list(run_job(order, CPU))[-1]
    assert isinstance(end, Outcome)
    assert end.job["status"] == "failed"
    assert "NaN or infinite" in end.error.splitlines()[0]
    assert end.results == []


def test_a_job_yields_its_epochs_and_then_the_rows_to_store(tiny, tmp_path):
    job = tiny()[frozenset({"small", "medium"}), 0]
    *epochs, end = run_job(Order(job, "tiny", str(tmp_path), ("last",)), CPU)
    assert epochs == [Epoch(e, 2) for e in (0, 1, 2)]
    assert end.error is None
    assert [(r["model"], r["selection"]) for r in end.results] == [
        (name, s) for s in ("last", "best_val") for name in job.names
    ]
    for row in end.results:
        assert row["delta_top1"] == pytest.approx(row["top1_after"] - row["top1_before"])
        assert row["delta_top1"] == pytest.approx(100 * (row["gained"] - row["lost"]) / row["n"])
        assert (row["p_value"] is None) == (row["selection"] == "best_val")
    kept = [r["weights"] for r in end.results if r["weights"]]
    assert len(kept) == 2
    from safetensors.torch import load_file

    after = build(job.members[0].entry)
    after.load_state_dict(load_file(kept[0]))


def test_weights_that_changed_since_the_plan_are_refused(tiny, tmp_path):
    job = tiny()[frozenset({"small"}), 0]
    stale = dataclasses.replace(job.members[0], weights_id="0" * 16)
    end = list(run_job(Order(dataclasses.replace(job, members=(stale,)), "t", str(tmp_path)), CPU))
    assert "its checkpoint changed" in end[-1].error


def test_bf16_trains_and_stays_close_to_fp32(tiny):
    key = (frozenset({"small", "medium"}), 0)
    recipe = {"epochs": 1, "batch_size": 16, "lr": 1e-3}
    full = states(run(tiny(recipe=recipe)[key])[1])[0]
    half = states(run(tiny(recipe={**recipe, "precision": "bf16"})[key])[1])[0]
    for name in full:
        assert torch.allclose(full[name], half[name], atol=5e-3), name


def test_metrics_equal_plain_definitions():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(500, 12, generator=g) * 2
    y = torch.randint(12, (500,), generator=g)
    o = outcome(z, y)
    p = z.softmax(-1)
    assert o.top1 == pytest.approx(100 * (z.argmax(-1) == y).float().mean().item())
    top5 = sum(y[i] in z[i].topk(5).indices for i in range(500)) / 5
    assert o.top5 == pytest.approx(top5)
    assert o.nll == pytest.approx(cross_entropy(z, y).item(), rel=1e-6)
    confidence, right = p.max(-1).values, z.argmax(-1) == y
    ece = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            gap = right[inside].float().mean() - confidence[inside].mean()
            ece += inside.float().mean().item() * abs(gap.item())
    assert o.ece == pytest.approx(ece, abs=1e-6)


def test_a_tie_of_classes_goes_to_the_lowest_as_argmax_has_it():
    o = outcome(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    assert o.predicted_N.tolist() == [0, 0, 0]
    assert o.top_classes_Nk.tolist() == [[0, 1, 2, 3]] * 3
