"""Class names and their order as every side tells them, and what follows where they differ."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from timm.data.imagenet_info import ImageNetInfo
from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision.models import ResNet18_Weights

from bikd_ray.data import open_split, resolve_data
from bikd_ray.data.labels import (
    LabelSpace,
    class_list,
    class_order,
    label_space,
    placed,
    relabelled,
)
from bikd_ray.errors import UserError
from bikd_ray.specs import Data
from tests.images import png, write_parquet, write_tar

SYNSETS = tuple(ImageNetInfo().label_names())
WORDS = tuple(ImageNetInfo().label_descriptions())


@dataclass
class Split:
    labels: np.ndarray
    classes: tuple[str, ...] | None


def split(classes, labels=None) -> Split:
    """Two images of each class, unless labels are given."""
    names = tuple(classes) if classes is not None else None
    found = np.repeat(np.arange(len(names or ())), 2) if labels is None else np.array(labels)
    return Split(found.astype(np.int64), names)


def space(train: Split, val: Split, **spec) -> LabelSpace:
    return label_space({"train": train, "val": val}, **spec)


def refusal(train: Split, val: Split, **spec) -> str:
    with pytest.raises(UserError) as raised:
        space(train, val, **spec)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def said(train: Split, val: Split, **spec) -> str:
    found = space(train, val, **spec)
    return "\n".join((*found.order, *found.notes))


# One order for every source of names


def test_numbers_in_names_count_as_numbers_as_timm_sorts_folders(tmp_path):
    names = ["10", "2", "b11", "b2", "A", "a", "0", "01"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(0))
    _, timms = find_images_and_targets(str(tmp_path))
    assert class_order(names) == ("0", "01", "2", "10", "A", "a", "b2", "b11")
    # timm leaves open which of "A" and "a" comes first
    assert [n for n in class_order(names) if n not in "Aa"] == [n for n in timms if n not in "Aa"]
    assert class_order(["²", "1²", "x"]) == ("1²", "x", "²")


def test_a_folder_a_tar_and_a_partition_of_numbered_classes_have_one_order(tmp_path):
    names = [str(k) for k in range(12)]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.png").write_bytes(png(int(name)))
    tar = write_tar(tmp_path / "a.tar", {f"{name}/0.png": png(int(name)) for name in names})
    folder = {"source": "folder", "path": str(tmp_path / "data")}
    both = resolve_data(
        Data.model_validate({"train": folder, "val": {"source": "timm", "path": str(tar)}})
    )
    assert both.train.content_id == both.val.content_id
    assert both.classes == tuple(names)
    assert open_split(both, "train").labels.tolist() == list(range(12))
    assert "class 2 is '2' (sorted as text, as torchvision does, it would be '10')" in "\n".join(
        both.class_order
    )


# Where two lists say the same


def test_equal_lists_need_no_word_but_where_the_order_is_from():
    found = space(split("abc"), split("abc"))
    assert (found.num_classes, found.classes) == (3, tuple("abc"))
    assert found.order == ("class order taken from the names in train",)
    assert found.notes == ()


def test_labels_without_names_take_the_other_splits_list():
    assert "val has labels without names" in said(split("abc"), split(None, [0, 1, 2]))
    assert "nothing names them" in said(split(None, [0, 1]), split(None, [1, 0]))


def test_a_part_of_the_classes_is_numbered_as_in_the_whole_list():
    train, val = split("abcd"), split("abd")
    found = space(train, val)
    assert relabelled(val, found.classes).tolist() == [0, 0, 1, 1, 3, 3]
    assert "val's 3 classes are numbered as in train (4)" in found.notes
    assert "val has no image of 1 of 4 classes, first class 2 ('c')" in found.notes
    assert "val has 'e', which train lacks" in refusal(split("abcd"), split("abe"))


def test_case_and_separators_make_no_other_name():
    val = split(["polar bear", "sun_Bear"])
    found = space(split(["Polar_Bear", "brown bear", "Sun bear"]), val)
    assert relabelled(val, found.classes).tolist() == [0, 0, 2, 2]


def test_an_order_of_its_own_is_refused_unless_the_spec_names_the_classes():
    train, val = split(["cow", "ant", "bee"]), split(["bee", "cow", "ant"])
    assert "class 0 is 'cow' in train and 'bee' in val" in refusal(train, val)
    found = space(train, val, given=("ant", "bee", "cow"))
    assert found.classes == ("ant", "bee", "cow")
    assert relabelled(train, found.classes).tolist() == [2, 2, 0, 0, 1, 1]
    assert relabelled(val, found.classes).tolist() == [1, 1, 2, 2, 0, 0]


def test_lists_that_share_nothing_are_refused_where_sorting_made_their_order():
    said = refusal(split(["n1", "n2"]), split(["images"], [0, 0, 0]))
    assert "val has 1 class ('images') and train 2 classes ('n1', 'n2')" in said
    assert "no name in common" in refusal(split(["cat", "dog"]), split(["Hund", "Katze"]))
    assert "class K of one is taken for class K of the other" in "\n".join(
        space(split(["cat", "dog"]), split(["Katze", "Hund"])).notes
    )
    assert "class K of one" in "\n".join(space(split(["cat", "dog"]), split("01")).notes)


# ImageNet


@pytest.mark.parametrize(
    "words",
    [
        WORDS,
        tuple(word.partition(",")[0] for word in WORDS),
        tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"]),
    ],
    ids=["descriptions", "first words", "torchvision"],
)
def test_synsets_and_words_in_one_order_agree_and_in_another_do_not(words):
    labels = np.arange(1000)
    assert space(split(SYNSETS, labels), split(words, labels)).classes == SYNSETS
    turned = (words[1], words[0], *words[2:])
    assert "orders must agree" in refusal(split(SYNSETS, labels), split(turned, labels))


def test_some_of_imagenets_classes_keep_their_numbers_if_the_spec_counts_all():
    few = split([SYNSETS[k] for k in (5, 700, 999)])
    found = space(few, few, num_classes=1000)
    assert found.classes == SYNSETS
    assert relabelled(few, found.classes).tolist() == [5, 5, 700, 700, 999, 999]
    assert space(few, few).num_classes == 3


def test_numbered_folders_are_their_classes_though_some_are_missing():
    few = split(class_order(["007", "012", "3"]))
    found = space(few, few, num_classes=13)
    assert relabelled(few, found.classes).tolist() == [3, 3, 7, 7, 12, 12]


# Labels


def test_a_split_of_one_class_alone_is_refused():
    message = refusal(split("ab"), split("ab", [1, 1, 1]))
    assert message.startswith("data.val: all 3 images have label 1 ('b')")


def test_labels_that_count_from_1_are_pointed_out():
    assert "may count from 1" in said(split(None, [1, 2, 3]), split(None, [1, 3]))
    assert "may count from 1" not in said(split(None, [0, 1]), split(None, [1, 0]))


def test_counts_that_contradict_the_spec_are_refused():
    assert "data.num_classes is 2, but the data names 3" in refusal(
        split("abc"), split("abc"), num_classes=2
    )
    assert "data.num_classes is 2, but data.classes names 3" in refusal(
        split("abc"), split("abc"), num_classes=2, given=tuple("abc")
    )
    assert "sample 1 has label 7" in refusal(split("ab", [0, 7]), split("ab"), num_classes=3)


# data.classes


def test_a_class_list_is_read_from_text_and_json(tmp_path):
    for name, content in {
        "a.txt": "ant\n\nbee\n",
        "list.json": json.dumps(["ant", "bee"]),
        "map.json": json.dumps({"1": "bee", "0": "ant"}),
        "index.json": json.dumps({"0": ["ant", "word"], "1": ["bee", "word"]}),
    }.items():
        (tmp_path / name).write_text(content)
        assert class_list(str(tmp_path / name)) == ("ant", "bee"), name
    assert class_list(("ant", "bee")) == ("ant", "bee")


@pytest.mark.parametrize("content", ["{", "{}", "[1, 2]", '{"1": "a", "2": "b"}', "null", '["a"]'])
def test_a_class_file_of_another_form_is_refused(tmp_path, content):
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"classes\.json is no list of at least 2 class names"):
        class_list(str(path))


def test_a_spec_with_classes_numbers_the_images_of_both_splits_and_is_other_data(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [0, 1, 1], names=["ant", "bee"])
    source = {"source": "parquet", "path": str(path)}
    plain = resolve_data(Data.model_validate({"train": source, "val": source}))
    turned = resolve_data(
        Data.model_validate({"train": source, "val": source, "classes": ["bee", "ant"]})
    )
    assert open_split(turned, "val").labels.tolist() == [1, 0, 0]
    assert open_split(plain, "val").labels.tolist() == [0, 1, 1]
    assert plain.data_id != turned.data_id


def test_two_lists_are_compared_in_the_vocabulary_in_which_they_share_most():
    found = placed(("crane", "tench", "x"), SYNSETS)
    assert found.places == {1: 0}  # there are two cranes
    assert found.strangers == ("x",)


# Numbers as names, and what is no label


def test_integer_labels_that_are_class_names_are_looked_up_as_names():
    train, val = split(("0", "2", "3")), split(None, [0, 2, 2, 0])
    found = space(train, val)
    assert found.num_classes == 3
    assert relabelled(val, found.classes).tolist() == [0, 1, 1, 0]
    assert "val's integer labels are taken for class names: label 0 is '0'" in said(train, val)
    one_based = split(None, [1, 2, 3])
    assert space(split(("01", "02", "03")), one_based).num_classes == 3
    assert relabelled(one_based, ("01", "02", "03")).tolist() == [0, 1, 2]


@pytest.mark.parametrize("labels", [[0, 1, 2], [2, 0, 0]])
def test_integer_labels_that_are_places_stay(labels):
    val = split(None, labels)
    for classes in (("0", "1", "2"), ("1", "2", "3"), ("a", "b", "c")):
        assert relabelled(val, classes) is val.labels


def test_no_label_is_refused_whatever_the_order_of_the_classes():
    val = split(("a", "b", "c"), [0, 1, -1, 2])
    assert "sample 2 has label -1" in refusal(split(("a", "c", "b")), val)
    assert "sample 2 has label -1" in refusal(split(("a", "b", "c")), val)


@pytest.mark.parametrize(
    ("names", "others"),
    [(("01", "02", "10"), ("1", "2", "10")), (("caf\u00e9", "x"), ("cafe\u0301", "x"))],
)
def test_one_name_in_two_spellings_is_one_class(names, others):
    assert placed(names, others).places == {k: k for k in range(len(names))}
    assert space(split(names), split(others)).notes == ()


def test_more_classes_than_names_leaves_the_last_without_one():
    found = space(split("abc"), split("abc"), num_classes=5)
    assert found.num_classes == 5
    assert "train has no image of 2 of 5 classes, first class 3" in found.notes
    assert "all 2 images have label 4;" in refusal(split("abc"), split(None, [4, 4]), num_classes=5)


def test_a_list_that_a_windows_editor_wrote_is_read_and_a_bottomless_one_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffx\r\ny\r\n".encode())
    assert class_list(str(tmp_path / "a.txt")) == ("x", "y")
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="is no list"):
        class_list(str(tmp_path / "a.json"))


def test_a_partition_of_rows_without_a_label_is_named(tmp_path):
    for name in ("label=a", "label=__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"image": [png(0)]}), tmp_path / name / "0.parquet")
    source = {"source": "parquet", "path": str(tmp_path)}
    with pytest.raises(UserError, match="where Hive puts rows without a label"):
        resolve_data(Data.model_validate({"train": source, "val": source}))


def test_words_of_a_part_of_imagenet_are_numbered_as_in_all_of_it():
    words = tuple(sorted(WORDS[5:15]))
    train = split(words)
    found = space(train, split(words[:2]), num_classes=1000)
    assert found.classes == SYNSETS
    assert relabelled(train, SYNSETS).tolist()[::2] == [WORDS.index(word) for word in words]
    assert "crane" in refusal(split(("crane", "tench")), split(("tench",)), num_classes=1000)


def test_labels_beyond_the_names_are_of_the_whole_list_or_refused():
    train, val = split(None, [0, 5, 999]), split(SYNSETS[100:110])
    found = space(train, val)
    assert found.classes == SYNSETS
    assert relabelled(val, found.classes).tolist()[:2] == [100, 100]
    message = refusal(split(None, [0, 5, 9]), split("abc"))
    assert "train has labels up to 9, but val names only 3 classes ('a', 'b', 'c')" in message
    assert space(split(None, [0, 5, 9]), split("abc"), num_classes=10).num_classes == 10
