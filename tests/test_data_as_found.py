"""Data as people have it: nothing dropped in silence, labels and columns where they put them."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bikd_pipelines.check import check
from bikd_ray.data.decode import EXTENSIONS, FORMATS, BadImage, decode
from bikd_ray.data.encoded import EncodedCopy, encoded_copy
from bikd_ray.data.exclusions import LeftOut, is_hidden
from bikd_ray.data.folder import FolderImages
from bikd_ray.data.hf import HFImages
from bikd_ray.data.parquet import ParquetImages
from bikd_ray.data.resolve import open_split, resolve_data
from bikd_ray.data.sources import EncodedImages, Subset, open_images
from bikd_ray.data.tars import TarImages
from bikd_ray.errors import UserError
from bikd_ray.resolve import resolve
from bikd_ray.spec_file import load_parts, load_spec
from bikd_ray.specs import Data, TimmData
from tests.images import STRUCT, as_struct, noise, png, same_image, write_parquet, write_tar


def put(root: Path, *names: str, content: bytes | None = None) -> Path:
    """Files below `root`; image number i is `noise(i)`."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i) if content is None else content)
    return root


def folder(path: Path, **more) -> dict:
    return {"source": "folder", "path": str(path), **more}


def parquet(path: Path, **more) -> dict:
    return {"source": "parquet", "path": str(path), **more}


def data_of(train: dict, val: dict | None = None, **more) -> Data:
    return Data.model_validate({"train": train, "val": val or train, **more})


# What is left out


@pytest.mark.parametrize(
    ("name", "hidden", "in_parquet"),
    [
        (".x", True, True),
        ("._0.png", True, True),
        ("__MACOSX", True, True),
        ("_temporary", False, True),
        ("_year=2024", False, False),
        ("a.png", False, False),
        (".", False, False),
        ("..", False, False),
    ],
)
def test_hidden_names(name, hidden, in_parquet):
    assert is_hidden(name) is hidden
    assert is_hidden(name, underscores=True) is in_parquet


HIDDEN = ("__MACOSX/a/._0.png", "a/.ipynb_checkpoints/0.png", "a/._0.png", ".git/a/0.png")


def test_hidden_files_of_a_folder_are_no_images_and_counted_in_one_line(tmp_path):
    images = FolderImages(str(put(tmp_path, "a/0.png", "b/1.png", "_c/2.png", *HIDDEN)))
    assert images.classes == ("_c", "a", "b")
    assert len(images.labels) == 3
    assert images.notes == ("left out 4 hidden files or folders, such as .git",)


def test_the_path_that_a_person_names_is_never_hidden(tmp_path):
    root = put(tmp_path / ".cache" / "_data", "a/0.png", "b/1.png")
    assert len(FolderImages(str(root)).labels) == 2
    write_parquet(root / "x.parquet", [0, 1])
    for pattern in ("", "/*.parquet", "/x.parquet"):
        assert len(ParquetImages(f"{root}{pattern}").labels) == 2
    assert len(ParquetImages(f"{tmp_path}/*/_data/*.parquet".replace("*", ".c*", 1)).labels) == 2


def test_hidden_members_of_tars_are_no_images(tmp_path):
    names = ("set/a/0.png", "set/b/1.png", "set/__MACOSX/a/0.png", "set/._a", "set/a/._0.png")
    path = write_tar(tmp_path / "a.tar", {name: png(0) for name in names})
    images = open_images(TimmData(source="timm", path=str(path)))
    assert (len(images.labels), images.classes) == (2, ("a", "b"))
    assert images.notes == ("left out 3 hidden files or folders, such as set/__MACOSX/a/0.png",)


