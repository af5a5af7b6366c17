"""Where a slot and its workers meet: jobs one way, messages the other; both sides wait."""

import asyncio
import pickle
import queue
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError


class Channel(Protocol):
    """What both kinds can do."""

    def put(self, request: Any) -> None:
        """Hand every worker a request; None ends its loop."""
        ...

    def get(self, rank: int) -> Any:
        """The next order of one worker, waited for."""
        ...

    def emit(self, message: Any) -> None:
        """Tell the slot something."""
        ...

    def next(self, seconds: float) -> Any:
        """The next message, waited for. Raises queue.Empty when the time is over."""
        ...

    def close(self) -> None:
        """Nobody is there any more."""
        ...


class ThreadChannel:
    """For a worker that is a thread of the slot's process."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put(self, request: Any) -> None:
        self._requests.put(request)

    def get(self, rank: int) -> Any:
        return self._requests.get()

    def emit(self, message: Any) -> None:
        self._messages.put(message)

    def next(self, seconds: float) -> Any:
        return self._messages.get(timeout=seconds)

    def close(self) -> None:
        pass


class ActorChannel:
    """For workers that are other processes, maybe on other nodes: an actor that both sides ask.

    Its methods raise RayActorError where that has died.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._coming: Any = None  # the message that was asked for and has not come yet

    @classmethod
    def of(cls, workers: int) -> "ActorChannel":
        return cls(_Actor.remote(workers))

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorChannel, (self._actor,)

    def put(self, request: Any) -> None:
        ray.get(self._actor.put.remote(pickle.dumps(request)))

    def get(self, rank: int) -> Any:
        return pickle.loads(ray.get(self._actor.get.remote(rank)))

    def emit(self, message: Any) -> None:
        ray.get(self._actor.emit.remote(pickle.dumps(message)))

    def next(self, seconds: float) -> Any:
        self._coming = self._coming or self._actor.next.remote()
        try:
            message = pickle.loads(ray.get(self._coming, timeout=seconds))
        except GetTimeoutError:
            raise queue.Empty from None
        self._coming = None
        return message

    def close(self) -> None:
        ray.kill(self._actor)


@ray.remote(num_cpus=0)
class _Actor:
    """Holds what is under way as bytes, so that its process stays small: it never loads torch."""

    def __init__(self, workers: int) -> None:
        self._requests: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in range(workers)]
        self._messages: asyncio.Queue[bytes] = asyncio.Queue()

    async def put(self, request: bytes) -> None:
        for requests in self._requests:
            await requests.put(request)

    async def get(self, rank: int) -> bytes:
        return await self._requests[rank].get()

    async def emit(self, message: bytes) -> None:
        await self._messages.put(message)

    async def next(self) -> bytes:
        return await self._messages.get()
