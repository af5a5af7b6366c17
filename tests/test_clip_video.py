"""Video files: frame exact, named where they fail, and only where there is one in need of PyAV."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bikd_ray.data.clips.check import look
from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.decode import BadImage
from bikd_ray.errors import UserError
from tests.clips import bump, write_video, write_video_file


def numbers(source: ClipFiles, video: int = 0) -> list[int]:
    """The numbers that the frames of a video were written with."""
    wanted = range(source.videos[video].count)
    return [int(np.asarray(image)[0, 0, 0]) for image in source.frames(video, wanted)]


def refused(root: Path, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        ClipFiles(str(root), *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def video_file_beside(tmp_path: Path, name: str, count: int = 6, **how) -> Path:
    own = write_video(tmp_path / "a", count, frames=None)
    write_video_file(own / name, count, **how)
    return tmp_path


def test_a_video_file_and_a_folder_of_frames_give_equal_samples(tmp_path):
    pytest.importorskip("av")
    write_video(tmp_path / "folder" / "a", 6)
    of_file = ClipFiles(str(video_file_beside(tmp_path / "file", "clip.mkv")))
    of_folder = ClipFiles(str(tmp_path / "folder"))
    assert of_file.videos[0].count == of_folder.videos[0].count
    for a, b in zip(of_file.frames(0, range(6)), of_folder.frames(0, range(6)), strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))
    for t in range(6):
        assert np.array_equal(of_file.truth(0, t).map, of_folder.truth(0, t).map)


def test_frames_of_a_file_come_in_any_order_of_asking(tmp_path):
    pytest.importorskip("av")
    source = ClipFiles(str(video_file_beside(tmp_path, "clip.avi", 120)))
    for wanted in ([5], [5, 7, 119], [100], [3, 4], [4]):
        found = [int(np.asarray(image)[0, 0, 0]) for image in source.frames(0, wanted)]
        assert found == [position + 1 for position in wanted]


def test_maps_called_0_are_of_the_first_frame_of_a_file(tmp_path):
    pytest.importorskip("av")
    write_video(tmp_path / "a", frames=None, numbers=range(6))
    write_video_file(tmp_path / "a" / "clip.mkv")
    source = ClipFiles(str(tmp_path))
    assert source.videos[0].scored.tolist() == list(range(6))
    assert np.array_equal(source.truth(0, 0).map, bump(0))


def test_dhf1k_reads_video_files_by_number(tmp_path):
    pytest.importorskip("av")
    write_video(tmp_path / "annotation" / "0007", 3, frames=None)
    write_video_file(tmp_path / "video" / "007.AVI", 3)
    assert numbers(ClipFiles(str(tmp_path), "dhf1k", split="train")) == [1, 2, 3]


def test_a_file_that_ends_early_is_named_with_the_frame(tmp_path):
    pytest.importorskip("av")
    root = video_file_beside(tmp_path, "clip.avi", 40)
    path = root / "a" / "clip.avi"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = ClipFiles(str(root))
    with pytest.raises(BadImage, match=r"clip\.avi, frame \d+ is not a readable image"):
        list(source.frames(0, range(40)))


def test_what_is_no_video_is_named(tmp_path):
    pytest.importorskip("av")
    write_video(tmp_path / "a", frames=None)
    (tmp_path / "a" / "clip.mp4").write_bytes(b"nonsense")
    assert "clip.mp4 is not a readable video" in refused(tmp_path)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    write_video(tmp_path / "a", frames=None)
    (tmp_path / "a" / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "needs PyAV; install bikd-ray[video]" in refused(tmp_path)


def test_several_video_files_in_one_folder_are_refused(tmp_path):
    write_video(tmp_path / "a", frames=None)
    for name in ("one.mp4", "two.avi"):
        (tmp_path / "a" / name).write_bytes(b"")
    assert "2 video files, one.mp4, two.avi; keep one" in refused(tmp_path)


def test_folders_of_frames_need_no_pyav(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    write_video(tmp_path / "a", 2)
    assert numbers(ClipFiles(str(tmp_path))) == [1, 2]


def test_a_look_shows_the_frame_rate_of_video_files(tmp_path):
    pytest.importorskip("av")
    looked = look(ClipFiles(str(video_file_beside(tmp_path, "clip.mkv"))))
    assert looked.notes == ("frames of 16×12 (1)", "video files of 25 frames/s (1)")
