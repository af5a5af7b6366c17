"""A task of somebody else, from its name to what is measured; and what is wrong with one."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bikd_ray.data import open_split
from bikd_ray.data.loader import Batch, Loader
from bikd_ray.errors import UserError
from bikd_ray.metrics import Metric
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import Resources
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import Measured, Prediction, Task, measured
from bikd_ray.tasks.checked import Checked
from bikd_ray.train import EpochRow, Fit, fit
from tests.answers import statistics
from tests.ordinal import Ordinal
from tests.placed import run_placed
from tests.plain_loop import CPU, NAMES, assert_close, networks_of, states
from tests.plans import DIGITS

ORDINAL = "tests.ordinal:Ordinal"
RECIPE = {"epochs": 2, "batch_size": 100, "lr": 1e-2, "train_fraction": 0.2}


@pytest.fixture
def job(spec_file, tmp_path):
    def made(task: str = ORDINAL, **changes: Any):
        zoo = [
            {"factory": "tests.ordinal:network", "alias": name, "input": {"size": size},
             "kwargs": {"width": width}}
            for name, width, size in zip(NAMES[:2], (4, 6), (8, 9), strict=True)
        ]  # fmt: skip
        data = {**DIGITS, "cache": str(tmp_path / "views"), "select_fraction": 0.1}
        changes = {
            "recipe": RECIPE,
            "zoo": zoo,
            "data": data,
        } | changes
        spec = load_spec(spec_file(task=task, objectives=["bikd"], controls=False, **changes))
        return next(iter(all_jobs(spec, *resolve(spec))))

    return made


def run(job, **how: Any) -> tuple[list[list[EpochRow]], Fit]:
    *rows, end = fit(job, networks_of(job, lambda network: network), CPU, **how)
    assert isinstance(end, Fit)
    return rows, end  # type: ignore[return-value]


@pytest.mark.parametrize("task", [ORDINAL, "tests.ordinal:Reversed"])
def test_a_task_that_nobody_here_knows_is_learned_and_measured(job, task):
    rows, end = run(job(task))
    first, last = rows[0], rows[-1]
    for k, row in enumerate(last):
        assert row.score < first[k].score  # an error: lower is better
        assert row.loss is not None
        assert row.kl is not None
        assert row.kl > 0
        assert row.teacher_share is not None
        assert row.select_score is not None
        assert (row.train_score, row.case1) == (None, None)  # nobody is right or wrong
        best = end.chosen["best_val"][k]
        assert best.outcome.values["mae"] == min(row_[k].score for row_ in rows)
        scores = best.outcome.scores["mae"]
        assert scores.shape == (898,)
        assert best.outcome.values["mae"] == pytest.approx(scores.mean())
    assert end.likeness == []
    assert end.before.ensemble is not None
    error = [outcome.statistics["error"] for outcome in end.before.outcomes]
    assert np.allclose(end.before.ensemble.statistics["error"], np.mean(error, 0), atol=1e-5)


@pytest.mark.parametrize("how", [{"cache": "none"}, {"decoders": 1}, {"micro_batch": 30}], ids=str)
def test_targets_are_the_same_kept_or_rendered_on_the_way_whole_or_in_parts(job, tmp_path, how):
    data = {**DIGITS, "cache": how.get("cache", str(tmp_path / "other"))}
    if "decoders" in how:
        data["cache"] = "none"
    cached = run(job(data={**DIGITS, "cache": str(tmp_path / "views")}), similarity=False)[1]
    assert list((tmp_path / "views").glob("*-ones.bin"))
    resources = Resources(micro_batch=how.get("micro_batch", "auto"))
    other = run(job(data=data), resources=resources, decoders=how.get("decoders", 0))[1]
    for a, b in zip(states(cached), states(other), strict=True):
        assert_close(a, b, 1e-4)


def test_kept_targets_that_are_torn_are_rendered_again(job, tmp_path):
    given = job()
    images, views = open_split(given.data, "val"), [m.input.view for m in given.members]
    how: dict[str, Any] = {"cache": str(tmp_path / "views"), "task": task_of(ORDINAL)}

    def first() -> Batch:
        return next(Loader(images, views, CPU, **how).batches(np.array([7, 3, 500]), 3))

    before = first()
    values = images.labels[[7, 3, 500]]
    assert before.target["value"].tolist() == values.tolist()
    assert [len(ones) for ones in before.target["ones"]] == values.tolist()
    (torn,) = (tmp_path / "views").glob("*-ones.bin")
    torn.write_bytes(torn.read_bytes()[:-4])
    again = first()
    assert [len(ones) for ones in again.target["ones"]] == values.tolist()
    part = again.part(slice(1, 3))
    assert part.target["value"].tolist() == values[1:].tolist()
    assert [len(ones) for ones in part.target["ones"]] == values[1:].tolist()


@pytest.mark.parametrize("split", ["models", "samples"])
def test_several_workers_do_what_one_does(job, tmp_path, split):
    given = job(recipe={**RECIPE, "epochs": 1, "train_fraction": 0.05, "batch_size": 15})
    rows, end = fit_double(given)
    (found,) = run_placed([(given, split)], 2, tmp_path)
    of_last = [chosen.outcome for chosen in end.chosen["last"]]
    for told in found:
        for a, b in zip(told["rows"][-1], rows[-1], strict=True):
            assert a.score == pytest.approx(b.score, rel=1e-5)
            assert a.loss == pytest.approx(b.loss, rel=1e-5)
    for k, outcome in enumerate(of_last):
        state = found[k if split == "models" else 0]["states"][k]
        assert_close(state, states(end)[k], 1e-5)
        assert outcome.values["mae"] == pytest.approx(rows[-1][k].score)


def fit_double(job) -> tuple[list, Fit]:
    *rows, end = fit(job, networks_of(job), CPU)
    assert isinstance(end, Fit)
    return rows, end


def test_the_default_task_leaves_ids_as_they_were_and_another_does_not(job):
    plain, other = job("classification"), job(ORDINAL)
    assert plain.data.task == "classification"
    assert plain.data.data_id != other.data.data_id
    same = {"task": ORDINAL, "data_id": "", "num_classes": 0, "classes": None}
    assert replace(plain.data, **same) == replace(other.data, data_id="")  # it has no classes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clasification", r"unknown task 'clasification'; choose from classification, saliency, "
         r"segmentation \(did you mean 'classification'\?\), or MODULE:CLASS"),
        ("no.such:Thing", r"task no.such:Thing: cannot import no.such \(ModuleNotFoundError: "),
        ("tests.ordinal:Ordnal", r"task tests.ordinal:Ordnal: tests.ordinal has no Ordnal; choose "
         r"from Ordinal, Reversed, Unfinished \(did you mean 'Ordinal'\?\)"),
        ("tests.ordinal:NotATask", "task tests.ordinal:NotATask: NotATask is no subclass of"),
        ("tests.ordinal:Unfinished", "task tests.ordinal:Unfinished: Unfinished lacks ensemble, "
         "loss, measure, scores, which a task has"),
    ],
)  # fmt: skip
def test_what_is_no_task_is_refused_in_one_line(spec_file, name, message):
    with pytest.raises(UserError, match=f"^{message}") as refused:
        task_of(name)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=message):
        resolve(load_spec(spec_file(task=name)))


def wrong(**methods: Any) -> Checked:
    """The worked example with methods or attributes that do not fit."""
    return Checked(type("Wrong", (Ordinal,), {**methods, "name": "wrong"})())


def batch(count: int = 4) -> Batch:
    ones = [torch.ones(3)] * count
    target = {"value": torch.full((count,), 3.0), "ones": ones}
    views: dict[Any, Tensor] = {None: torch.zeros(count, 3, 2, 2)}
    return Batch(views, target, torch.arange(count), count, count)


OUT = torch.zeros(4, 10)
GIVES: list[tuple[str, Any, tuple, str]] = [
    ("predict", Prediction(torch.zeros(4, 3)), (OUT, batch()),
     "predict gave log_prob float32 [4, 3]; asked for: float32 or float64 [B = 4, E, P]"),
    ("predict", Prediction(torch.zeros(4, 3, 2).half()), (OUT, batch()),
     "predict gave log_prob float16 [4, 3, 2]; asked for: float32 or float64 [B = 4, E, P]"),
    ("predict", Prediction(torch.zeros(4, 3, 2), torch.ones(4, 2)), (OUT, batch()),
     "predict gave valid float32 [4, 2]; asked for: bool [B = 4, P = 2]"),
    ("predict", OUT, (OUT, batch()), "predict gave float32 [4, 10]; asked for: a Prediction"),
    ("loss", torch.zeros(()), (OUT, Prediction(torch.zeros(4, 3, 1)), batch()),
     "loss gave float32 []; asked for: a float tensor [B = 4]"),
    ("confidence", None, (Prediction(torch.zeros(4, 3, 1)), torch.zeros(4), batch()),
     "confidence gave a NoneType; asked for: a float tensor [B = 4]"),
    ("certainty", torch.zeros(4, 1), (Prediction(torch.zeros(4, 3, 1)),),
     "certainty gave float32 [4, 1]; asked for: a float tensor [B = 4]"),
    ("right", torch.zeros(4), (Prediction(torch.zeros(4, 3, 1)), batch()),
     "right gave float32 [4]; asked for: bool [B = 4] or None"),
    ("answer", torch.zeros(3), (OUT, batch()), "answer gave 3 answers; asked for: a float32 "
     "tensor [B = 4, …], or a list of 4 of them"),
    ("answer", [torch.zeros(2).double()] * 4, (OUT, batch()), "answer gave float64 [2]; asked "
     "for: a float32 tensor [B = 4, …], or a list of 4 of them"),
    ("ensemble", None, ([torch.zeros(4)],), "ensemble gave a NoneType; asked for: a float32 "
     "tensor [B = 4, …], or a list of 4 of them"),
    ("measure", {"error": torch.zeros(3)}, (torch.zeros(4), batch()),
     "measure gave error float32 [3]; asked for: a tensor [B = 4, …]"),
    ("measure", torch.zeros(4), (torch.zeros(4), batch()),
     "measure gave float32 [4]; asked for: a dict of tensors [B, …]"),
    ("scores", {"mae": np.zeros(4)}, ({},),
     "scores gave mae; asked for: one for each of mae, bias"),
    ("scores", {"mae": np.zeros(4), "bias": np.zeros(3)}, ({},),
     "scores gave bias float64 [3]; asked for: float [N = 4]"),
    ("scores", {"mae": np.zeros(4, bool), "bias": np.zeros(4)}, ({},),
     "scores gave mae bool [4]; asked for: float [N = 4]"),
    ("of_each", np.zeros(3), ({"error": np.zeros(4)},),
     "of_each gave float64 [3]; asked for: floats [N] = [4]"),
    ("draw", [np.zeros((8, 8, 3), np.uint8)] * 2, (batch(1), [OUT]),
     "draw gave 2 pictures; asked for: the sample, what is right, and 1 answers"),
    ("draw", [np.zeros((8, 8), np.uint8)] * 3, (batch(1), [OUT]),
     "draw gave uint8 [8, 8]; asked for: uint8 [H, W, 3]"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "gives", "given", "message"), GIVES)
def test_a_method_that_gives_what_it_should_not_is_named_with_both_shapes(
    method, gives, given, message
):
    task = wrong(**{method: lambda self, *_: gives})
    with pytest.raises(UserError, match=f"^{re.escape(f'task wrong: {message}')}$"):
        getattr(task, method)(*given)


def test_a_wrong_divergence_rendering_or_list_of_metrics_is_named_too(job):
    task = wrong(divergence=lambda self, student, teacher: torch.zeros(2))
    one = Prediction(torch.zeros(4, 3, 1))
    assert task.divergence is not None
    with pytest.raises(UserError, match=r"^task wrong: divergence gave float32 \[2\]; asked"):
        task.divergence(one, one)
    pixels = [np.zeros((3, 8, 8))]
    task = wrong(render=lambda self, *_: (pixels, None))
    with pytest.raises(UserError, match=r"^task wrong: render gave pixels float64 \[3, 8, 8\]"):
        task.render(None, 0, [None], "none", 0)  # type: ignore[arg-type, list-item]
    with pytest.raises(UserError, match=r"Wrong: metrics must be a tuple of bikd_ray"):
        wrong(metrics=("mae",))
    with pytest.raises(UserError, match=r"Wrong: metrics has a name twice: mae, mae$"):
        wrong(metrics=(Metric("mae", "MAE"), Metric("mae", "MAE")))


def test_targets_of_several_shapes_that_are_not_said_to_be_ragged_are_refused(job, monkeypatch):
    monkeypatch.setattr(Ordinal, "ragged", ())
    with pytest.raises(UserError, match=r"^render gave targets 'ones' of several shapes \(\[0\] a"):
        run(job())


def test_a_binary_metric_in_percent_is_the_share_and_the_calibration_error_a_mean():
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(300, 7, generator=g), torch.randint(7, (300,), generator=g)
    found = measured(task_of(), statistics(z, y))
    assert isinstance(found, Measured)
    assert found.scores["top1"].dtype == found.scores["top5"].dtype == bool
    assert found.values["top1"] == 100 * found.scores["top1"].mean()
    p, right = z.softmax(-1).max(-1).values.double().numpy(), (z.argmax(-1) == y).numpy()
    bins = (p * 15).astype(int)
    gaps = [abs((right - p)[bins == b].sum()) for b in range(15)]
    assert found.values["ece"] == pytest.approx(sum(gaps) / 300, abs=1e-7)
    assert found.values["ece"] == pytest.approx(found.scores["ece"].mean(), rel=1e-12)


def test_the_checks_pass_on_every_method_of_a_task():
    """Else a task's own would be lost behind the default."""
    own = {name: what for name, what in vars(Task).items() if not name.startswith("_")}
    methods = {name for name, what in own.items() if callable(what) or isinstance(what, property)}
    assert methods <= set(vars(Checked))
    values = {name: object() for name in own.keys() - methods - {"name", "metrics", "divergence"}}
    assert {name: getattr(wrong(**values), name) for name in values} == values
