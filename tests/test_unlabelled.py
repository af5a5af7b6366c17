"""Images that nobody has labelled: read from every source, learned from, and what is then said."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from bikd_ray.data import open_split
from bikd_ray.data.sources import open_images
from bikd_ray.errors import UserError
from bikd_ray.export.card import _summary
from bikd_ray.export.summary import around, results_of
from bikd_ray.plan import all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.specs import FolderData, ParquetData, TimmData
from bikd_ray.store import Store, Writer
from bikd_ray.store.read import pc
from bikd_ray.store.verdicts import AGAINST_UNTOUCHED, headline
from bikd_ray.tasks.classification import Classification
from bikd_ray.tasks.classification_metrics import METRICS
from bikd_ray.train import Fit, NonFiniteLoss, fit
from tests.images import noise, png, same_image, write_tar
from tests.plain_loop import CPU, NAMES, assert_close, job_of, networks_of, states
from tests.stores import BEFORE, after, baseline, job

BARE = {"name": "bikd", "confidence": "max", "ce_weight": 0}
OBJECTIVES = {
    "bikd": BARE,
    "all on all": {"name": "bikd", "mask": False, "ce_weight": 0},
    "dml": {"name": "dml", "ce_weight": 0},
    "kd": {"name": "kd", "kd_weight": 1},
    "kl_dp": {"name": "kl_dp"},
    "self": {"name": "self", "ce_weight": 0},
}


@pytest.fixture
def bare(images: Path, tmp_path: Path) -> dict[str, Any]:
    """`data` of a spec whose train images have no labels."""
    table = pq.read_table(images / "train.parquet").drop_columns("label")
    pq.write_table(table, tmp_path / "bare.parquet", row_group_size=16)
    return {
        "train": {"source": "parquet", "path": str(tmp_path / "bare.parquet"), "labels": "none"},
        "val": {"source": "parquet", "path": str(images / "val.parquet")},
        "cache": "none",
    }


# -- sources ---------------------------------------------------------------------------


def put(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed))
    return root


def folder(root: Path) -> Any:
    put(root, "0.png", "deep/er/1.png", "more/2.png")
    return FolderData(source="folder", path=str(root), labels="none")


def parquet(root: Path) -> Any:
    root.mkdir()
    pq.write_table(pa.table({"image": [png(i) for i in range(3)]}), root / "a.parquet")
    return ParquetData(source="parquet", path=str(root), labels="none")


def tar(root: Path) -> Any:
    members = {"0.png": png(0), "deep/1.png": png(1), "deep/er/2.png": png(2)}
    path = write_tar(root / "a.tar", members)
    return TimmData(source="timm", path=str(path), labels="none")


def shards(root: Path) -> Any:
    path = write_tar(root / "a.tar", {f"{i}.png": png(i) for i in range(3)})
    return TimmData(source="timm", name="wds/", path=str(path), labels="none")


def saved(root: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    given = datasets.Dataset.from_dict({"image": [noise(i) for i in range(3)]})
    given.save_to_disk(str(root))
    return TimmData(source="timm", name=f"hfds/{root}", labels="none")


@pytest.mark.parametrize("made", [folder, parquet, tar, shards, saved])
def test_every_source_gives_its_images_without_labels(tmp_path, made):
    images = open_images(made(tmp_path / "data"))
    assert images.labels.tolist() == [-1, -1, -1]
    assert images.classes is None
    assert all(same_image(images.image(i), noise(i)) for i in range(3))


def test_a_folder_called_none_is_a_path(tmp_path):
    source = FolderData(source="folder", path=str(put(tmp_path, "none/0.png", "some/1.png")))
    assert open_images(source).labels.tolist() == [0, 1]


def test_labels_that_are_there_are_not_read_and_make_another_data_set(spec_file, images, bare):
    labelled = {**bare, "train": {"source": "parquet", "path": str(images / "train.parquet")}}
    ignored = {**bare, "train": {**labelled["train"], "labels": "none"}}
    (_, with_them), (_, without), (_, dropped) = (
        resolve(load_spec(spec_file(data=data, objectives=[BARE])))
        for data in (labelled | {"select_fraction": 0}, ignored, bare)
    )
    assert without.data_id == dropped.data_id != with_them.data_id
    assert without.unit_set_id == with_them.unit_set_id
    assert without.num_classes == 4
    assert (open_split(without, "train").labels == -1).all()
    (note,) = (note for note in without.notes if "labels" in note)
    assert note.startswith("train: 62 images without labels: ")
    assert note.endswith("net Δ is against the untouched models (Δ 0 by definition)")


# -- what a spec may ask for -----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ["bikd"]}, "objectives: bikd cannot train on images without labels "
         "(data.train.labels: none): it adds cross-entropy and the label chooses its teachers; set "
         "ce_weight: 0 and confidence: max"),
        ({"objectives": [{"name": "bikd", "ce_weight": 0}]}, "the label chooses its teachers; set "
         "confidence: max"),
        ({"objectives": ["dml"]}, "it adds cross-entropy; set ce_weight: 0"),
        ({"objectives": ["self"]}, "it adds cross-entropy; set ce_weight: 0"),
        ({"objectives": ["kd"]}, "it adds cross-entropy; set kd_weight: 1"),
        ({"objectives": ["ce"]}, "it learns from labels alone; leave it out"),
        ({"objectives": ["kl_dp_supervised"]}, "the label chooses its teachers; take kl_dp"),
        ({"data": {"select_fraction": 0.1}}, "select_fraction needs labels to choose an epoch by, "
         "and train has none; leave it out"),
        ({"data": {"val": {"labels": "none"}}}, "val needs labels: models are measured on it; "
         "labels: none is for train"),
    ],
)  # fmt: skip
def test_what_needs_labels_is_refused_when_the_spec_is_read(spec_file, bare, changes, message):
    data = {**bare, **changes.get("data", {})}
    data["val"] = {**bare["val"], **changes.get("data", {}).get("val", {})}
    given = {"objectives": [BARE], **changes, "data": data}
    with pytest.raises(UserError) as caught:
        load_spec(spec_file(**given))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_tasks_that_render_their_targets_are_refused(spec_file, bare):
    spec = load_spec(spec_file(data=bare, objectives=[BARE], task="tests.ordinal:Ordinal"))
    with pytest.raises(UserError, match=r"labels: none is for tasks whose targets are labels"):
        resolve(spec)


def test_the_untouched_models_are_the_controls_and_no_jobs(spec_file, bare):
    spec = load_spec(spec_file(data=bare, objectives=[BARE, OBJECTIVES["self"]], controls=True))
    jobs = all_jobs(spec, *resolve(spec))
    assert {job.objective.name for job in jobs} == {"bikd", "self"}


# -- training --------------------------------------------------------------------------


class Bare(Classification):
    """Classification that cannot say what is right."""

    def loss(self, output, prediction, batch):
        raise AssertionError("there is no target")

    def confidence(self, prediction, loss_B, batch):
        raise AssertionError("there is no target")

    def right(self, prediction, batch):
        raise AssertionError("there is no target")


def result(job, **how: Any) -> tuple[list, Fit]:
    *rows, end = fit(job, networks_of(job), CPU, **how)
    assert isinstance(end, Fit)
    return rows, end


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_labels_that_have_no_weight_change_nothing_where_they_are_there(
    spec_file, images, bare, objective
):
    """The same weights to the last bit, and no loss is ever asked for without them."""
    members = NAMES[:1] if objective["name"] == "self" else NAMES[:2]
    labelled = {**bare, "train": {"source": "parquet", "path": str(images / "train.parquet")}}
    want = result(job_of(spec_file, members, objective, data=labelled))[1]
    given = job_of(spec_file, members, objective, data=bare, task="tests.test_unlabelled:Bare")
    rows, end = result(given)
    for a, b in zip(states(end), states(want), strict=True):
        assert_close(a, b, 1e-12)
    last = rows[-1][0]
    assert (last.loss, last.train_score, last.case1, last.case4) == (None,) * 4
    assert last.train_loss is not None
    assert last.train_loss == last.kl
    assert last.score != rows[0][0].score or objective["name"] == "self"


def test_who_teaches_is_known_and_who_was_right_is_not(spec_file, bare):
    rows, _ = result(job_of(spec_file, NAMES[:2], BARE, data=bare))
    shares = [row.teacher_share for row in rows[-1]]
    assert sum(shares) == pytest.approx(1)
    assert [row.case2 for row in rows[-1]] == [None, None]


def test_parts_of_a_batch_add_up_to_it(spec_file, bare):
    from bikd_ray.specs import Resources

    given = job_of(spec_file, NAMES[:2], BARE, data=bare)
    whole, parts = result(given)[1], result(given, resources=Resources(micro_batch=5))[1]
    for a, b in zip(states(whole), states(parts), strict=True):
        assert_close(a, b, 1e-9)


class Broken(torch.nn.Module):
    """Answers NaN in training."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x):
        z = self.network(x.double())
        return z * torch.nan if self.training else z


