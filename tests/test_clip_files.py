"""Videos as data sets lay them out: what belongs to which frame, and what is said of the rest."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.source import clusters
from bikd_ray.errors import UserError
from tests.clips import HEIGHT, WIDTH, bump, frame, mask, save, write_video


def numbers(source: ClipFiles, video: int = 0) -> list[int]:
    """The numbers that the frames of a video were written with."""
    wanted = range(source.videos[video].count)
    return [int(np.asarray(image)[0, 0, 0]) for image in source.frames(video, wanted)]


def names(source: ClipFiles) -> list[str]:
    return [video.name for video in source.videos]


def mat(path: Path, **variables) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)
    return path


# Layouts


@pytest.mark.parametrize(
    "parts", [("images", "maps", "fixations"), ("frames", "saliency", "fixation")]
)
def test_general_layout_and_its_aliases(tmp_path, parts):
    frames, maps, fixations = parts
    for split in ("train", "val"):
        where = tmp_path / split / "clip"
        write_video(where, 3, frames=frames, maps=maps, fixations=fixations)
    source = ClipFiles(str(tmp_path), split="val")
    assert names(source) == ["clip"]
    assert numbers(source) == [1, 2, 3]
    truth = source.truth(0, 1)
    assert np.array_equal(truth.map, bump(2))
    assert np.array_equal(truth.fixated, mask(2) > 0)
    assert source.notes == ()


def test_dhf1k_splits_annotation_by_number_and_finds_frames_of_video_by_number(tmp_path):
    for number in (1, 600, 601, 700, 701):
        own = tmp_path / "annotation" / f"{number:04}"
        write_video(own, 2, frames=None, fixations=None)
        mat(own / "fixation" / "maps" / "0001.mat", I=mask(1))
        write_video(tmp_path / "video", 2, frames=f"{number:03}", maps=None, fixations=None)
    train, val = (ClipFiles(str(tmp_path), "dhf1k", split=split) for split in ("train", "val"))
    assert names(train) == ["0001", "0600"]
    assert names(val) == ["0601", "0700"]
    assert numbers(val, 1) == [1, 2]
    assert np.array_equal(val.truth(0, 0).fixated, mask(1) > 0)
    assert not val.truth(0, 1).fixated.any()
    assert "2 maps without fixations" in val.notes[0]


def test_dhf1k_with_a_val_folder_of_its_own(tmp_path):
    write_video(tmp_path / "annotation" / "0001", 2)
    write_video(tmp_path / "val" / "0601", 2, fixations="fixation")
    assert names(ClipFiles(str(tmp_path), "dhf1k", split="val")) == ["0601"]


def hollywood2(root: Path) -> Path:
    for shot, seed in (("clip_1", 1), ("clip_2", 2), ("clip_10", 10), ("other_1", 3)):
        write_video(root / "testing" / shot, 2, seed=seed, name=shot + "_{:05}.png")
    return root


def test_hollywood2_glues_the_shots_of_a_video_in_natural_order(tmp_path):
    source = ClipFiles(str(hollywood2(tmp_path)), "hollywood2", split="val")
    assert names(source) == ["clip", "other"]
    assert numbers(source) == [1, 2, 1, 2, 1, 2]
    last = np.asarray(next(iter(source.frames(0, [5]))))
    assert np.array_equal(last, frame(2, seed=10))
    assert source.videos[0].scored.tolist() == [0, 1, 2, 3, 4, 5]


def test_separate_shots_are_videos_that_are_one_cluster(tmp_path):
    root = str(hollywood2(tmp_path))
    source = ClipFiles(root, "hollywood2", split="val", shots="separate")
    assert names(source) == ["clip_1", "clip_2", "clip_10", "other_1"]
    assert clusters(source.videos)[0].tolist() == [0, 0, 0, 1]


def test_ucf_sports_and_the_plain_layout(tmp_path):
    write_video(tmp_path / "ucf" / "testing" / "Diving-001", fixations="fixation/maps")
    assert names(ClipFiles(str(tmp_path / "ucf"), "ucf_sports", split="val")) == ["Diving-001"]
    write_video(tmp_path / "plain" / "train" / "a", fixations=None)
    assert names(ClipFiles(str(tmp_path / "plain"), "vinet_v2", split="train")) == ["a"]


def test_maps_and_masks_of_the_diem_kind_with_frames_elsewhere(tmp_path):
    own = tmp_path / "annotations" / "DIEM" / "ad"
    write_video(own, 2, frames=None, fixations=None, maps="maps", name="eyeMap_{:05}.jpg")
    mat(own / "fixMap_00002.mat", eyeMap=mask(2))
    frames = tmp_path / "video_frames" / "DIEM"
    write_video(frames, 2, frames="ad", maps=None, fixations=None, name="img_{:05}.png")
    source = ClipFiles(str(own.parent), "vinet_v2", videos=str(frames))
    assert numbers(source) == [1, 2]
    assert np.array_equal(source.truth(0, 1).fixated, mask(2) > 0)


def test_still_images_are_videos_of_one_frame_matched_by_name(tmp_path):
    for name in ("COCO_val2014_000000000009", "COCO_val2014_000000000025"):
        save(tmp_path / "images" / "val" / f"{name}.jpg", frame(9))
        save(tmp_path / "maps" / "val" / f"{name}.png", bump(9))
    save(tmp_path / "images" / "val" / "COCO_val2014_000000000030.jpg", frame(9))
    viewers = np.zeros((2, 1), [("fixations", object)])
    viewers["fixations"][0, 0], viewers["fixations"][1, 0] = [[1, 1], [16, 12]], [[17, 3]]
    mat(tmp_path / "fixations" / "val" / "COCO_val2014_000000000009.mat", gaze=viewers)
    source = ClipFiles(str(tmp_path), "salicon", split="val")
    assert [video.count for video in source.videos] == [1, 1]
    truth = source.truth(0, 0)
    assert np.argwhere(truth.fixated).tolist() == [[0, 0], [HEIGHT - 1, WIDTH - 1]]
    assert truth.outside == 1
    assert any("1 image without a map" in note for note in source.notes)


def test_mit1003_has_maps_and_points_in_one_folder(tmp_path):
    for name in ("i05june05_p101", "i05june05_p102"):
        save(tmp_path / "ALLSTIMULI" / f"{name}.jpeg", frame(1))
        save(tmp_path / "ALLFIXATIONMAPS" / f"{name}_fixMap.jpg", bump(1))
        save(tmp_path / "ALLFIXATIONMAPS" / f"{name}_fixPts.jpg", mask(1))
    source = ClipFiles(str(tmp_path), "mit1003")
    assert names(source) == ["i05june05_p101", "i05june05_p102"]
    assert source.truth(1, 0).fixated[1, 1]
    assert source.truth(1, 0).fixated.sum() < 5  # noise of JPEG around a point is none
    assert source.notes == ()


# Matching by number


def test_frames_without_a_map_are_context_and_everything_odd_is_said(tmp_path):
    own = write_video(tmp_path / "a", numbers=[1, 2, 3, 5, 6])
    (own / "maps" / "0002.png").unlink()
    (own / "images" / "0006.png").unlink()
    (own / "fixations" / "0003.png").unlink()
    save(own / "images" / ".hidden_0009.png", frame(9))
    source = ClipFiles(str(tmp_path))
    assert numbers(source) == [1, 2, 3, 5]
    assert source.videos[0].scored.tolist() == [0, 2, 3]
    assert [note.split(", such as")[0] for note in source.notes] == [
        "left out 1 hidden file or folder",
        "1 frame missing in the middle",
        "1 map without a frame, unused",
        "1 fixation file without a frame, unused",
        "1 frame without a map, context only",
        "1 map without fixations: NSS and AUC-J leave them out",
    ]
    assert "number 4 of" in source.notes[1]
    assert not source.truth(0, 2).fixated.any()


def test_numbers_need_not_begin_at_one_nor_have_equal_widths(tmp_path):
    own = tmp_path / "a"
    for number in (8, 9, 10):
        save(own / "images" / f"img{number}.png", frame(number))
        save(own / "maps" / f"eyeMap_{number:05}.png", bump(number))
    source = ClipFiles(str(tmp_path))
    assert numbers(source) == [8, 9, 10]
    assert source.truth(0, 2).map.argmax() == bump(10).argmax()


def refused(root: Path, *arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        ClipFiles(str(root), *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_two_files_of_one_number_are_refused(tmp_path):
    write_video(tmp_path / "a", 2)
    save(tmp_path / "a" / "images" / "2.jpg", frame(2))
    assert "two files of one number or name, 0002.png and 2.jpg" in refused(tmp_path)


def test_what_is_not_there_is_named_with_what_is_expected(tmp_path):
    assert "is not a folder" in refused(tmp_path / "none")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    assert "images/ or frames/ or one video file" in refused(tmp_path / "empty")
    write_video(tmp_path / "bare" / "a", 2, maps=None, fixations=None)
    assert "no map under" in refused(tmp_path / "bare")
    write_video(tmp_path / "split" / "valid" / "a", 2)
    said = refused(tmp_path / "split", split="val")
    assert "would be val or validation or testing or test; it has valid" in said
    assert "unknown layout 'dhf1'" in refused(tmp_path, "dhf1")
    assert "did you mean 'dhf1k'" in refused(tmp_path, "dhf1")
    assert "has no folder of maps; expected ALLFIXATIONMAPS" in (
        refused(save(tmp_path / "mit" / "ALLSTIMULI" / "a.jpg", frame(1)).parents[1], "mit1003")
    )
    assert "this layout has no splits" in refused(tmp_path, "mit1003", split="val")


def test_a_video_without_frames_is_left_out_and_said(tmp_path):
    write_video(tmp_path / "a", 2)
    write_video(tmp_path / "b", 2)
    shutil.rmtree(tmp_path / "b" / "images")
    (tmp_path / "b" / "images").mkdir()
    source = ClipFiles(str(tmp_path))
    assert names(source) == ["a"]
    assert any(note.startswith("1 video without frames") for note in source.notes)


# Content


def test_content_is_told_by_bytes_and_matching_and_by_nothing_else(tmp_path):
    write_video(tmp_path / "a" / "clip", 3)
    first = ClipFiles(str(tmp_path / "a"))
    known = first.content_id()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "clip").rename(tmp_path / "b" / "named_otherwise")
    copy = ClipFiles(str(tmp_path / "b"))
    assert copy.content_id() == known
    assert copy.spot_check() == first.spot_check()
    assert copy.source_id != first.source_id
    for part, pixels in (("maps", bump(7)), ("images", frame(7)), ("fixations", mask(7))):
        shutil.copytree(tmp_path / "a", tmp_path / part)
        save(tmp_path / part / "clip" / part / "0002.png", pixels)
        assert ClipFiles(str(tmp_path / part)).content_id() != known
    (tmp_path / "a" / "clip" / "maps" / "0002.png").unlink()
    assert ClipFiles(str(tmp_path / "a")).content_id() != known


def test_glued_and_separate_shots_are_different_data(tmp_path):
    root = str(hollywood2(tmp_path))
    glued, separate = (
        ClipFiles(root, "hollywood2", split="val", shots=shots) for shots in ("glued", "separate")
    )
    assert glued.content_id() != separate.content_id()
