"""Runs in TensorBoard, MLflow and Weights & Biases, read back from what they wrote."""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest

from bikd_ray.errors import UserError
from bikd_ray.resolve import plan_jobs
from bikd_ray.spec_file import load_spec, parse_spec
from bikd_ray.sweep import loggers as module
from bikd_ray.sweep.events import EpochEnd, JobRequest, JobResult, job_row
from bikd_ray.sweep.loggers import loggers_of


@dataclass
class Trial:
    config: dict = field(default_factory=dict)


def play(spec_file, tmp_path, loggers, jobs=2):
    """What Tune would report of some jobs side by side; returns what a person was told."""
    spec = load_spec(spec_file(loggers=loggers, name="watched"))
    chosen = [j for j in plan_jobs(spec, str(tmp_path / "store")) if len(j.members) == 2][:jobs]
    requests = {job.job_id: JobRequest(job, spec.name, "/nowhere") for job in chosen}
    said = []
    opened = loggers_of(spec, said.append)
    for logger in opened:
        logger.requests = requests
        trials = [Trial({"job_id": job_id}) for job_id in requests]
        for trial in trials:
            logger.on_trial_start(0, trials, trial)
        for epoch in (0, 1):
            for trial in trials:
                names = requests[trial.config["job_id"]].job.names
                rows = [{"model": m, "score": 50.0 + epoch, "loss": None} for m in names]
                message = EpochEnd(epoch, 2, rows)
                logger.on_trial_result(0, trials, trial, {"message": message})
        for i, trial in enumerate(trials):
            request = requests[trial.config["job_id"]]
            error = "NaN loss\nTraceback" if i else None
            results = [
                {"model": m, "selection": s, "metric": "top1", "eval_set": "val", "delta": d}
                for m in request.job.names
                for s, d in (("last", 1.5), ("best_val", 9.0))
            ]
            outcome = JobResult(job_row(request, 1.0, {}, error), [] if error else results)
            logger.on_trial_result(0, trials, trial, {"message": outcome})
        logger.close()
    return chosen, said


def events(folder):
    """The records of a run's event files: length, checksum, message, checksum."""
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2  # generated: its classes are made when it is imported

    found = []
    for path in sorted(folder.rglob("events.out.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            found.append(proto.Event.FromString(content[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def test_tensorboard_holds_each_epoch_the_gains_and_what_was_asked(spec_file, tmp_path):
    jobs, said = play(spec_file, tmp_path, ["tensorboard"])
    assert said == []
    folders = sorted((tmp_path / "runs" / "watched").iterdir())
    assert len(folders) == 2
    (folder,) = [f for f in folders if f.name.endswith(jobs[0].job_id[:6])]
    values = [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]
    a, b = jobs[0].names
    for name in (a, b):
        assert (f"{name}/top1", 0, 50.0) in values
        assert (f"{name}/top1", 1, 51.0) in values
        assert (f"{name}/top1_delta", 0, 1.5) in values
    assert not any(tag.endswith("/ce") or value == 9.0 for tag, _, value in values)
    raw = b"".join(path.read_bytes() for path in folder.rglob("events.out.*"))
    assert " + ".join((a, b)).encode() in raw  # hyperparameters
    (other,) = [f for f in folders if f != folder]
    assert b"NaN loss" in b"".join(path.read_bytes() for path in other.rglob("events.out.*"))


def test_mlflow_holds_the_same(spec_file, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"sqlite:///{tmp_path}/ml.db"
    jobs, said = play(spec_file, tmp_path, [{"name": "mlflow", "tracking_uri": uri}])
    assert said == []
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("watched")
    runs = {r.data.params["job_id"]: r for r in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {job.job_id for job in jobs}
    first, second = (runs[job.job_id] for job in jobs)
    name = jobs[0].names[0]
    history = client.get_metric_history(first.info.run_id, f"{name}/top1")
    assert [(m.step, m.value) for m in history] == [(0, 50.0), (1, 51.0)]
    assert first.data.metrics[f"{name}/top1_delta"] == 1.5
    assert (first.info.status, second.info.status) == ("FINISHED", "FAILED")
    assert second.data.tags["error"] == "NaN loss"


def test_wandb_offline_leaves_a_folder_for_each_run(spec_file, tmp_path):
    pytest.importorskip("wandb")
    where = {"name": "wandb", "mode": "offline", "dir": str(tmp_path / "wb")}
    jobs, said = play(spec_file, tmp_path, [where])
    assert said == []
    runs = sorted((tmp_path / "wb" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == len(jobs)
    content = b"".join(path.read_bytes() for path in runs)
    for job in jobs:
        assert json.dumps(job.job_id).encode() in content


def test_a_logger_that_fails_says_so_once_and_stops_nothing(spec_file, tmp_path, monkeypatch):
    def refuse(logger, request):
        raise ConnectionError("no server at http://nowhere\nand a long story")

    monkeypatch.setitem(module.KINDS, "tensorboard", ("tensorboardX", refuse))
    _, said = play(spec_file, tmp_path, ["tensorboard"])
    assert said == [
        "tensorboard stopped: ConnectionError: no server at http://nowhere; the sweep goes on "
        "without it"
    ]


def test_a_logger_whose_package_is_missing_names_the_extra(spec_file, monkeypatch):
    monkeypatch.setitem(module.KINDS, "wandb", ("no_such_package", None))
    spec = load_spec(spec_file(loggers="wandb"))
    with pytest.raises(UserError, match=r'pip install "bikd-ray\[wandb\]"'):
        loggers_of(spec, print)


@pytest.mark.parametrize(
    ("loggers", "says"),
    [
        (["comet"], "loggers[0].name: unknown value 'comet'; choose from mlflow, tensorboard"),
        ([{"name": "mlflow", "dir": "x"}], "mlflow takes tracking_uri, experiment, not dir"),
        (["mlflow", "mlflow"], "loggers lists a value twice"),
    ],
)
def test_a_wrong_logger_is_refused_with_what_there_is(loggers, says):
    zoo = [{"timm": "resnet18"}, {"timm": "resnet34"}]
    data = {s: {"source": "digits", "split": s} for s in ("train", "val")}
    with pytest.raises(UserError) as raised:
        parse_spec({"zoo": zoo, "data": data, "loggers": loggers})
    assert says in str(raised.value)