def test_hidden_members_do_not_part_a_sample_of_a_shard(tmp_path):
    names = ("a/._0.jpg", "a/0.png", "a/._0.cls", "a/0.cls", "a/README", "b/1.txt")
    path = write_tar(tmp_path / "a.tar", {n: b"3" if n.endswith("cls") else png(0) for n in names})
    images = open_images(TimmData(source="timm", name="wds/", path=str(path)))
    assert images.labels.tolist() == [3]
    assert images.notes == (
        "left out 2 hidden files or folders, such as a/._0.jpg",
        "left out 1 file with another extension (none 1), such as a/README",
        "left out 1 sample without an image, such as b/1",
    )


def test_links_in_a_tar_are_counted(tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("a/0.png")
        info.size = len(png(0))
        tar.addfile(info, io.BytesIO(png(0)))
        link = tarfile.TarInfo("a/1.png")
        link.type, link.linkname = tarfile.LNKTYPE, "a/0.png"
        tar.addfile(link)
    images = open_images(TimmData(source="timm", path=str(tmp_path / "a.tar")))
    assert images.notes == ("left out 1 link or special file of a tar, such as a/1.png",)


def test_attempts_and_checkpoints_beside_parquet_files_are_not_read(tmp_path):
    for name in ("0.parquet", "_temporary/0/1.parquet", ".ipynb_checkpoints/0.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(tmp_path / name, [0, 1])
    put(tmp_path, "_SUCCESS", "README.md", content=b"")
    for where in (str(tmp_path), f"{tmp_path}/*.parquet", f"{tmp_path}/**.parquet"):
        images = ParquetImages(where)
        assert len(images.labels) == 2, where
        assert images.notes[0].startswith("left out 2 hidden files or folders, such as "), where
    named = ParquetImages(f"{tmp_path}/_temporary/*/*.parquet")
    assert (len(named.labels), named.notes) == (2, ())
    assert "README.md" in ParquetImages(str(tmp_path)).notes[1]


def test_other_files_and_classes_without_images_are_named(tmp_path):
    root = put(tmp_path, "a/0.png", "b/1.jpg", "a/n.txt", "a/m.TXT", "c/x.heic", "loose.png", "r")
    images = FolderImages(str(root))
    assert images.classes == ("a", "b", "c")
    assert images.notes == (
        "left out 1 image in no class folder, such as loose.png",
        "left out 4 files with another extension (.txt 2, none 1, .heic 1), such as r",
        "no image in class folder c",
    )


def test_notes_are_handed_on_and_named_by_split(tmp_path, caplog, spec_file, capsys):
    train = put(tmp_path / "train", *(f"{c}/0.png" for c in "abcd"), "a/.x.png")
    val = put(tmp_path / "val", *(f"{c}/1.png" for c in "abcd"), "d/notes.txt", content=png(9))
    data = resolve_data(data_of(folder(train), folder(val)))
    assert data.notes == (
        "train: left out 1 hidden file or folder, such as a/.x.png",
        "val: left out 1 file with another extension (.txt 1), such as d/notes.txt",
    )
    images = open_split(data, "val")
    assert Subset(images, np.array([1])).notes == images.notes
    assert isinstance(images, EncodedImages)
    copy = encoded_copy(images, tmp_path / "copies")
    assert isinstance(copy, EncodedCopy)
    assert copy.notes == images.notes
    spec = spec_file(data={"train": folder(train), "val": folder(val), "cache": "none"})
    resolve(load_spec(spec))
    assert [record.getMessage() for record in caplog.records] == list(data.notes)
    assert not check(spec).problems
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "left out" in line] == [f"bikd: {n}" for n in data.notes]


# Formats


def test_the_formats_are_all_that_pillow_reads_but_for_what_is_no_image():
    Image.init()
    known = Image.registered_extensions()
    ours = {e: k for k, listed in FORMATS.items() for e in listed} | {".mpo": "MPO"}  # a JPEG
    assert ours.items() <= known.items()
    no_images = {"BUFR", "EPS", "FITS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"}
    assert {kind for e, kind in known.items() if e not in EXTENSIONS} == no_images
    assert len(EXTENSIONS) == len(set(EXTENSIONS))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("GIF", "gif"), ("AVIF", "avif"), ("JPEG", "jfif"), ("JPEG", "jpe"), ("PPM", "pnm"),
     ("JPEG2000", "jp2"), ("TGA", "TGA"), ("PNG", "apng")],
)  # fmt: skip
def test_formats_are_read_from_folders_tars_and_shards_alike(tmp_path, kind, name):
    stream = io.BytesIO()
    noise(0).save(stream, kind)
    content = stream.getvalue()
    sets = [
        FolderImages(str(put(tmp_path / "f", f"a/0.{name}", content=content))),
        open_images(
            TimmData(source="timm", path=str(write_tar(tmp_path / "a", {f"a/0.{name}": content})))
        ),
        open_images(
            TimmData(
                source="timm",
                name="wds/",
                path=str(write_tar(tmp_path / "b", {f"0.{name}": content, "0.cls": b"0"})),
            )
        ),
    ]
    want = Image.open(io.BytesIO(content)).convert("RGB")
    assert all(same_image(images.image(0), want) for images in sets)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_scaled_and_not_cut_off(kind):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    stream = io.BytesIO()
    Image.fromarray(ramp).save(stream, kind)
    got = np.asarray(decode(stream.getvalue(), "data: x"))
    assert np.array_equal(got[..., 0], np.round(ramp / 257).astype(np.uint8))
    assert (got == got[..., :1]).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_depths_without_a_known_range_are_refused_by_name(mode):
    stream = io.BytesIO()
    Image.new(mode, (3, 3)).save(stream, "TIFF")
    with pytest.raises(BadImage, match=rf"x is not a readable image \(mode {mode}: its range"):
        decode(stream.getvalue(), "data: x")


