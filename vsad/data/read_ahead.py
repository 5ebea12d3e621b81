"""Reading in threads ahead of whoever uses what is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_THREADS = 4  # as each holds one more sample in memory
Item = TypeVar("Item")
Key = TypeVar("Key")


def read_ahead(read: Callable[[Key], Item], keys: Iterable[Key], threads: int | None = None) -> Iterator[Item]:
    """Yield ``read(key)`` for each key, in order, while threads read what comes next.

    At most ``threads + 1`` items are held. An error is raised where its item would be yielded.

    Args:
        read: is called in the threads.
        keys: what to read.
        threads: where None, torch's number of threads, which is what a user sets, but no more than 4.
    """
    if threads is None:
        import torch  # which takes a second, and not all that is read here becomes tensors

        threads = min(torch.get_num_threads(), _THREADS)
    pending: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(threads, "vsad-read") as pool:
        try:
            for key in keys:
                pending.append(pool.submit(read, key))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # also where an error is raised, or the caller stops early
            for future in pending:
                future.cancel()