@pytest.mark.parametrize("bad", [0, 1])
def test_a_divergence_that_is_not_finite_names_who_spoiled_it(spec_file, bare, bad):
    given = job_of(spec_file, NAMES[:2], BARE, data=bare)
    networks = networks_of(given)
    networks[bad] = Broken(networks[bad])
    with pytest.raises(NonFiniteLoss, match=rf"loss of {given.names[bad]} became NaN .* step 0 "):
        list(fit(given, networks, CPU))


@pytest.mark.parametrize("grid", [(2, 1), (1, 2)], ids=["models", "samples"])
def test_several_workers_do_what_one_does(spec_file, bare, tmp_path, grid):
    from tests.placed import run_placed

    recipe = {"epochs": 1, "batch_size": 15, "lr": 1e-2}
    given = job_of(spec_file, NAMES[:2], BARE, data=bare, recipe=recipe)
    rows, end = result(given)
    (found,) = run_placed([(given, grid)], 2, tmp_path)
    for k, state in enumerate(states(end)):
        assert_close(found[k % grid[0]]["states"][k], state, 1e-5)
        row = found[0]["rows"][-1][k]
        assert row.kl == pytest.approx(rows[-1][k].kl, rel=1e-5)
        assert row.loss is None


# -- answers ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Store:
    """a and b, trained together on images without labels; and self beside it."""
    uri = str(tmp_path_factory.mktemp("untouched"))
    writer = Writer(uri)
    writer.write_metrics("d", "classification", METRICS, "untouched")
    for model in "ab":
        baseline(writer, model)
        for seed in (0, 1, 2):
            job(writer, {model: after(model, 0.01, seed)}, seed, objective="self(ce_weight=0.0)")
    for seed in (0, 1, 2):
        pair = {m: after(m, gain, seed) for m, gain in (("a", 0.5), ("b", 0.0))}
        job(writer, pair, seed, objective="bikd(ce_weight=0.0, confidence=max)")
    return Store(uri)