@pytest.mark.parametrize("error", [NotImplementedError("a\nb"), RuntimeError(), MemoryError()])
def test_whatever_a_decoder_raises_is_a_bad_image(monkeypatch, error):
    def convert(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(BadImage, match=r"x is not a readable image \((a|\w+Error)\); replace"):
        decode(png(0), "data: x")


def test_documents_are_no_images_whatever_their_name():
    stream = io.BytesIO()
    noise(0).save(stream, "EPS")  # Pillow would start Ghostscript on it
    with pytest.raises(BadImage, match="no known image format"):
        decode(stream.getvalue(), "data: x.jpg")


# Bad and shared images


def test_a_set_of_bad_images_alone_is_refused_though_bad_ones_are_skipped(tmp_path):
    put(tmp_path / "bad", "a/0.png", "b/0.png", content=b"junk")
    put(tmp_path / "good", "a/0.png", "b/0.png")
    data = data_of(folder(tmp_path / "good"), folder(tmp_path / "bad"), on_bad_image="skip")
    with pytest.raises(UserError, match=r"^data\.val: 2 of 2 images looked at do not .*skip$"):
        resolve_data(data)
    (tmp_path / "bad" / "b" / "0.png").write_bytes(png(1))
    assert resolve_data(data).n_val == 2


@pytest.mark.parametrize(("bad", "problems"), [(3, 1), (1, 0)])
def test_check_says_how_many_of_a_sample_are_bad(tmp_path, spec_file, capsys, bad, problems):
    train = put(tmp_path / "train", *(f"{c}/0.png" for c in "abcd"))
    val = put(tmp_path / "val", *(f"{c}/1.png" for c in "abcd"))
    put(val, *(f"{c}/1.png" for c in "abc"[:bad]), content=b"junk")
    how = {"train": folder(train), "val": folder(val), "cache": "none"}
    found = check(spec_file(data={**how, "on_bad_image": "skip"}))
    assert len(found.problems) == problems
    said = f"{bad} of 4 images looked at do not decode: data: {val}/a/1.png is not a readable"
    assert said in "".join(found.problems) + capsys.readouterr().err
    strict = check(spec_file(data=how))
    assert [problem.count(said) for problem in strict.problems] == [1]


def test_train_and_val_with_the_same_images_are_named(tmp_path):
    write_parquet(tmp_path / "train.parquet", [0, 1])
    write_parquet(tmp_path / "val.parquet", [1, 0, 1], range(5, 8))
    both, val = parquet(tmp_path), parquet(tmp_path / "val.parquet")
    assert "5 of 5 val images are in train too" in resolve_data(data_of(both)).notes[0]
    (note,) = resolve_data(data_of(both, val)).notes
    assert "3 of 3 val images are in train too, first " in note
    assert "val.parquet, row 0: models are measured on what they learn" in note
    assert resolve_data(data_of(parquet(tmp_path / "train.parquet"), val)).notes == ()


def test_a_label_of_minus_one_names_the_file_and_the_row(tmp_path):
    write_parquet(tmp_path / "a.parquet", [0, 1])
    write_parquet(tmp_path / "b.parquet", [0, -1])
    with pytest.raises(UserError, match=r"sample 3 .*b\.parquet, row 1\); -1 stands for no label"):
        resolve_data(data_of(parquet(tmp_path)))


# Labels in a file


def flat(root: Path, count: int = 4, name: str = "val_{}.JPEG") -> Path:
    return put(root, *(name.format(i) for i in range(count)))


CLASSES = ("n01", "n02", "n03")


@pytest.mark.parametrize(
    "text",
    [
        "n02\nn03\nn01\nn02\n",
        "\ufeffn02\r\nn03\r\n\r\nn01\r\nn02",
        "1\n2\n0\n1\n",
        "val_0.JPEG 1\nval_1.JPEG 2\nval_2.JPEG 0\nval_3.JPEG 1\n",
        "val_3.JPEG\tn02\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn03\t1\t1\t2\t2\n"
        "val_2.JPEG\tn01\t0\t0\t1\t1\n",
        "file,label\nval_0,n02\nval_1,n03\nval_2,n01\nval_3,n02\n",
        "class,extra,image\nn02,x,a/val_0.JPEG\nn03,y,val_1.JPEG\nn01,z,val_2.JPEG\nn02,,val_3\n",
        "ImageId,PredictionString\nval_0,n02 1 2 3 4 \nval_1,n03 1 2 3 4 n03 1 1 1 1\n"
        "val_2,n01 0 0 1 1\nval_3,n02 0 0 1 1\n",
        "val_0.JPEG,1\nval_1.JPEG,2\nval_2.JPEG,0\nval_3.JPEG,1\n",
    ],
    ids=["a label a line", "BOM and CRLF", "integers", "pairs", "Tiny-ImageNet", "CSV",
         "other columns", "Kaggle", "CSV without a header"],
)  # fmt: skip
def test_labels_come_from_a_file(tmp_path, text):
    root = flat(tmp_path / "val" / "images")
    (tmp_path / "val" / "labels.txt").write_bytes(text.encode())
    images = FolderImages(str(tmp_path / "val"), str(tmp_path / "val" / "labels.txt"))
    assert images.labels.tolist() == [1, 2, 0, 1]
    assert images.labels.dtype == np.int64
    assert images.classes in (CLASSES, None)
    assert images.notes == ()
    assert images.where(2).endswith(f"{root.name}/val_2.JPEG")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n1\n", r"has 2 labels for 4 images"),
        ("val_0.JPEG 1\nval_1.JPEG 2\n", r"no label for 2 of 4 images, such as val_2\.JPEG"),
        ("val_0.JPEG 1\nval_0.JPEG 2\n", r"gives val_0\.JPEG two labels, '1' and '2'"),
        ("a,b,c\nval_0,1,2\n", r"no columns; call them file"),
        ("1\n2\n3\n1\n", r"labels 1–3 and no 0: it counts from 1"),
        ("", r"is empty"),
        ("val_0.JPEG\t\nval_1.JPEG\t1", r"the line 'val_0\.JPEG ?' without a label"),
        (b"\xff\xfe", r"is not UTF-8 text"),
        (None, r"cannot read labels .*: No such file"),
    ],
)
def test_files_of_labels_that_do_not_fit_are_refused(tmp_path, text, message):
    path = tmp_path / "labels.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as raised:
        FolderImages(str(flat(tmp_path / "val")), str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_challenges_own_numbering_is_not_taken_for_the_synsets(tmp_path, shift):
    """ILSVRC2012_validation_ground_truth.txt: its ids follow no sorted list."""
    names = [f"ILSVRC2012_val_{i:08}.JPEG" for i in range(1, 13)]
    ids = [490, 361, 171, 822, 297, 482, 13, 704, 599, 164, 649, 11]
    put(tmp_path / "val", *names)
    path = tmp_path / "truth.txt"
    path.write_text("\n".join(str(number - shift) for number in ids))
    with pytest.raises(UserError, match=r"by the challenge's ids and not in the order of the syn"):
        FolderImages(str(tmp_path / "val"), str(path))
    caffe = [65, 970, 230, 809, 516, 57, 334, 415, 674, 332, 109, 286]
    path.write_text("".join(f"{n} {label}\n" for n, label in zip(names, caffe, strict=True)))
    assert FolderImages(str(tmp_path / "val"), str(path)).labels.tolist() == caffe


def test_lines_for_files_that_are_not_there_are_counted(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("name,class\nval_0,n01\nval_1,n02\ntrain_7,n01\n")
    images = FolderImages(str(flat(tmp_path / "val", 2)), str(path))
    assert images.notes == (
        "1 of 3 lines of all.csv name files that are not there, such as train_7",
    )


def test_names_are_looked_up_in_the_classes_of_train_by_plan_and_by_worker(tmp_path):
    put(tmp_path / "train", *(f"{name}/0.png" for name in CLASSES))
    val = flat(tmp_path / "val", 2)
    (tmp_path / "val.txt").write_text("n03\nn02\n")
    (tmp_path / "spec.yaml").write_text(
        "data:\n  train: {source: folder, path: train}\n"
        "  val: {source: folder, path: val, labels: val.txt}\n"
    )
    data = load_parts(tmp_path / "spec.yaml").data
    assert data
    resolved = resolve_data(data)
    assert resolved.classes == CLASSES
    images = open_split(resolved, "val")
    assert images.labels.tolist() == [2, 1]
    with pytest.raises(UserError, match=r"no images under .*; where a file has the labels, set"):
        FolderImages(str(val))


# Parquet as it is written elsewhere


def table(path: Path, **columns: pa.Array) -> ParquetImages | Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


BYTES = pa.array([png(0), png(1), png(0)])


@pytest.mark.parametrize(
    "image",
    [
        BYTES,
        BYTES.cast(pa.large_binary()),
        BYTES.cast(pa.binary_view()),
        BYTES.dictionary_encode(),
        pa.array(as_struct([png(0), png(1), png(0)]), STRUCT),
        pa.StructArray.from_arrays([BYTES.cast(pa.large_binary())], ["bytes"]),
        pa.StructArray.from_arrays([BYTES.dictionary_encode()], ["bytes"]),
    ],
    ids=lambda array: str(array.type)[:30],
)
@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (pa.array([2, 0, 1], pa.uint8()), None),
        (pa.array([2, 0, 1], pa.int32()).dictionary_encode(), None),
        (pa.array(["2", "0", "1"]), None),
        (pa.array(["c", "a", "b"]), ("a", "b", "c")),
        (pa.array(["c", "a", "b"], pa.large_string()), ("a", "b", "c")),
        (pa.array(["c", "a", "b"], pa.string_view()), ("a", "b", "c")),
        (pa.array(["c", "a", "b"]).dictionary_encode(), ("a", "b", "c")),
    ],
    ids=lambda value: str(getattr(value, "type", value))[:30],
)
def test_columns_of_every_encoding(tmp_path, image, label, classes):
    images = ParquetImages(str(table(tmp_path / "a.parquet", img=image, y=label)), "img", "y")
    assert images.labels.tolist() == [2, 0, 1]
    assert images.classes == classes
    assert [images.encoded(i) for i in range(3)] == [png(0), png(1), png(0)]
    assert images.nbytes > 0


