"""Where the states of a job that is at work are kept: under `_work/` of the store, for any node."""

from dataclasses import dataclass

from bikd_ray.store.filesystem import StoreFS
from bikd_ray.train.parallel import Workers


def folder_of(job_id: str) -> str:
    """The folder of one job's states in the store; it goes when the job is committed."""
    return f"_work/{job_id}"


@dataclass(frozen=True)
class StoredStates:
    """`train.state.States` in a store. A state serves the placement that wrote it."""

    fs: StoreFS
    job_id: str
    workers: Workers

    def steps(self) -> list[int]:
        return [step for step, rank in self._there().values() if rank == self._rank]

    def read(self, step: int) -> bytes:
        return self.fs.read(self._path(step))

    def write(self, step: int, content: bytes) -> None:
        self.fs.write(self._path(step), content)

    def forget(self, before: int) -> None:
        for path, (step, _) in self._there().items():
            if step < before:
                self.fs.delete(path)

    @property
    def _rank(self) -> int:
        return self.workers.row

    @property
    def _placement(self) -> str:
        return f"{self.workers.models}x{self.workers.shares}"

    def _path(self, step: int) -> str:
        return f"{folder_of(self.job_id)}/{self._placement}-{self._rank}-{step}.pt"

    def _there(self) -> dict[str, tuple[int, int]]:
        """Full path to (step, rank), of this placement."""
        found = {}
        for path in self.fs.listing(folder_of(self.job_id), ".pt"):
            placement, rank, step = path.rpartition("/")[2].removesuffix(".pt").rsplit("-", 2)
            if placement == self._placement:
                found[path] = (int(step), int(rank))
        return found
