"""A warm slot: one TorchTrainer run whose workers do job after job.

A fresh process for each job would pay its start-up (seconds) every time; a slot pays it once. A
job of one worker is trained in the slot's own process (Train's local mode); several workers are
processes that Train starts, wherever there is room.
"""

import os
import queue
import shutil
import threading
import traceback
from tempfile import mkdtemp
from typing import Any

import ray
from ray.exceptions import RayActorError

from bikd_ray.sweep.capacity import ResourceRequest
from bikd_ray.sweep.channel import ActorChannel, Channel, ThreadChannel
from bikd_ray.sweep.ray_private import hand_to_controllers


class SlotDied(Exception):
    """A worker of the slot is gone; the job it had may be given to another slot."""


class Slot:
    """Starts a trainer in a thread and talks to its workers. Lives in the trial's actor."""

    def __init__(self, needs: ResourceRequest) -> None:
        self.needs = needs
        self._error: str | None = None
        alone = needs.workers == 1
        self.mailbox: Channel = ThreadChannel() if alone else ActorChannel.of(needs.workers)
        # what Train writes of its own, on this node; nobody reads it again
        self._scratch = mkdtemp(prefix="bikd-slot-")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        # What removes a dead trial's placement group looks for the cluster by itself, and dies
        # where a machine runs two: its CPUs would stay taken for ever.
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        hand_to_controllers("RAY_ADDRESS")
        several = ScalingConfig(
            num_workers=self.needs.workers,
            use_gpu=bool(self.needs.gpus),
            resources_per_worker=self.needs.bundle,
        )
        trainer = TorchTrainer(
            worker_loop,
            train_loop_config={"mailbox": self.mailbox, "needs": self.needs},
            # two workers on one GPU are more than NCCL takes
            torch_config=TorchConfig("gloo" if self.needs.worker.gpus < 1 else None),
            scaling_config=several if self.needs.workers > 1 else ScalingConfig(num_workers=0),
            run_config=RunConfig(
                storage_path=self._scratch,
                failure_config=FailureConfig(max_failures=0),  # a dead slot is replaced whole
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except Exception:
            self._error = traceback.format_exc(limit=3)

    def put(self, request: Any) -> None:
        """Give the workers a job. Raises SlotDied."""
        try:
            self.mailbox.put(request)
        except RayActorError:
            raise SlotDied("its mailbox died") from None

    def next(self) -> Any:
        """The workers' next message, waited for. Raises SlotDied."""
        while True:
            alive = self.alive
            try:
                return self.mailbox.next(1.0)
            except queue.Empty:
                if not alive:
                    raise SlotDied(self._error or "its worker ended") from None
            except RayActorError:
                raise SlotDied("its mailbox died") from None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Let the workers end after their present job, and wait a little for that."""
        try:
            self.put(None)
            self._thread.join(timeout=5)
        except SlotDied:
            pass
        self.mailbox.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def worker_loop(config: dict[str, Any]) -> None:
    """In each training worker: pull a job, run it, send its messages, until None comes."""
    import torch
    from ray import train

    from bikd_ray.sweep.device import device_of
    from bikd_ray.sweep.events import JobResult
    from bikd_ray.sweep.job import run_job
    from bikd_ray.sweep.reserved import placed

    mailbox, needs = config["mailbox"], config["needs"]
    rank = train.get_context().get_world_rank()
    torch.set_num_threads(needs.threads)
    device = device_of(needs.worker.gpus)
    decoders = max(0, needs.threads - 1) if needs.gpus else 0
    if rank == 0 and needs.workers > 1:
        mailbox.emit(placed())
    while (request := mailbox.get(rank)) is not None:
        for message in run_job(request, device, decoders, rank):
            failed = isinstance(message, JobResult) and message.error is not None
            if rank == 0 or failed:
                mailbox.emit(message)
            if failed and needs.workers > 1:
                raise RuntimeError("the other workers wait for one that has failed: all end")