def test_names_of_val_are_those_of_train_though_it_has_fewer(tmp_path):
    train = table(tmp_path / "train.parquet", image=BYTES, label=pa.array(["c", "a", "b"]))
    val = table(tmp_path / "val.parquet", image=BYTES, label=pa.array(["c", "b", "c"]))
    data = resolve_data(data_of(parquet(Path(str(train))), parquet(Path(str(val)))))
    assert open_split(data, "val").labels.tolist() == [2, 1, 2]
    other = table(tmp_path / "other.parquet", image=BYTES, label=pa.array(["c", "x", "c"]))
    with pytest.raises(UserError, match="val has 'x', which train lacks"):
        resolve_data(data_of(parquet(Path(str(train))), parquet(Path(str(other)))))


def test_other_columns_are_named_with_the_fields_to_set(tmp_path):
    y = pa.array([0, 1, 2])
    path = table(tmp_path / "a.parquet", img=BYTES, fine_label=y, coarse_label=y)
    with pytest.raises(UserError, match=r"no column 'image' and 'label', only img.*image: img and "
                       r"label: one of fine_label, coarse_label$"):  # fmt: skip
        ParquetImages(str(path))
    given = parquet(Path(str(path)), image="img", label="fine_label")
    assert resolve_data(data_of(given)).num_classes == 3