def test_net_delta_is_delta_and_the_control_gained_nothing(stored):
    rows = stored.gains().to_pylist()
    assert len(rows) == 2
    for row in rows:
        assert row["control"] == "untouched"
        assert row["control_delta"] == 0
        assert row["net_seeds"] == 3
        for name in ("delta", "low", "high"):
            assert row[f"net_{name}"] == row["delta" if name == "delta" else f"delta_{name}"]
        assert row["self_delta"] is not None
    assert [row["verdict"] for row in rows] == ["improves", "harmed"]
    (own, _) = stored.controls(objective="self").to_pylist()
    assert (own["control"], own["net_delta"], own["verdict"]) == (None, None, None)
    assert own["delta"] == pytest.approx(rows[0]["self_delta"])
    assert stored.control("d") == "untouched"
    for part in (stored.groups(), stored.teachers()):
        assert len(part)
    assert stored.groups().to_pylist()[0]["net_delta"] == rows[0]["delta"]
    assert stored.classes("a").to_pylist()[0]["control_delta"] == 0
    assert stored.flips("a").to_pylist()[0]["control_gained"] == 0


def test_the_sentence_says_against_what(stored):
    sentence, notes = headline(stored.gains(), stored.controls(), stored.table("jobs"))
    assert sentence.startswith("1 of 2 models improves with a partner over before: a (with b, ")
    assert "in 1 of 2 cases the learner ends worse" in sentence
    assert sentence.endswith(AGAINST_UNTOUCHED)
    assert "alone:" not in sentence
    assert not any("without a control" in note for note in notes)


def test_the_card_says_against_what(stored):
    rows = stored.table("results", where=pc.field("role") == "peer").to_pylist()
    (row, *_) = results_of(stored, rows[0])
    text = _summary(around(stored, row, ()))
    assert "It was trained on images without labels, so there is no control" in text
    assert "the same training without a partner gave" not in text.lower()


def test_labelled_data_is_against_the_control_as_before(tmp_path):
    writer = Writer(str(tmp_path))
    writer.write_metrics("d", "classification", METRICS)
    for model in "ab":
        baseline(writer, model)
    job(writer, {m: after(m, 0.2, 0) for m in "ab"}, 0)
    store = Store(str(tmp_path))
    (row, _) = store.gains().to_pylist()
    assert (row["control"], row["verdict"], row["net_delta"]) == ("ce", "no control", None)
    job(writer, {"a": after("a", 0.1, 0)}, 0)
    row = store.partners("a").to_pylist()[0]
    control = 100 * (after("a", 0.1, 0).mean() - BEFORE["a"].mean())
    assert row["net_delta"] == pytest.approx(row["delta"] - control)
