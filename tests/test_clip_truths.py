"""Maps and fixations in each kind of file, and a look at them before training."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from bikd_ray.data.clips.check import look
from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.source import Truth
from bikd_ray.data.clips.truths import read_truth
from bikd_ray.errors import UserError
from tests.clips import HEIGHT, WIDTH, bump, frame, mask, save, write_video


def mat(path: Path, **variables) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)
    return path


def content(path: Path) -> tuple[bytes, str]:
    return path.read_bytes(), str(path)


def with_fixations(path: Path, tmp_path: Path) -> Truth:
    return read_truth(content(save(tmp_path / "map.png", bump(3))), content(path))


# Fixations


def test_fixations_in_each_kind_of_file(tmp_path):
    points = np.array([[3.2, 3.9], [1.0, 0.0]])
    np.savez(tmp_path / "1.npz", x=points[:, 0], y=points[:, 1])
    (tmp_path / "1.csv").write_text("x,y\n3.2,3.9\n1,0\n")
    (tmp_path / "2.csv").write_text("3.2,3.9\n1,0\n")
    (tmp_path / "3.csv").write_text("viewer,y,x\n7,3.9,3.2\n8,0,1\n")
    save(tmp_path / "1.png", mask(3))
    for name in ("I", "fixLoc", "eyeMap"):
        mat(tmp_path / f"{name}.mat", **{name: mask(3), "fs": 1.0})
    want = mask(3) > 0
    assert want.sum() == 2
    for name in ("1.npz", "1.csv", "2.csv", "3.csv", "1.png", "I.mat", "fixLoc.mat", "eyeMap.mat"):
        truth = with_fixations(tmp_path / name, tmp_path)
        assert np.array_equal(truth.fixated, want), name
        assert truth.outside == 0


def test_fixations_outside_the_frame_are_dropped_and_counted(tmp_path):
    (tmp_path / "1.csv").write_text(f"x,y\n-1,2\n{WIDTH},2\n5,{HEIGHT}\nnan,3\n2,2\n")
    truth = with_fixations(tmp_path / "1.csv", tmp_path)
    assert truth.outside == 4
    assert np.argwhere(truth.fixated).tolist() == [[2, 2]]


def test_a_mask_of_another_size_is_brought_to_the_maps_grid_and_told(tmp_path):
    big = np.zeros((2 * HEIGHT, 2 * WIDTH), np.uint8)
    big[10, 21] = 1
    truth = with_fixations(save(tmp_path / "1.png", big), tmp_path)
    assert truth.rescaled
    assert np.argwhere(truth.fixated).tolist() == [[5, 10]]


def test_a_mat_without_known_keys_names_those_found_and_those_accepted(tmp_path):
    path = mat(tmp_path / "1.mat", image=1.0, resolution=2.0)
    with pytest.raises(UserError, match=r"1\.mat has the keys image, resolution; .* I, fixLoc"):
        with_fixations(path, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("1.mat", b"nonsense", "is not a readable .mat file"),
        ("1.npz", b"nonsense", "is not a readable .npz file"),
        ("1.csv", b"hello\nworld\n", "give lines x,y"),
        ("1.csv", b"\xff\xfe\x00", "is not CSV"),
        ("1.png", b"nonsense", "is not a readable image"),
    ],
)
def test_damaged_fixations_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        with_fixations(tmp_path / name, tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_other_arrays_of_an_npz_are_named(tmp_path):
    np.savez(tmp_path / "1.npz", points=np.zeros((2, 2)))
    with pytest.raises(UserError, match="has the arrays points; give x and y"):
        with_fixations(tmp_path / "1.npz", tmp_path)


def test_a_coloured_map_is_refused(tmp_path):
    path = save(tmp_path / "map.png", frame(1))
    with pytest.raises(UserError, match="is a colour image; a map must be grey"):
        read_truth(content(path), None)


def test_a_grey_jpeg_and_16_bits_are_maps(tmp_path):
    save(tmp_path / "map.jpg", np.repeat(bump(3)[..., None], 3, 2))
    assert read_truth(content(tmp_path / "map.jpg"), None).map.argmax() == bump(3).argmax()
    stream = io.BytesIO()
    Image.fromarray(bump(3).astype(np.uint16) * 257).save(stream, "PNG")
    assert np.array_equal(read_truth((stream.getvalue(), "map.png"), None).map, bump(3))


# A look before training


def test_a_look_tells_sizes_and_what_is_odd(tmp_path):
    own = write_video(tmp_path / "a", 3)
    save(own / "maps" / "0001.png", bump(1)[::2, ::2])
    save(own / "maps" / "0003.png", 0 * bump(3))
    write_video(tmp_path / "b", 3, fixations=None)
    (tmp_path / "b" / "fixations").mkdir()
    (tmp_path / "b" / "fixations" / "2.csv").write_text("x,y\n-1,0\n99,0\n1,1\n")
    looked = look(ClipFiles(str(tmp_path)))
    assert looked.faults == ()
    assert looked.notes == (
        "frames of 16×12 (2)",
        "maps of another size than the frames: frame 1 of a (8×6 for 16×12)",
        "fixations on a grid of another size than the map's: frame 1 of a",
        "maps that are 0 everywhere, which have weight 0: frame 3 of a",
        "fixations outside the frame, dropped: frame 2 of b (2)",
    )


def test_a_look_names_each_damaged_file_and_goes_on(tmp_path):
    for name in ("a", "b", "c"):
        write_video(tmp_path / name, 2)
    (tmp_path / "a" / "images" / "0001.png").write_bytes(b"")
    mat(tmp_path / "b" / "fixations" / "0001.mat", image=1.0)
    for number in (1, 2):
        (tmp_path / "b" / "fixations" / f"000{number}.png").unlink()
    looked = look(ClipFiles(str(tmp_path)))
    assert len(looked.faults) == 2
    assert "a/images/0001.png is not a readable image" in looked.faults[0]
    assert "b/fixations/0001.mat" in looked.faults[1]
    assert looked.notes == ("frames of 16×12 (1)",)
