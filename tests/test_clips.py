"""Windows of frames, samples of videos, and the clips that models get of them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bikd_ray.data.clips import segment as segments
from bikd_ray.data.clips.files import ClipFiles
from bikd_ray.data.clips.loader import ClipLoader
from bikd_ray.data.clips.moving_digits import MovingDigits
from bikd_ray.data.clips.segment import read_segment, segments_of
from bikd_ray.data.clips.source import Video, clusters, scored_samples, training_samples
from bikd_ray.data.clips.windows import ClipView, Window, union
from bikd_ray.data.decode import BadImage
from bikd_ray.tasks.saliency_metrics import METRICS, measure_batch
from tests.clips import frame, write_video

CPU = torch.device("cpu")
LAST, MIDDLE, ONE = Window(32, 1, -31), Window(32, 2, -31), Window()
SMALL = ClipView(Window(4, 1, -3), 6, 8)
WIDE = ClipView(Window(3, 2, -2), 8, 10)


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
    assert LAST.places(100, 600).tolist() == list(range(69, 101))
    assert MIDDLE.places(100, 600).tolist() == list(range(69, 132, 2))
    assert ONE.places(100, 600).tolist() == [100]


def test_places_beyond_a_video_are_its_first_and_last_frame():
    assert Window(4, 1, -3).places(1, 6).tolist() == [0, 0, 0, 1]
    assert Window(3, 2, 0).places(4, 6).tolist() == [4, 5, 5]
    assert Window(32, 1, -31).places(0, 1).tolist() == [0] * 32


def test_union_of_three_models_windows_has_48_frames():
    published = (LAST, Window(32, 1, -31), Window(32, 2, -32))
    found = union(published, [300], 600)
    assert len(found) == 48
    assert (found[0], found[-1]) == (268, 330)


# Samples


def test_every_strideth_frame_with_a_map_is_scored_from_the_first():
    videos = [video("a", 10), video("b", 1), video("c", 9, np.array([2, 3, 5, 8]))]
    assert scored_samples(videos, 4).tolist() == [[0, 0], [0, 4], [0, 8], [1, 0], [2, 2]]
    assert len(scored_samples(videos)) == 15


def test_an_epoch_has_one_clip_a_video_that_depends_on_seed_epoch_and_name_alone():
    videos = [video(f"v{i}", 50) for i in range(40)]
    first = training_samples(videos, 0, 0)
    assert first[:, 0].tolist() == list(range(40))
    assert np.array_equal(first, training_samples(videos, 0, 0))
    assert np.array_equal(first[7:, 1], training_samples(videos[7:], 0, 0)[:, 1])
    for other in (training_samples(videos, 1, 0), training_samples(videos, 0, 1)):
        assert (first[:, 1] != other[:, 1]).mean() > 0.8


def test_targets_of_training_are_uniform_over_frames_with_a_map():
    videos = [video(f"v{i}", 9, np.array([1, 4, 7])) for i in range(300)]
    drawn = training_samples(videos, 0, 0)[:, 1]
    counts = np.bincount(drawn, minlength=9)
    assert counts[[0, 2, 3, 5, 6, 8]].sum() == 0
    assert counts[[1, 4, 7]].min() > 60


def test_videos_without_a_map_are_neither_trained_on_nor_scored():
    videos = [video("a", 5, np.empty(0, np.int64)), video("b", 2)]
    assert training_samples(videos, 0, 0)[:, 0].tolist() == [1]
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


# Segments


def test_clips_show_the_windows_frames_resized_as_a_whole(tmp_path):
    write_video(tmp_path / "a")
    read = read_segment(ClipFiles(str(tmp_path)), 0, [0, 4], [SMALL, WIDE])
    for index, target in enumerate((0, 4)):
        for view in (SMALL, WIDE):
            clip = read.clip(index, view)
            want = [
                np.asarray(Image.fromarray(frame(place + 1)).resize((view.width, view.height), 2))
                for place in view.window.places(target, 6)
            ]
            assert clip.dtype == np.uint8
            assert np.array_equal(clip, np.stack(want).transpose(3, 0, 1, 2))


def test_each_frame_is_decoded_once_for_all_models_and_targets_of_a_segment(tmp_path):
    write_video(tmp_path / "a", 10)
    source = Counting(str(tmp_path))
    read_segment(source, 0, [4, 5, 6], [SMALL, WIDE, ClipView(Window(4, 1, -3), 8, 10)])
    assert source.decoded == [1, 2, 3, 4, 5, 6, 7, 8]


def test_targets_far_apart_or_out_of_order_begin_a_new_segment():
    samples = np.array([[0, 0], [0, 8], [0, 63], [0, 64], [1, 2], [1, 1], [0, 3]])
    assert segments_of(samples) == [(0, [0, 8, 63]), (0, [64]), (1, [2]), (1, [1]), (0, [3])]


def test_memory_of_an_evaluation_does_not_grow_with_the_length_of_a_video():
    source = MovingDigits("val", videos=1, frames=200)
    views = [ClipView(LAST, 8, 12), ClipView(MIDDLE, 8, 12)]
    most = 0
    for video, positions in segments_of(scored_samples(source.videos)):
        read = read_segment(source, video, positions, views)
        most = max(most, len(read.frames[8, 12][0]))
    assert most <= segments.SPAN + 62


# Batches


def test_batches_hold_every_models_clips_and_cross_videos(tmp_path):
    write_video(tmp_path / "a", 5)
    write_video(tmp_path / "b", 1, seed=1)
    source = ClipFiles(str(tmp_path))
    samples = scored_samples(source.videos)
    loader = ClipLoader(source, [SMALL, WIDE], CPU)
    batches = list(loader.batches(samples, 4))
    assert [len(batch.sample) for batch in batches] == [4, 2]
    assert torch.cat([batch.sample for batch in batches]).tolist() == samples.tolist()
    assert batches[0].views[SMALL].shape == (4, 3, 4, 6, 8)
    assert batches[1].views[WIDE].shape == (2, 3, 3, 8, 10)
    alone = read_segment(source, 1, [0], [WIDE]).clip(0, WIDE)
    assert np.array_equal(batches[1].views[WIDE][1].numpy(), alone)


def test_short_videos_give_a_row_for_each_frame_and_frame_0_has_a_value():
    """Of a video of 1 frame and one of 5, whatever the window."""
    source = MovingDigits("val", videos=2, odd=True)
    samples = scored_samples(source.videos)
    assert samples.tolist() == [[0, 0], *([1, t] for t in range(5))]
    view = ClipView(LAST, 32, 48)
    values = [
        measure_batch(batch.views[view][:, 0, -1].float(), batch.target)
        for batch in ClipLoader(source, [view], CPU).batches(samples, 4)
    ]
    for name in METRICS:
        column = torch.cat([value[name] for value in values])
        assert column.shape == (6,)
        assert not column.isnan().any()


def test_maps_of_several_sizes_in_a_batch_are_scored_each_at_its_own():
    source = MovingDigits("val", videos=3, odd=True)
    samples = np.array([[2, t] for t in (2, 4, 5, 6)])
    view = ClipView(ONE, 64, 96)
    loader = ClipLoader(source, [view], CPU)
    (batch,) = loader.batches(samples, 8)
    assert batch.target["size"].tolist() == [[64, 96]] * 3 + [[32, 48]]
    output = torch.rand(4, 64, 96)
    together = measure_batch(output, batch.target)
    for row in range(4):
        (alone,) = loader.batches(samples[row : row + 1], 8)
        of_one = measure_batch(output[row : row + 1], alone.target)
        for name in METRICS:
            assert torch.equal(together[name][row].nan_to_num(-9), of_one[name][0].nan_to_num(-9))
    assert together["nss"].isnan().tolist() == [False, True, False, False]
    assert together["cc"].isnan().tolist() == [False, False, True, False]


def test_maps_are_brought_to_one_size_to_train_on():
    source = MovingDigits("val", videos=3, odd=True)
    loader = ClipLoader(source, [ClipView(ONE, 8, 8)], CPU, grid=(20, 30))
    (batch,) = loader.batches(np.array([[2, 2], [2, 6]]), 8)
    assert batch.target["map"].shape == (2, 20, 30)
    assert set(batch.target) == {"map"}


def damaged(tmp_path: Path) -> ClipFiles:
    write_video(tmp_path / "a", 5)
    (tmp_path / "a" / "images" / "0003.png").write_bytes(b"no image")
    return ClipFiles(str(tmp_path))


def test_a_frame_that_does_not_decode_is_named(tmp_path):
    loader = ClipLoader(damaged(tmp_path), [SMALL], CPU)
    with pytest.raises(BadImage, match=r"a/images/0003\.png is not a readable image"):
        list(loader.batches(np.array([[0, 0], [0, 4]]), 2))


def test_only_clips_that_show_a_damaged_frame_are_skipped(tmp_path):
    loader = ClipLoader(damaged(tmp_path), [ClipView(Window(2, 1, -1), 6, 8)], CPU, skip=True)
    samples = scored_samples(loader.source.videos)
    batches = list(loader.batches(samples, 2))
    assert torch.cat([b.sample for b in batches])[:, 1].tolist() == [0, 1, 4]


def test_processes_give_the_same_batches(tmp_path):
    write_video(tmp_path / "a", 5)
    write_video(tmp_path / "b", 4, seed=1)
    source = ClipFiles(str(tmp_path))
    samples = scored_samples(source.videos)
    here, there = (
        list(ClipLoader(source, [SMALL], CPU, workers=n).batches(samples, 3)) for n in (0, 1)
    )
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.views[SMALL], other.views[SMALL])
        assert torch.equal(one.target["fixated"], other.target["fixated"])


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
