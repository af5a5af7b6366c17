"""Where a slot and its worker meet: jobs one way, messages the other."""

import asyncio
from typing import Any

import ray


@ray.remote(num_cpus=0)
class Mailbox:
    """One for each slot; both sides wait on it without polling."""

    def __init__(self) -> None:
        self._jobs: asyncio.Queue[Any] = asyncio.Queue()
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    async def put(self, order: Any) -> None:
        """Hand the worker an order, or None to end its loop."""
        await self._jobs.put(order)

    async def get(self) -> Any:
        return await self._jobs.get()

    async def emit(self, message: Any) -> None:
        await self._messages.put(message)

    async def next(self) -> Any:
        return await self._messages.get()
