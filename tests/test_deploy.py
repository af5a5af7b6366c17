"""The files of pipelines/deploy: against what reads them, as far as that can be had here."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bikd_pipelines.cli import app
from bikd_ray.store import Store
from tests.clusters import ROOT, in_namespaces

DEPLOY = ROOT / "pipelines" / "deploy"

# KubeRay's CRD has no package that could be had here; these are kept by hand. Only those of
# a job were compared with its Go types (apis/ray/v1, RayJobSpec); the others are from memory.
JOB = {
    "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata",
    "clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint",
    "runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources", "entrypointNumCpus",
    "entrypointNumGpus", "ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend",
}  # fmt: skip
CLUSTER = {
    "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations",
    "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion",
    "workerGroupSpecs", "authOptions",
}  # fmt: skip
HEAD = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKERS = {
    "suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds",
    "rayStartParams", "template", "scaleStrategy", "numOfHosts",
}  # fmt: skip
CONTAINER = {"name", "image", "resources", "envFrom", "volumeMounts"}


def test_the_rayjob_has_only_fields_that_kuberay_knows():
    job = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert spec.keys() <= JOB
    assert cluster.keys() <= CLUSTER
    assert head.keys() <= HEAD
    for group in workers:
        assert group.keys() <= WORKERS
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container.keys() <= CONTAINER
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            limits = container["resources"]["limits"]
            gpus = container["resources"]["requests"].get("nvidia.com/gpu")
            assert gpus == limits.get("nvidia.com/gpu")  # Kubernetes wants both the same
    assert job["spec"]["ttlSecondsAfterFinished"] >= 0


def test_the_commands_of_all_files_are_ones_that_bikd_takes():
    job = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    lines = [job["spec"]["entrypoint"]]
    for path in (DEPLOY / "aws.yaml", ROOT / "docs" / "clusters.md"):
        text = path.read_text().replace("\\\n", " ")
        lines += re.findall(r"^[#$ ]+(bikd .*?)(?:  #.*)?$", text, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        _, command, *rest = shlex.split(line)
        options = [word for word in rest if word.startswith("--")]
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert all(option in shown for option in options), line


def test_the_aws_cluster_is_one_that_ray_takes():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((DEPLOY / "aws.yaml").read_text()))
    validate_config(config)
    assert config["available_node_types"]["gpu"]["resources"] == {"CPU": 8, "GPU": 1}
    assert not any("no_restart" in key for key in config)


def test_the_slurm_script_is_bash_and_says_how_it_is_called():
    script = str(DEPLOY / "slurm.sh")
    subprocess.run(["bash", "-n", script], check=True)
    run = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("usage: sbatch slurm.sh SPEC")


@pytest.mark.slow
def test_the_slurm_script_runs_a_sweep_on_two_nodes(project, tmp_path):
    store = tmp_path / "store"
    script = [str(ROOT / "tests" / "fake_slurm.sh"), str(DEPLOY / "slurm.sh")]
    run = in_namespaces(project, [*script, "zoo.yaml", "--store", str(store)])
    assert run.returncode == 0, run.stdout + run.stderr
    assert "bikd: 6 jobs done" in run.stderr
    jobs = Store(str(store)).table("jobs").to_pylist()
    assert [job["status"] for job in jobs] == ["done"] * 6
    assert not [p for p in Path(store).glob("_work/*") if p.is_file()]
