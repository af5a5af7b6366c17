"""What came out in ten seconds, and the next command: read back as a shell and a spec read it."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from rich.cells import cell_len

from bikd_pipelines import cli
from bikd_pipelines.summary import print_summary
from bikd_ray.export.exporter import ExportRequest
from bikd_ray.specs import Spec
from bikd_ray.store import Store, Writer
from bikd_ray.store import verdicts as v
from bikd_ray.store.advice import Asked, Step, firsts, next_steps
from tests.stores import after, baseline, job
from tests.synthetic import World, made

NETS = ("ResNet", "ViT", "Mixer")
HELPED = {("ViT", "ResNet"): 12.0, ("ViT", "Mixer"): 11.0, ("Mixer", "ViT"): -9.0}


def steps(uri: str) -> list[Step]:
    store = Store(uri)
    return next_steps(store, store.gains(), Asked(), "zoo.yaml")


def keep_weights(uri: str) -> None:
    """As if each job had kept the weights of its learners."""
    (path,) = (p for p in os.scandir(f"{uri}/results") if p.name.endswith(".parquet"))
    table = pq.read_table(path.path)
    at = table.schema.get_field_index("weights")
    kept = ["weights/x.safetensors"] * len(table)
    pq.write_table(table.set_column(at, table.schema.field(at), [kept]), path.path)


def test_the_clearest_gain_is_exported_and_two_helpers_are_tried_together(tmp_path):
    uri = made(tmp_path, World(NETS, HELPED))
    keep_weights(uri)
    first, second, *_, last = steps(uri)
    words = shlex.split(first.type)
    assert words[:3] == ["bikd", "export", "ViT"]
    best = Store(uri).partners("ViT").to_pylist()[0]
    assert words[words.index("--partner") + 1] == best["partner"]
    assert words[words.index("--objective") + 1] == "bikd"
    assert f"net Δ +{best['net_delta']:.2f} pp" in first.why
    request = ExportRequest("ViT", best["partner"], objective="bikd")
    out = words[words.index("--out") + 1]
    assert set(words) == set(shlex.split(request.command(uri, Path(out), allow_worse=False)))
    spec, command = second.type.splitlines()
    asked = yaml.safe_load(spec)["pairings"]
    assert {*asked["list"][0]} == {"ViT", "ResNet", "Mixer"}
    assert command == "bikd sweep zoo.yaml"
    assert last.type == f"bikd dashboard --store {uri}"


def test_without_kept_weights_it_says_how_to_keep_them(tmp_path):
    first, *_ = steps(made(tmp_path, World(NETS, HELPED)))
    assert yaml.safe_load(first.type.splitlines()[0]) == {"resources": {"keep_weights": "best"}}


def test_where_nothing_helps_it_says_what_could_be_seen_and_what_else_there_is(tmp_path):
    uri = made(tmp_path, World(NETS, n=400))
    larger, other, *_ = steps(uri)
    found = sorted(r["detectable"] for r in Store(uri).gains().to_pylist())
    assert f"{found[len(found) // 2]:.2f} pp" in larger.why
    assert "1,600" in larger.why
    objectives = yaml.safe_load(other.type.splitlines()[0])["objectives"]
    zoo = [{"timm": "resnet18"}, {"timm": "resnet34"}]
    digits = {split: {"source": "digits", "split": split} for split in ("train", "val")}
    spec = Spec.model_validate({"zoo": zoo, "data": digits, "objectives": objectives})
    assert [o.label for o in spec.objectives] == ["kd(temperature=4.0)", "self"]


def test_failed_jobs_and_single_seeds_have_their_own_next_step(tmp_path):
    failed = steps(made(tmp_path / "a", World(NETS, failed=list(combinations(NETS, 2)))))
    assert "bikd sweep zoo.yaml --retry-failed" in failed[0].type
    assert failed[0].why.startswith("9 jobs failed")
    one = steps(made(tmp_path / "b", World(NETS, seeds=1)))
    assert any(yaml.safe_load(s.type.splitlines()[0]) == {"seeds": [0, 1, 2]} for s in one)


def test_the_clearest_stand_first_and_the_verdict_stands_above_the_numbers(tmp_path, capsys):
    store = Store(made(tmp_path, World(NETS, HELPED)))
    rows = firsts(store.gains())
    assert rows[0]["model"] == "ViT"
    assert rows[0]["verdict"] == v.IMPROVES
    print_summary(store)
    out = capsys.readouterr().out
    places = [out.index(x) for x in ("1 of 3 models improves", "net Δ [95%]", "\nNext\n")]
    assert places == sorted(places)


def test_no_command_but_a_store_is_its_summary(tmp_path, monkeypatch, capsys):
    uri = made(tmp_path, World(NETS, HELPED))

    def run(*words: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["bikd", *words])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr()

    assert run("--store", uri) == run("summary", "--store", uri)
    rows = json.loads(run("summary", "--store", uri, "--format", "json")[0])
    assert rows[0]["model"] == "ViT"
    assert "--store goes after the command" in run("--store", uri, "teachers")[1]


# -- every answer on 80 columns --------------------------------------------------------

LONG = ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "resnet50.a1_in1k", "Mixer")
EVERY = [
    ["summary"],
    ["partners", LONG[0]],
    ["pairs"],
    ["pairs", "--matrix", "--show", "net_delta"],
    ["pairs", "--matrix", "--show", "recovered"],
    ["pairs", "--matrix", "--show", "ensemble"],
    ["groups"],
    ["teachers"],
    ["flips"],
    ["classes", LONG[0]],
    ["curves", LONG[1]],
    ["status"],
    ["best", LONG[0]],
    ["paper"],
    ["paper", "--videos"],
]
LOST = [["summary"], ["partners", LONG[0]], ["pairs"], ["status", "--failed"]]
BINARY = ("flips", "classes", "curves", "status", "best", "paper")
MARK = "=" * 7


def on_a_terminal(width: int, commands: list[list[str]]) -> list[str]:
    """What each command and its notes print to one real pseudo-terminal, without styles."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    code = (
        "import json, sys; from bikd_pipelines.cli import app\n"
        "for words in json.loads(sys.argv[1]):\n"
        f"    app(words, standalone_mode=False); print({MARK!r}, flush=True)\n"
    )
    keep = {k: x for k, x in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(commands)],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env={**keep, "TERM": "xterm"},
    )
    os.close(theirs)
    read = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(ours, 65536):
            read += part
    os.close(ours)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[\d;]*m", "", read.decode().replace("\r\n", "\n"))
    return text.split(f"{MARK}\n")[:-1]


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> dict[str, str]:
    effects = {(LONG[0], LONG[1]): 12.0, (LONG[2], LONG[0]): -9.0}
    world = World(LONG, effects, sets=("sketch",), losses=True, own=5.0)
    uri = made(tmp_path_factory.mktemp("wide"), world)
    commands = [[*words, "--store", uri] for words in EVERY]
    commands += [
        [*words, "--store", uri, "--metric", "nll"] for words in EVERY if words[0] not in BINARY
    ]
    lost = made(tmp_path_factory.mktemp("lost"), World(LONG, failed=[*combinations(LONG, 2)]))
    commands += [[*words, "--store", lost] for words in LOST]
    found = on_a_terminal(80, commands)
    assert len(found) == len(commands)
    return {
        " ".join("lost" if c == lost else c for c in words if c != uri): text
        for words, text in zip(commands, found, strict=True)
    }


