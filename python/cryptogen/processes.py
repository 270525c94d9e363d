"""Work on several inputs at once, in as many processes as there are processors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def in_processes(work: Callable[[Input], Output], inputs: Sequence[Input]) -> Iterator[Output]:
    """`work` of every input, in order. `work` must be importable; its exceptions are raised here. Each worker has one
    thread for numpy's products, so that they do not get into each other's way."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # inherited by the workers
    try:
        workers = min(len(os.sched_getaffinity(0)), max(len(inputs), 1))
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            yield from pool.map(work, inputs)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
