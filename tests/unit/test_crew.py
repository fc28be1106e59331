import os
import signal
import time
from functools import partial

import pytest

from rft3d_cli.errors import DataError, Rft3dError
from rft3d_cli.prepare.crew import ordered


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def slow_first(number: int) -> int:
    time.sleep(1.0 if number == 0 else 0.001)
    return number


def wrong_at(bad: int, number: int) -> int:
    if number == bad:
        raise DataError(f"job {number}")
    return number


def dies_elsewhere(here: int, number: int) -> int:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


@pytest.mark.parametrize(
    ("workers", "count"), [(workers, count) for workers in (1, 2, 3) for count in (0, 1, 5, 40)] + [(50, 0), (50, 5)]
)
def test_results_come_in_the_order_of_their_jobs(workers: int, count: int) -> None:
    assert [value for value, _ in ordered(range(count), square, workers)] == [n * n for n in range(count)]


def test_this_process_works_too_and_while_another_starts() -> None:
    pids = [pid for _, pid in ordered(range(400), square, 2)]
    assert os.getpid() in pids[:10]
    assert len(set(pids)) <= 2


def test_a_slow_job_does_not_hold_up_the_others() -> None:
    begin = time.monotonic()
    assert list(ordered(range(200), slow_first, 2)) == list(range(200))
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("bad", [0, 3, 17])
def test_an_exception_is_raised_in_its_turn(bad: int) -> None:
    stream = ordered(range(20), partial(wrong_at, bad), 2)
    assert [next(stream) for _ in range(bad)] == list(range(bad))
    with pytest.raises(DataError, match=f"job {bad}"):
        next(stream)


def test_a_worker_that_dies_is_one_line() -> None:
    with pytest.raises(Rft3dError, match="a worker process died"):
        list(ordered(range(30), partial(dies_elsewhere, os.getpid()), 2))


def test_who_stops_early_waits_for_no_more_than_what_was_begun() -> None:
    begin = time.monotonic()
    stream = ordered([0.05] * 1000, time.sleep, 2)
    next(stream)
    stream.close()
    assert time.monotonic() - begin < 20