def test_no_number_is_cut_on_eighty_columns(shown):
    for command, text in shown.items():
        assert text.strip(), command
        assert not re.search(r"\d…|…\d|[+−]…", text), command
        wide = [x for x in text.splitlines() if cell_len(x) > 80 and not x.startswith("  ")]
        assert not wide, (command, wide)


def test_failed_jobs_are_counted_by_cause_below_the_list_and_beside_every_answer(shown):
    cure = "CUDA out of memory; set resources.micro_batch or gpus_per_job"
    assert shown["status --failed --store lost"].endswith(f"9 jobs: {cure}\n")
    for command in ("summary", f"partners {LONG[0]}", "pairs"):
        said = " ".join(shown[f"{command} --store lost"].split())
        assert "set resources.micro_batch or gpus_per_job, then bikd sweep SPEC" in said
    assert "to do" not in shown["status --store"]


def test_a_matrix_of_what_was_recovered_is_empty_where_a_model_lost(shown):
    rows = shown["pairs --matrix --show recovered --store"].split("Rows learn")[0]
    assert rows.count("–") > 3
    assert not re.search(r"−|–\*", rows)
    assert re.search(r"\d\.\d\*", rows)


def test_of_several_objectives_the_one_with_the_clearest_partner_stands_first(tmp_path, capsys):
    writer = Writer(uri := str(tmp_path))
    for m in "ab":
        baseline(writer, m)
    for seed in range(3):
        for m in "ab":
            job(writer, {m: after(m, 0.05, seed)}, seed)
        job(writer, {m: after(m, 0.05, seed + 9) for m in "ab"}, seed)
        job(writer, {m: after(m, 0.3, seed) for m in "ab"}, seed, objective="kd(temperature=4.0)")
    cli.app(["partners", "a", "--store", uri], standalone_mode=False)
    out = capsys.readouterr().out
    assert out.index("objective kd(temperature=4.0)") < out.index("objective bikd")


def test_losses_have_four_decimals_everywhere(shown):
    for command, text in shown.items():
        if command.endswith("nll"):
            other = "ensemble" in command or "recovered" in command
            assert re.search(r"[+−]\d\.\d{4}\b", text) or other, command
