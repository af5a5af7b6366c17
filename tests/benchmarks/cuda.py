"""Everything that waits for an NVIDIA GPU, in one run of nine minutes at most.

python -m tests.benchmarks.cuda [--out bench-cuda.md]        (or: make bench-cuda)

Runs the tests that need a GPU and the benchmarks that can take one, each in a process of its own,
and writes one Markdown file: a table of what ran, how long, and how it ended, and below it what
each has printed. What is not done when its time is over is stopped and said to be late; the rest
still runs. Ends with 1 where anything failed or was late, and at once where there is no GPU.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

TOTAL = 9 * 60.0
"""Seconds."""

CUDA = ("--device", "cuda")
RUNS: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("tests", 150, ("pytest", "-q", "-x", "tests/test_cuda.py")),
    ("step, fp32", 60, ("tests.benchmarks.step", *CUDA, "--rounds", "7")),
    ("step, bf16", 60, ("tests.benchmarks.step", *CUDA, "--rounds", "7", "--precision", "bf16")),
    ("epoch", 90, ("tests.benchmarks.epoch", *CUDA)),
    ("frozen models, bf16", 120, ("tests.benchmarks.frozen", *CUDA, "--precision", "bf16",
                                  "--rounds", "1", "--objectives", "kl_dp", "kd")),
    ("loader", 60, ("tests.benchmarks.loader",)),
)  # fmt: skip
"""What to call it, the most seconds, and the module with its arguments. Compiled networks are one
of the tests."""


@dataclass(frozen=True)
class Done:
    name: str
    command: str
    seconds: float
    end: str  # ok, failed, late
    output: str


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("bench-cuda.md"))
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        sys.exit("bench-cuda: no NVIDIA GPU here (torch.cuda.is_available() is false)")
    end = time.monotonic() + TOTAL
    done = []
    for name, most, command in RUNS:
        done.append(run(name, command, min(most, end - time.monotonic())))
        print(f"{name}: {done[-1].end}, {done[-1].seconds:.0f} s", flush=True)
    out.write_text(report(torch.cuda.get_device_name(), done))
    print(out)
    sys.exit(any(one.end != "ok" for one in done))


def run(name: str, command: tuple[str, ...], most: float) -> Done:
    """Run a module; what it had printed when its time was over is kept too."""
    start, shown = time.monotonic(), " ".join(("python -m", *command))
    if most <= 0:
        return Done(name, shown, 0.0, "late", "")
    try:
        found = subprocess.run(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=most,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        output, end = late.output or b"", "late"
    else:
        output, end = found.stdout, "failed" if found.returncode else "ok"
    return Done(name, shown, time.monotonic() - start, end, output.decode(errors="replace").strip())


def report(device: str, done: list[Done]) -> str:
    """Markdown."""
    lines = [f"# On {device}, torch {torch.__version__}", "", "| what | s | end | command |"]
    lines += ["|---|---|---|---|"]
    lines += [f"| {one.name} | {one.seconds:.0f} | {one.end} | `{one.command}` |" for one in done]
    for one in done:
        lines += ["", f"## {one.name}", "", "```text", one.output, "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