def test_class_names_come_from_the_label_column_that_is_named(tmp_path):
    info = {"info": {"features": {"fine": {"names": ["a", "b"]}, "label": {"names": ["x"]}}}}
    made = pa.table({"image": BYTES, "fine": pa.array([0, 1, 0]), "label": pa.array([0, 0, 0])})
    made = made.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(made, tmp_path / "a.parquet")
    assert ParquetImages(str(tmp_path / "a.parquet"), label="fine").classes == ("a", "b")


def test_files_with_other_class_names_are_not_mixed(tmp_path):
    write_parquet(tmp_path / "a.parquet", [0, 1], names=["a", "b"])
    write_parquet(tmp_path / "b.parquet", [0, 1], names=["b", "a"])
    with pytest.raises(UserError, match=r"b\.parquet and .*a\.parquet have other names of classes"):
        ParquetImages(str(tmp_path))
    table(tmp_path / "text" / "b.parquet", image=BYTES, label=pa.array(["a", "b", "c"]))
    write_parquet(tmp_path / "text" / "a.parquet", [0, 1])
    with pytest.raises(UserError, match=r"integers in some files and text in others"):
        ParquetImages(str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [(("10", "2"), [10, 2], None), (("a", "b%20c"), [0, 1], ("a", "b c"))],
)
def test_labels_may_stand_in_the_path(tmp_path, values, labels, classes):
    for i, value in enumerate(values):
        table(tmp_path / f"label={value}" / "0.parquet", image=pa.array([png(i)]))
    images = ParquetImages(str(tmp_path))
    assert images.labels.tolist() == labels
    assert images.classes == classes
    put(tmp_path / "label=__HIVE_DEFAULT_PARTITION__", "x", content=b"")
    table(tmp_path / "label=__HIVE_DEFAULT_PARTITION__" / "0.parquet", image=pa.array([png(0)]))
    with pytest.raises(UserError, match="rows without a label"):
        ParquetImages(str(tmp_path))


