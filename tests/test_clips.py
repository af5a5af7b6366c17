"""Windows of frames, samples of videos, and the clips that models get of them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bikd_ray.data.clips.clip_set import ClipSet
from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.moving_digits import MovingDigits
from bikd_ray.data.clips.reel import Reel
from bikd_ray.data.clips.source import Video, clusters, scored_samples
from bikd_ray.data.clips.windows import places
from bikd_ray.data.decode import BadImage
from bikd_ray.data.loader import Loader
from bikd_ray.plan import View, Window
from bikd_ray.tasks import task_of
from bikd_ray.tasks.saliency_metrics import METRICS
from tests.clips import frame, write_video

CPU = torch.device("cpu")
SALIENCY = task_of("saliency")


def view(window: Window | None, height: int, width: int) -> View:
    return View(height, 1.0, "bilinear", "squash", None, width, window)


LAST, MIDDLE, ONE = (
    view(window, 8, 12) for window in (Window(32, 1, -31), Window(32, 2, -31), None)
)
SMALL, WIDE = view(Window(4, 1, -3), 6, 8), view(Window(3, 2, -2), 8, 10)


def video(name: str, count: int, scored=None, cluster: str = "") -> Video:
    return Video(name, cluster or name, count, np.arange(count) if scored is None else scored)


class Counting(ClipFiles):
    """Notes which frames are decoded."""

    decoded: list[int]

    def frames(self, video, wanted):
        self.decoded = [*getattr(self, "decoded", []), *wanted]
        return super().frames(video, wanted)


# Windows


def test_windows_end_with_their_target_or_lie_around_it():
    assert places(LAST, 100, 600).tolist() == list(range(69, 101))
    assert places(MIDDLE, 100, 600).tolist() == list(range(69, 132, 2))
    assert places(ONE, 100, 600).tolist() == [100]


def test_places_beyond_a_video_are_its_first_and_last_frame():
    assert places(SMALL, 1, 6).tolist() == [0, 0, 0, 1]
    assert places(view(Window(3, 2, 0), 8, 10), 4, 6).tolist() == [4, 5, 5]
    assert places(LAST, 0, 1).tolist() == [0] * 32


def test_the_windows_of_three_published_models_have_48_frames_together():
    phased = view(Window(32, 2, -31, phase=-1), 8, 12)
    found = np.union1d(places(LAST, 300, 600), places(phased, 300, 600))
    assert len(found) == 48
    assert (found[0], found[-1]) == (268, 330)


# Samples


def test_every_strideth_frame_with_a_map_is_scored_from_the_first():
    videos = [video("a", 10), video("b", 1), video("c", 9, np.array([2, 3, 5, 8]))]
    assert scored_samples(videos, 4).tolist() == [[0, 0], [0, 4], [0, 8], [1, 0], [2, 2]]
    assert len(scored_samples(videos)) == 15


def test_an_epoch_draws_one_frame_with_a_map_of_each_video():
    source = MovingDigits("val", videos=3, odd=True)
    clips = ClipSet(source, size=(8, 8), to_learn=True)
    assert len(clips.labels) == 3
    drawn = [[clips.at(index, seed)[1] for seed in range(2000)] for index in range(3)]
    assert set(drawn[0]) == {0}
    assert set(drawn[1]) == {0, 1, 2, 3, 4}
    assert set(drawn[2]) == set(source.videos[2].scored.tolist())
    assert np.bincount(drawn[1]).min() > 330
    assert [clips.at(2, seed)[1] for seed in range(2000)] == drawn[2]


def test_videos_without_a_map_are_not_scored():
    videos = [video("a", 5, np.empty(0, np.int64)), video("b", 2)]
    assert scored_samples(videos)[:, 0].tolist() == [1, 1]


def test_shots_of_one_video_are_one_cluster():
    videos = [
        video("x_1", 3, cluster="x"),
        video("y_1", 3, cluster="y"),
        video("x_2", 3, None, "x"),
    ]
    of, names = clusters(videos)
    assert of.tolist() == [0, 1, 0]
    assert names == ("x", "y")


# Clips


def test_clips_show_the_windows_frames_resized_as_a_whole(tmp_path):
    write_video(tmp_path / "a")
    reel = Reel(ClipFiles(str(tmp_path)))
    for target in (0, 4):
        clips = reel.clips(0, target, [SMALL, WIDE])
        for clip, one in zip(clips, (SMALL, WIDE), strict=True):
            size = (one.width or 0, one.size)
            want = [
                np.asarray(Image.fromarray(frame(place + 1)).resize(size, 2))
                for place in places(one, target, 6)
            ]
            assert clip.dtype == np.uint8
            assert np.array_equal(clip, np.stack(want).transpose(3, 0, 1, 2))
    (alone,) = reel.clips(0, 3, [view(None, 6, 8)])
    assert np.array_equal(alone, reel.clips(0, 3, [SMALL])[0][:, -1])


def test_each_frame_is_decoded_once_for_all_models_and_targets_that_follow(tmp_path):
    write_video(tmp_path / "a", 10)
    source = Counting(str(tmp_path))
    reel = Reel(source)
    for target in (4, 5, 6):
        reel.clips(0, target, [SMALL, WIDE, view(Window(4, 1, -3), 8, 10)])
    assert source.decoded == [1, 2, 3, 4, 6, 5, 7, 8]


def test_memory_of_an_evaluation_does_not_grow_with_the_length_of_a_video():
    source = MovingDigits("val", videos=1, frames=200)
    reel, most = Reel(source), 0
    for video, position in scored_samples(source.videos).tolist():
        reel.clips(video, position, [LAST, MIDDLE])
        most = max(most, len(reel))
    assert most == 63  # of the two windows together


# Batches


def scored(source, stride: int = 1) -> ClipSet:
    return ClipSet(source, size=(20, 30), stride=stride)


def loader_of(clips: ClipSet, *views: View, **how) -> Loader:
    return Loader(clips, views, CPU, task=SALIENCY, **how)


def test_batches_hold_every_models_clips_and_cross_videos(tmp_path):
    write_video(tmp_path / "a", 5)
    write_video(tmp_path / "b", 1, seed=1)
    clips = scored(ClipFiles(str(tmp_path)))
    batches = list(loader_of(clips, SMALL, WIDE).batches(np.arange(6), 4))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(6))
    assert torch.cat([batch.target["unit"] for batch in batches]).tolist() == [0] * 5 + [1]
    assert batches[0].views[SMALL].shape == (4, 3, 4, 6, 8)
    assert batches[1].views[WIDE].shape == (2, 3, 3, 8, 10)
    (alone,) = Reel(clips.source).clips(1, 0, [WIDE])
    assert np.array_equal(batches[1].views[WIDE][1].numpy(), alone)


def test_nothing_of_clips_is_kept_on_disk(tmp_path):
    loader = loader_of(scored(MovingDigits("val", videos=1)), SMALL, cache=str(tmp_path / "kept"))
    assert loader.kept is None
    assert not (tmp_path / "kept").exists()


def measured(clips: ClipSet, one: View, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """The metrics of a network that answers the green of its last frame."""
    (batch,) = loader_of(clips, one).batches(rows, len(rows))
    pixels = batch.views[one].float()
    output = pixels[:, 1] if pixels.ndim == 4 else pixels[:, 1, -1]
    return SALIENCY.measure(SALIENCY.answer(output, batch), batch)


def test_short_videos_give_a_row_for_each_frame_and_frame_0_has_a_value():
    """Of a video of 1 frame and one of 5, whatever the window."""
    clips = scored(MovingDigits("val", videos=2, odd=True))
    assert clips.samples.tolist() == [[0, 0], *([1, t] for t in range(5))]
    assert clips.where(3) == "data: val-001, frame 3"
    found = measured(clips, LAST, np.arange(6))
    for name in METRICS:
        assert found[f"known_{name}"].tolist() == [True] * 6


def test_maps_of_several_sizes_in_a_batch_are_scored_each_at_its_own():
    clips = scored(MovingDigits("val", videos=3, odd=True))
    at = {tuple(sample): row for row, sample in enumerate(clips.samples.tolist())}
    rows = np.array([at[2, t] for t in (2, 4, 5, 6)])
    one = view(None, 64, 96)
    together = measured(clips, one, rows)
    for k, row in enumerate(rows):
        alone = measured(clips, one, np.array([row]))
        for name in METRICS:
            torch.testing.assert_close(together[name][k], alone[name][0])
    assert together["known_nss"].tolist() == [True, False, True, True]
    assert together["known_cc"].tolist() == [True, True, False, True]


def test_maps_are_brought_to_one_size_to_learn_from():
    clips = ClipSet(MovingDigits("val", videos=3, odd=True), size=(20, 30), to_learn=True)
    (batch,) = loader_of(clips, SMALL).batches(np.arange(3), 8)
    assert batch.target["truth"].shape == (3, 20, 30)
    assert set(batch.target) == {"truth"}


def test_held_out_videos_are_measured_on_all_their_scored_frames():
    clips = ClipSet(MovingDigits("train", videos=4), size=(20, 30), stride=8, to_learn=True)
    held = SALIENCY.held_out(clips, np.array([1, 3]))
    assert isinstance(held, ClipSet)
    assert held.samples[:, 0].tolist() == [1] * 5 + [3] * 5


def damaged(tmp_path: Path) -> ClipSet:
    write_video(tmp_path / "a", 5)
    (tmp_path / "a" / "images" / "0003.png").write_bytes(b"no image")
    return scored(ClipFiles(str(tmp_path)))


def test_a_frame_that_does_not_decode_is_named(tmp_path):
    loader = loader_of(damaged(tmp_path), SMALL)
    with pytest.raises(BadImage, match=r"a/images/0003\.png is not a readable image"):
        list(loader.batches(np.array([0, 4]), 2))


def test_only_clips_that_show_a_damaged_frame_are_skipped(tmp_path):
    loader = loader_of(damaged(tmp_path), view(Window(2, 1, -1), 6, 8), skip=True)
    batches = list(loader.batches(np.arange(5), 2))
    assert torch.cat([batch.index for batch in batches]).tolist() == [0, 1, 4]


def test_processes_give_the_same_batches(tmp_path):
    write_video(tmp_path / "a", 5)
    write_video(tmp_path / "b", 4, seed=1)
    clips = scored(ClipFiles(str(tmp_path)))
    here, there = (
        list(loader_of(clips, SMALL, workers=n).batches(np.arange(9), 3)) for n in (0, 1)
    )
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.views[SMALL], other.views[SMALL])
        for mine, theirs in zip(one.target["fixated"], other.target["fixated"], strict=True):
            assert torch.equal(mine, theirs)


def test_a_set_knows_its_bytes_and_how_it_is_measured(tmp_path):
    write_video(tmp_path / "a", 5)
    files = ClipFiles(str(tmp_path))
    plain = scored(files).content_id()
    assert scored(files, 2).content_id() != plain
    assert ClipSet(files, size=(20, 30), blur=False).content_id() != plain
    assert ClipSet(files, size=(9, 9)).content_id() == plain  # of the maps to learn from
    (tmp_path / "a" / "maps" / "0002.png").write_bytes(
        (tmp_path / "a" / "maps" / "0003.png").read_bytes()
    )
    assert scored(ClipFiles(str(tmp_path))).content_id() != plain


def test_a_source_pickles_for_loader_processes(tmp_path):
    write_video(tmp_path / "a", 3)
    source = ClipFiles(str(tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    first, second = (next(iter(s.frames(0, [1]))) for s in (source, copy))
    assert np.array_equal(np.asarray(first), np.asarray(second))


# The bundled videos


def test_moving_digits_are_the_same_each_time_and_other_in_val():
    one, again = MovingDigits("train", videos=3), MovingDigits("train", videos=3)
    val = MovingDigits("val", videos=3)
    assert one.source_id == again.source_id != val.source_id
    pixels = [np.asarray(next(iter(s.frames(1, [5])))) for s in (one, again, val)]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])
    assert pixels[0].shape == (64, 96, 3)


def test_who_moves_is_looked_at():
    source = MovingDigits("val", videos=4)
    for video in range(4):
        first, last = (source.truth(video, t) for t in (0, 39))
        assert first.map.max() == 255
        assert first.fixated.sum() <= 6
        moved = np.subtract(*(np.argwhere(t.map == 255)[0] for t in (first, last)))
        assert abs(moved).max() > 3
        looked = first.map[first.fixated].mean()
        assert looked > 3 * first.map.mean()


def test_odd_videos_have_what_real_data_has():
    source = MovingDigits("train", videos=4, odd=True)
    assert [video.count for video in source.videos] == [1, 5, 40, 40]
    truths = {t: source.truth(2, t) for t in source.videos[2].scored.tolist()}
    assert len(truths) == 39
    assert not truths[4].fixated.any()
    assert not truths[5].map.any()
    assert truths[6].map.shape == (32, 48)
