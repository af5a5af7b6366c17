"""What a person sees while a sweep runs, on a terminal and in a file."""

import io

from rich.console import Console

from bikd_ray.sweep.progress import Progress


def play(progress: Progress) -> None:
    with progress:
        progress.enter("baselines of 2 models")
        progress.start_jobs(4, skipped=3)
        progress.begin("1", "a + b · bikd · seed 0")
        progress.begin("2", "a · ce · seed 0")
        progress.advance("1", "a + b · bikd · seed 0", 1, 2)
        progress.finish("1", "a + b · bikd · seed 0", 10.0, None, 15.0)
        progress.finish("2", "a · ce · seed 0", 20.0, "NaN loss\nTraceback …", 12.0)


def test_a_pipe_gets_a_plain_line_for_each_phase_and_each_finished_job():
    stream = io.StringIO()
    play(Progress("demo", stream))
    lines = [line.removeprefix("bikd 0:00 ") for line in stream.getvalue().splitlines()]
    assert lines == [
        "baselines of 2 models …",
        "4 jobs to do, 3 already in the store …",
        "[1/4, 0:15 left] a + b · bikd · seed 0 · 10.0 s",
        "[2/4, 0:12 left] FAILED a · ce · seed 0: NaN loss",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_one_display_with_counts_the_running_jobs_and_the_last_error():
    progress = Progress("demo", io.StringIO())
    play(progress)
    progress.begin("3", "b · ce · seed 0")
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(progress._render())
    shown = console.export_text()
    for part in ("demo", "1 done", "1 failed", "2 left", "ETA 0:12", "b · ce · seed 0"):
        assert part in shown
    assert "last error  a · ce · seed 0: NaN loss" in shown
    assert "Traceback" not in shown


def test_a_narrow_terminal_still_says_how_far_each_job_is():
    progress = Progress("a-sweep-of-many-models", io.StringIO())
    play(progress)
    label = "vit_base_patch16_224.augreg_in21k + convnext_tiny.in12k_ft_in1k · bikd · seed 0"
    progress.advance("3", label, 7, 20)
    progress._console = console = Console(width=60, file=io.StringIO(), record=True)
    console.print(progress._render())
    lines = console.export_text().splitlines()
    assert [len(line) <= 60 for line in lines] == [True] * 3
    assert "1 done  1 failed  2 left" in lines[0]
    assert lines[1].startswith("  vit_base_patch16_224")
    assert lines[1].endswith("…  epoch 7/20")
