"""One model on each worker against all on one: how much of the possible speed-up is reached.

python tests/benchmarks/placements.py [--rounds 15]

Two workers of one thread each have a ResNet-18 and a ViT-Ti (64 px, batch 32, 1,000 classes). Each
round takes every model's own cross-entropy step while the other worker waits, and then the joint
Bi-KD step, in which the workers exchange what their models answer. Without exchange or waiting the
joint step would take as long as the slower model's own; beside it stands how long both take their
own steps at once, which is what the machine's memory and caches leave of that. It also prints what
a state of the run costs: its size, and the seconds to pack it and to take it up again.
"""

import argparse
import socket
import statistics
import time
from multiprocessing import get_context
from typing import Any

import torch
import torch.distributed as dist

from bikd_ray.data.loader import Batch
from bikd_ray.specs import CONTROL, Objective, Recipe
from bikd_ray.tasks import task_of
from bikd_ray.train.best_epochs import BestEpochs
from bikd_ray.train.parallel import Workers
from bikd_ray.train.state import Position, pack, unpack
from bikd_ray.train.step import EpochSums, Sources
from tests.benchmarks.step import CLASSES, learner_of, models, timed

COUNT, BATCH = 2, 32
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    start = get_context("spawn")
    said = start.Queue()
    workers = [
        start.Process(target=work, args=(rank, address, rounds, said)) for rank in range(COUNT)
    ]
    for worker in workers:
        worker.start()
    found = dict(said.get(timeout=280) for _ in workers)
    for worker in workers:
        worker.join()
    rows = list(zip(found[0]["own"], found[1]["own"], found[0]["joint"], strict=True))
    share = statistics.median((a + b) / joint / ((a + b) / max(a, b)) for a, b, joint in rows)
    first, second, joint = (1e3 * statistics.median(column) for column in zip(*rows, strict=True))
    print(f"own steps {first:.1f} and {second:.1f} ms, joint step {joint:.1f} ms on two workers")
    both = statistics.median(
        joint / max(a, b)
        for a, b, joint in zip(
            found[0]["at once"], found[1]["at once"], found[0]["joint"], strict=True
        )
    )
    print(f"{both:.3f} of the slower of the own steps at once")
    print(f"{share:.3f} of the speed-up that (sum of own steps) / (slower own step) allows")
    print("state of worker 0: {size:.0f} MB, packed in {pack:.2f} s, taken up in {unpack:.2f} s"
          .format(**found[0]))  # fmt: skip


def work(rank: int, address: str, rounds: int, said: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=COUNT)
    zoo, recipe = models("cpu")[:COUNT], Recipe()
    alone = Sources([learner_of(zoo[rank], recipe, CPU)], CONTROL, seed=0)
    mine = [learner_of(m, recipe, CPU) if k == rank else None for k, m in enumerate(zoo)]
    joint = Sources(mine, Objective(), seed=0, workers=Workers(COUNT, 1, rank))
    view, size = zoo[rank].input.view, zoo[rank].input.size
    pixels = torch.randint(256, (BATCH, 3, size, size), dtype=torch.uint8)
    batch = Batch({view: pixels}, torch.arange(BATCH) % CLASSES, torch.arange(BATCH), BATCH, BATCH)
    found: dict[str, Any] = {"own": [], "at once": [], "joint": []}
    for number in range(rounds + 2):
        own = 0.0
        for turn in range(COUNT):
            dist.barrier()
            own = timed(alone, batch, number, CPU) if turn == rank else own
        dist.barrier()
        at_once = timed(alone, batch, number, CPU)
        dist.barrier()
        both = timed(joint, batch, number, CPU)
        if number >= 2:
            found["own"].append(own)
            found["at once"].append(at_once)
            found["joint"].append(both)
    selections, tally = (
        BestEpochs([None] * COUNT, (), task_of().metrics[0]),
        EpochSums.zero(COUNT, CPU),
    )
    start = time.perf_counter()
    content = pack(Position(), mine, tally, selections, [])
    middle = time.perf_counter()
    assert unpack(content, mine, selections)
    end = time.perf_counter()
    found |= {"size": len(content) / 1e6, "pack": middle - start, "unpack": end - middle}
    said.put((rank, found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