# Saved by the datasets library


@pytest.fixture
def saved(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    names = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    rows = {"image": as_struct([png(0), png(1)]), "label": [1, 0]}
    one = datasets.Dataset.from_dict(rows, features=features)
    one.save_to_disk(str(tmp_path / "one"))
    tested = datasets.Dataset.from_dict(rows, features=features, split=datasets.Split.TEST)
    tested.save_to_disk(str(tmp_path / "tested"))
    datasets.DatasetDict({"train": one, "val": tested}).save_to_disk(str(tmp_path / "both"))
    return tmp_path


def hfds(path: Path, **more) -> HFImages:
    return HFImages(TimmData(source="timm", name=f"hfds/{path}", **more))


def test_folders_of_save_to_disk_are_opened(saved):
    for images in (hfds(saved / "one"), hfds(saved / "both", split="val"),
                   hfds(saved / "tested", split="test")):  # fmt: skip
        assert images.labels.tolist() == [1, 0]
        assert images.classes == ("a", "b")
        assert images.encoded(1) == png(1)
    with pytest.raises(UserError, match=r"no split 'test'; choose from train, val"):
        hfds(saved / "both", split="test")
    with pytest.raises(UserError, match=r"is the split 'test', not 'train'; set split"):
        hfds(saved / "tested")


@pytest.mark.parametrize("name", ["one", "both"])
def test_parquet_says_how_to_open_a_folder_of_save_to_disk(saved, name):
    with pytest.raises(UserError, match=rf"save_to_disk .*\{{source: timm, name: 'hfds/.*{name}'"):
        ParquetImages(str(saved / name))


def test_a_damaged_folder_of_save_to_disk_is_named(saved):
    os.truncate(saved / "one" / "data-00000-of-00001.arrow", 100)
    with pytest.raises(UserError, match=r"cannot open hfds/.*one, split train: ") as raised:
        hfds(saved / "one")
    assert "\n" not in str(raised.value)


# Webdataset splits


def test_a_split_named_target_is_no_shard(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.png": png(0), "0.cls": b"1"})
    write_tar(tmp_path / "b.tar", {"0.png": png(0), "0.cls": b"2"})

    def labels(**more) -> list[int]:
        images = open_images(TimmData(source="timm", name="wds/", path=str(tmp_path), **more))
        assert isinstance(images, TarImages)
        return images.labels.tolist()

    assert labels(split="target") == [1, 2]
    (tmp_path / "_info.json").write_text('{"splits": {"target": {"filenames": ["b.tar"]}}}')
    assert labels(split="target") == [2]
    with pytest.raises(UserError, match="no split 'start'; choose from target"):
        labels(split="start")


@pytest.mark.parametrize("info", ["[]", "{}", '{"splits": 3}', '{"splits": {"train": []}}', "{"])
def test_a_damaged_info_file_is_named(tmp_path, info):
    write_tar(tmp_path / "a.tar", {"0.png": png(0), "0.cls": b"1"})
    (tmp_path / "_info.json").write_text(info)
    with pytest.raises(UserError, match=r"_info\.json") as raised:
        open_images(TimmData(source="timm", name="wds/", path=str(tmp_path)))
    assert "\n" not in str(raised.value)


def test_what_is_left_out_is_merged_with_the_first_example_of_the_first():
    first, second = LeftOut(), LeftOut()
    first.other("a.txt")
    second.other("b.md")
    second.hidden(".x")
    assert LeftOut().merge([first, second]).notes == (
        "left out 2 files with another extension (.txt 1, .md 1), such as a.txt",
        "left out 1 hidden file or folder, such as .x",
    )


def test_a_footer_that_is_no_text_is_one_line(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [0, 1])
    content = bytearray(path.read_bytes())
    at = content.rindex(b"bytes")  # of a column's path, in the footer
    content[at : at + 2] = b"\xff\xff"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet is not a readable Parquet file") as raised:
        ParquetImages(str(path))
    assert "\n" not in str(raised.value)


def test_text_labels_that_are_no_text_are_one_line(tmp_path):
    text = pa.Array.from_buffers(
        pa.string(), 3, [None, *pa.array([b"a", b"\x94", b"b"]).buffers()[1:]]
    )
    table(tmp_path / "a.parquet", image=BYTES, label=text)
    with pytest.raises(UserError, match=r"label in .*a\.parquet is not of 64-bit integers or UTF"):
        ParquetImages(str(tmp_path / "a.parquet"))
