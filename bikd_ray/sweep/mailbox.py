"""Where a slot and its worker meet: jobs one way, messages the other.

Both are pickled by their senders, so that this process stays small: it never loads torch.
"""

import asyncio

import ray


@ray.remote(num_cpus=0)
class Mailbox:
    """One for each slot; both sides wait on it without polling."""

    def __init__(self, workers: int) -> None:
        self._jobs: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in range(workers)]
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()

    async def put(self, order: bytes) -> None:
        """Hand every worker an order; a pickled None ends its loop."""
        for jobs in self._jobs:
            await jobs.put(order)

    async def get(self, rank: int) -> bytes:
        """The next order of one worker."""
        return await self._jobs[rank].get()

    async def emit(self, message: bytes) -> None:
        await self._messages.put(message)

    async def next(self) -> bytes:
        return await self._messages.get()
