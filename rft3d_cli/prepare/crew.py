"""Work shared out among processes, its results in order.

The calling process is one of the workers: it has everything imported already, and takes what no other process has
begun while it would have to wait. So a short run does not wait for processes to start, and two workers keep two cores
busy instead of two and a bit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Generic, TypeVar

from rft3d_cli.errors import Rft3dError

Job = TypeVar("Job")
Result = TypeVar("Result")

FEW = 4
"""Fewer jobs than this are not worth a process."""


def ordered(jobs: Sequence[Job], work: Callable[[Job], Result], workers: int) -> Generator[Result]:
    """Results in the order of their jobs, worked on by ``workers`` processes, of which this is one.

    Args:
        jobs: What to work on.
        work: Module-level function or a partial of one, because the other processes are spawned.
        workers: Processes in all.

    Raises:
        Rft3dError: Where a worker process dies.

    >>> list(ordered([3, -1, -2], abs, workers=2))
    [3, 1, 2]
    """
    if workers <= 1 or len(jobs) < FEW:
        yield from map(work, jobs)
        return
    crew = _Crew(jobs, work, min(workers, len(jobs)) - 1)
    try:
        for number in range(len(jobs)):
            yield crew.result(number)
    except BrokenProcessPool:
        raise Rft3dError("a worker process died, perhaps for want of memory", "use fewer: --workers 1") from None
    finally:
        crew.close()


class _Crew(Generic[Job, Result]):
    """The other processes, what they are at, and what nobody has begun."""

    def __init__(self, jobs: Sequence[Job], work: Callable[[Job], Result], hands: int) -> None:
        self.jobs, self.work, self.hands = jobs, work, hands
        self.waiting = deque(range(len(jobs)))
        self.futures: dict[int, Future[Result]] = {}
        self.given = 0
        self.closed = False
        # The pool's own thread hands out jobs too.
        self.lock = threading.RLock()
        # Spawned, not forked: FFmpeg's and BLAS's threads do not survive a fork.
        self.pool = ProcessPoolExecutor(hands, mp_context=get_context("spawn"))
        self.feed()

    def feed(self) -> None:
        """Hand out jobs; while many wait, one in reserve for each process, so that none waits for its next."""
        with self.lock:
            while self.waiting and not self.closed:
                reserve = self.hands if len(self.waiting) > 4 * (self.hands + 1) else 0
                if self.given >= self.hands + reserve:
                    return
                number = self.waiting.popleft()
                self.given += 1
                self.futures[number] = future = self.pool.submit(self.work, self.jobs[number])
                future.add_done_callback(self.returned)

    def returned(self, future: Future[Result]) -> None:
        """A process has finished a job; called in the pool's own thread."""
        with self.lock:
            self.given -= 1
            if not future.cancelled() and not isinstance(future.exception(), BrokenProcessPool):
                self.feed()

    def result(self, number: int) -> Result:
        """The result of a job; until it is there, this process works on others, the next in line first."""
        while True:
            with self.lock:
                future = self.futures.get(number)
                if future is not None and (future.done() or not self.waiting):
                    break
                mine = self.waiting.popleft()
                self.futures[mine] = Future()
            try:
                self.futures[mine].set_result(self.work(self.jobs[mine]))
            except Exception as error:
                # It is raised in its turn, as with any number of workers.
                self.futures[mine].set_exception(error)
        found = future.result()
        with self.lock:
            del self.futures[number]
        return found

    def close(self) -> None:
        """End the processes; what nobody has begun is given up."""
        with self.lock:
            self.closed = True
        self.pool.shutdown(wait=True, cancel_futures=True)
