"""Sets that models are only measured on: their classes, their labels, and what is left out."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bikd_ray.data import open_split, resolve_data
from bikd_ray.data.further import DataClasses, Placing, moved, placing
from bikd_ray.data.loader import Batch
from bikd_ray.errors import UserError
from bikd_ray.plan import FurtherSet, ResolvedSplit, all_jobs
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_spec
from bikd_ray.sweep.events import JobRequest, job_row
from bikd_ray.tasks import task_of
from bikd_ray.tasks.base import measured
from tests.plans import spec_of

SYNSETS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475")
"""The first five of ImageNet: tench, goldfish, great white shark, tiger shark, hammerhead."""


def placed(labels, names, data, given=None, count=None) -> Placing:
    classes = DataClasses(count or len(data or ()), data)
    return placing("data.eval.a", np.asarray(labels), names, classes, given)


# -- the spec --------------------------------------------------------------------------


def sets(**given):
    return {"train": {"source": "digits", "split": "train"},
            "val": {"source": "digits", "split": "val"}, "eval": given}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a b": {}}, "spec: data.eval: a set cannot be called 'a b'; give a name of letters, "
         "digits, - and _"),
        ({"val": {}}, "spec: data.eval: a further set cannot be called 'val'; choose another name"),
        ({"a": {"source": "folder", "path": "/x", "clases": 1}}, "spec: data.eval.a.clases: "
         "unknown field of data.eval.a; choose from classes, labels, path, source (did you mean "
         "'classes'?)"),
        ({"a": {"source": "foldr"}}, "spec: data.eval.a.source: unknown value 'foldr'; choose from "
         "digits, folder, parquet, timm (did you mean 'folder'?)"),
        ({"a": {"source": "folder"}}, "spec: data.eval.a.path: missing; data.eval.a needs it"),
        ({"folder": {"source": "folder", "path": "/x", "classes": {"a": None}}}, "spec: "
         "data.eval.folder.classes: must hold names and numbers of classes, and None is neither"),
        ({"a": {"source": "folder", "path": "/x", "classes": 3}}, "spec: data.eval.a.classes must "
         "be a mapping from the set's classes, a list, or a file of one, got 3"),
    ],
)  # fmt: skip
def test_a_wrong_set_is_one_line(given, message):
    with pytest.raises(UserError) as refused:
        spec_of(data=sets(**given))
    assert str(refused.value) == message


def test_a_spec_with_sets_is_read_again_from_its_own_text():
    classes = ({"cat": 3, "dog": "n02084071"}, ["cat", 3], "/x.json")
    given = {f"s{i}": {"source": "folder", "path": "/x", "classes": c}
             for i, c in enumerate(classes)}  # fmt: skip
    spec = spec_of(data=sets(**given))
    assert spec.data.eval["s0"].classes == (("cat", "3"), ("dog", "n02084071"))
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


# -- classes ---------------------------------------------------------------------------


def test_classes_are_found_by_their_names_and_a_part_is_what_models_choose_among():
    data = ("bee", "cat", "dog", "eel")
    whole = placed([0, 1, 2, 3], ("bee", "cat", "dog", "eel"), data)
    assert whole == Placing()
    turned = placed([0, 1, 2, 3], ("cat", "dog", "eel", "bee"), data)
    assert (turned.places, turned.kept) == ((1, 2, 3, 0), None)
    part = placed([0, 1, 0], ("Dog", "cat"), data)
    assert (part.places, part.kept) == ((2, 1), (1, 2))
    assert part.notes == (
        "data.eval.a has 2 of the data's 4 classes: models choose among these, and their other "
        "outputs are left out",
    )
    assert moved(np.array([[0, 1], [1, -1]]), part.places).tolist() == [[2, 1], [1, -1]]


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (("n01484850", "n01440764"), None),
        (("great white shark", "tench, Tinca tinca"), None),  # in words
        (("2", "0"), None),  # folders called by the number of the class
        (("white", "fish"), (("white", "n01484850"), ("fish", "tench"))),
        (("white", "fish"), ("2", "n01440764")),
        (("white", "fish"), (("1", "0"), ("0", "great white shark"))),
        (None, ("2", "0")),
        (None, (("0", "n01484850"), ("1", "tench"), ("7", "goldfish"))),
    ],
)
def test_names_wordnet_ids_words_and_numbers_mean_the_same(names, given, tmp_path):
    found = placed([0, 1], names, SYNSETS, given)
    assert (found.places, found.kept) == ((2, 0), (0, 2))
    if given:
        pairs = isinstance(given[0], tuple)
        path = tmp_path / "classes.json"
        path.write_text(json.dumps(dict(given) if pairs else list(given)))
        assert placed([0, 1], names, SYNSETS, str(path)) == found
        path.with_suffix(".txt").write_text("\n".join(["", *given]) if not pairs else "2\n0\n")
        again = placed([0, 1], names, SYNSETS, str(path.with_suffix(".txt")))
        assert again.places == (2, 0)


@pytest.mark.parametrize(
    ("labels", "names", "given", "message"),
    [
        ([0, 1, 2], ("ab", "cat", "dgo"), (("ab", "bee"), ("cat", "cat")), "data.eval.a.classes "
         "leaves out 1 of the set's 3 classes, such as 'dgo'; give a class of the data for each "
         "of them"),
        ([0, 1], ("x", "y"), (("x", "dgo"), ("y", "cat")), "data.eval.a.classes: 'dgo' is no "
         "class of the data; choose from bee, cat, dog, eel (did you mean 'dog'?)"),
        ([0, 1], ("x", "y"), ("cat", "7"), "data.eval.a.classes: '7' is no class of the data; "
         "choose from bee, cat, dog, eel"),
        ([0, 1], ("xenon", "y"), (("xeon", "cat"), ("y", "cat")), "data.eval.a.classes: 'xeon' is "
         "no class of the set; choose from xenon, y (did you mean 'xenon'?)"),
        ([0, 1], ("x", "y"), ("cat",), "data.eval.a.classes lists 1 classes, and the set has 2; "
         "give one for each class of the set, in their order"),
        ([0, 1], ("cat", "dgo"), None, "data.eval.a: class 'dgo' of the set is no class of the "
         "data, or of two; choose from bee, cat, dog, eel (did you mean 'dog'?); say with "
         "classes: which class of the data each is"),
        ([0, 9], None, None, "data.eval.a: sample 1 has label 9, outside the 4 classes 0–3 of the "
         "data; say with classes: which is which"),
        ([0, 1], ("x", "y"), "/nowhere.txt", "data.eval.a.classes: cannot read /nowhere.txt: No "
         "such file or directory"),
    ],
)  # fmt: skip
def test_a_class_without_a_place_is_named_in_one_line(labels, names, given, message):
    with pytest.raises(UserError) as refused:
        placed(labels, names, ("bee", "cat", "dog", "eel"), given)
    assert str(refused.value) == message


def test_integer_labels_are_the_datas_and_say_nothing_of_a_part():
    assert placed([0, 1, 2], None, None, count=3) == Placing()
    few = placed([0, 2, 2], None, None, count=4)
    assert (few.places, few.kept) == (None, None)
    assert few.notes[0].startswith("data.eval.a has no image of 2 of the data's 4 classes")
    with pytest.raises(UserError, match=r"names its classes .* and the data does not"):
        placed([0, 1], ("cat", "dog"), None, count=2)


# -- what is measured ------------------------------------------------------------------


def statistics(logits, labels, kept=None):
    part = FurtherSet(ResolvedSplit(0, "", "", ""), "u", len(labels), None, kept)
    task = task_of().on(part)
    index = torch.arange(len(labels))
    batch = Batch({}, labels, index, len(labels), len(labels))
    found = task.measure(task.answer(logits, batch), batch)
    both = task.measure(task.ensemble([task.answer(x, batch) for x in (logits, -logits)]), batch)
    arrays = {name: tensor.numpy() for name, tensor in found.items()}
    return measured(task, arrays), arrays, {n: t.numpy() for n, t in both.items()}


def test_a_part_of_the_classes_against_a_plain_computation():
    generator = torch.Generator().manual_seed(0)
    logits, kept = torch.randn(50, 12, generator=generator), (1, 2, 5, 6, 8, 10, 11)
    labels = torch.tensor(kept)[torch.randint(len(kept), (50,), generator=generator)]
    found, arrays, both = statistics(logits, labels, kept)
    for n, (row, label) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        total = sum(math.exp(row[c]) for c in kept)
        order = sorted(kept, key=lambda c: -row[c])
        assert arrays["label"][n] == label
        assert arrays["predicted"][n] == order[0]
        assert arrays["top_classes"][n].tolist() == order
        assert arrays["nll"][n] == pytest.approx(math.log(total) - row[label], abs=1e-5)
        assert arrays["label_prob"][n] == pytest.approx(math.exp(row[label]) / total, abs=1e-6)
        assert found.scores["top1"][n] == (order[0] == label)
        assert found.scores["top5"][n] == (label in order[:5])
        other = sum(math.exp(-row[c]) for c in kept)
        mean = (math.exp(row[label]) / total + math.exp(-row[label]) / other) / 2
        assert both["label_prob"][n] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("kept", [None, (0, 2, 3, 5, 7, 8)])
def test_several_right_labels_against_a_plain_computation(kept):
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=(60, 9)).round(1).astype(np.float32))  # with ties
    classes = kept or tuple(range(9))
    right = [rng.permutation(classes)[: 1 + n % 4].tolist() for n in range(60)]
    labels = torch.full((60, 4), -1)
    for n, some in enumerate(right):
        labels[n, : len(some)] = torch.tensor(some)
    found, arrays, _ = statistics(logits, labels, kept)
    for n, (row, some) in enumerate(zip(logits.tolist(), right, strict=True)):
        total = sum(math.exp(row[c]) for c in classes)
        order = sorted(classes, key=lambda c: (-row[c], c))
        assert arrays["label"][n] in some
        assert found.scores["top1"][n] == (order[0] in some)
        assert found.scores["top5"][n] == bool(set(order[:5]) & set(some))
        prob = sum(math.exp(row[c]) for c in some) / total
        assert arrays["label_prob"][n] == pytest.approx(prob, abs=1e-5)
        assert arrays["nll"][n] == pytest.approx(-math.log(prob), abs=1e-4)


def test_one_right_label_in_a_list_is_that_label():
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(20) % 5
    one, _, _ = statistics(logits, labels)
    padded = torch.stack([labels, torch.full_like(labels, -1)], 1)
    listed, _, _ = statistics(logits, padded)
    for name, values in one.statistics.items():
        assert np.allclose(values, listed.statistics[name], atol=1e-6), name


# -- images ----------------------------------------------------------------------------


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """train and val of the classes a, b and c; and x, images 100 … 105 in no class folder."""
    for split, first in (("train", 0), ("val", 50)):
        for k, name in enumerate("abc"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                value = first + 2 * k + i
                (tmp_path / split / name / f"{i}.png").write_bytes(png(value))
    (tmp_path / "x" / "sub").mkdir(parents=True)
    for i in range(6):
        (tmp_path / "x" / ("sub" if i % 2 else "") / f"{i}.png").write_bytes(png(100 + i))
    return tmp_path


def data_of(folder: Path, **sets):
    both = {s: {"source": "folder", "path": str(folder / s)} for s in ("train", "val")}
    return spec_of(data={**both, "eval": sets}).data


RIGHT = [[0], [], [1, 2], [0, 1], [], [2]]


@pytest.mark.parametrize("kind", ["list", "mapping", "parquet", "names"])
def test_several_labels_or_none_come_from_json_and_from_columns_of_lists(folders, kind):
    path, right = folders / "right.json", RIGHT
    source = {"source": "folder", "path": str(folders / "x"), "labels": str(path)}
    if kind == "list":  # in the order of the files' names, whatever folders they lie in
        path.write_text(json.dumps(right))
    elif kind == "mapping":
        path.write_text(json.dumps({f"{i}.png": one for i, one in enumerate(right)}))
    else:
        names = [["abc"[k] for k in one] for one in right] if kind == "names" else right
        table = pa.table({"image": [png(100 + i) for i in range(6)], "label": names})
        pq.write_table(table.slice(0, 3), folders / "0.parquet")
        pq.write_table(table.slice(3), folders / "1.parquet")
        source = {"source": "parquet", "path": str(folders / "*.parquet")}
    resolved = resolve_data(data_of(folders, real=source))
    part = resolved.eval["real"]
    assert (part.n, part.split.count, part.kept) == (4, 6, None)
    assert "data.eval.real: 2 of 6 images have no label and are left out" in resolved.notes
    images = open_split(resolved, "real")
    shown = {images.image(i).getpixel((0, 0))[0] - 100: sorted(set(row) - {-1})  # type: ignore[index]
             for i, row in enumerate(images.labels.tolist())}  # fmt: skip
    assert shown == {i: one for i, one in enumerate(right) if one}


def test_sets_change_no_id_and_other_classes_or_images_make_another_set(folders, spec_file):
    plain = resolve_data(data_of(folders))
    (folders / "few").mkdir()
    for name in "ca":
        (folders / "few" / name).mkdir()
        (folders / "few" / name / "0.png").write_bytes(png(200 + ord(name) - 97))
    few = {"source": "folder", "path": str(folders / "few")}
    found = resolve_data(data_of(folders, few=few, same={**few, "classes": ["a", "c"]},
                                 turned={**few, "classes": {"a": "c", "c": "a"}}))  # fmt: skip
    assert (found.data_id, found.unit_set_id) == (plain.data_id, plain.unit_set_id)
    ids = {name: part.unit_set_id for name, part in found.eval.items()}
    assert ids["few"] == ids["same"]
    assert len({*ids.values(), plain.unit_set_id}) == 3
    assert found.eval["few"].kept == (0, 2)
    assert open_split(found, "turned").labels.tolist() == [2, 0]
    spec = load_spec(spec_file())
    digits = {"val2": {**spec.data.val.model_dump()}}
    other = load_spec(spec_file(data={**spec.data.model_dump(exclude={"eval"}), "eval": digits}))
    before, after = (all_jobs(s, *resolve(s)) for s in (spec, other))
    assert [job.job_id for job in before] == [job.job_id for job in after]
    rows = [job_row(JobRequest(jobs[0], "s", "/x"), 1.0, {}, None) for jobs in (before, after)]
    assert rows[0] == rows[1]
    assert after[0].flops > before[0].flops


def test_images_of_train_are_refused_or_counted_and_train_has_one_label(folders):
    same = {"source": "folder", "path": str(folders / "train")}
    with pytest.raises(UserError, match=r"^data.eval.a is the same images as data.train: models"):
        resolve_data(data_of(folders, a=same))
    digits = {"source": "digits", "split": "train"}
    with pytest.raises(UserError, match=r"^data.eval.a is the same images as data.train"):
        resolve_data(spec_of(data=sets(a=digits)).data)
    (folders / "val" / "a" / "0.png").write_bytes((folders / "train" / "a" / "0.png").read_bytes())
    mixed = {"source": "folder", "path": str(folders / "val")}
    notes = resolve_data(data_of(folders, a=mixed)).notes
    assert "data.eval.a: 1 of its 6 images are in train too" in notes
    (folders / "right.json").write_text(json.dumps(RIGHT))
    lists = {"source": "folder", "path": str(folders / "x"), "labels": str(folders / "right.json")}
    with pytest.raises(UserError, match=r"^data.val has lists of labels; each of its images has"):
        resolve_data(
            data_of(folders).model_copy(update={"val": data_of(folders, x=lists).eval["x"]})
        )
    with pytest.raises(UserError, match=r"^data.eval.a: /nowhere is not a folder"):
        resolve_data(data_of(folders, a={"source": "folder", "path": "/nowhere"}))
    (folders / "right.json").write_text(json.dumps([[]] * 6))
    with pytest.raises(UserError, match=r"has no label at all: every list is empty$"):
        resolve_data(data_of(folders, a=lists))


def test_a_task_that_has_no_use_for_labels_takes_no_classes():
    spec = spec_of(data=sets(a={"source": "digits", "split": "val", "classes": ["1"] * 10}))
    with pytest.raises(UserError, match=r"^data.eval.a: this task measures by no labels, so it"):
        resolve_data(spec.data, "tests.ordinal:Ordinal")
