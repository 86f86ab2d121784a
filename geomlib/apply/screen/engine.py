"""Who carries out the chunks of a screening: this process, worker processes, or Ray Data; always the same code."""

import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from geomlib.apply.screen.chunk import Screener
from geomlib.apply.screen.parts import Parts, chunk_file
from geomlib.apply.screen.plan import ScreenPlan
from geomlib.apply.screen.reading import Chunk, MoleculeFile
from geomlib.errors import DataError, MissingExtra
from geomlib.files.atomic import write_atomically

__all__ = ["ENGINES", "run_chunks"]

Setup = tuple[str, tuple[str, ...], int]
"""Plan as JSON, columns of the input, index of the SMILES: what a worker is made from."""

_AHEAD = 2
"""Chunks that wait for each worker."""


def run_chunks(
    source: MoleculeFile,
    plan: ScreenPlan,
    parts: Parts,
    *,
    chunk_rows: int,
    workers: int,
    engine: str,
    progress: Callable[[int], None],
) -> int:
    """Carry out all chunks that are not done, and return how many there are.

    Args:
        source: the input.
        plan: what to do.
        parts: where chunks are kept.
        chunk_rows: rows of a chunk.
        workers: processes; with one, the work is done in this one.
        engine: `local` or `ray`.
        progress: called with the number of rows whose chunks are done.

    Raises:
        DataError: a worker died.
        MissingExtra: Ray is not installed.
    """
    count = 0

    def waiting() -> Iterator[Chunk]:
        nonlocal count
        for chunk in source.chunks(chunk_rows):
            count = chunk.index + 1
            if chunk.index in parts:
                progress(len(chunk))
            else:
                yield chunk

    setup = (plan.to_json(), source.columns, source.smiles_index)
    if engine == "ray":
        ENGINES["ray"](setup, waiting(), parts, workers, progress)
    elif workers == 1:
        _here(setup, waiting(), parts, progress)
    else:
        ENGINES["local"](setup, waiting(), parts, workers, progress)
    return count


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums of one thread, as in every worker: their order decides the last digits of a prediction."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _screener(setup: Setup) -> Screener:
    plan, columns, smiles_index = setup
    return Screener(ScreenPlan.from_json(plan), columns, smiles_index)


def _here(setup: Setup, chunks: Iterator[Chunk], parts: Parts, progress: Callable[[int], None]) -> None:
    screener = _screener(setup)
    with _one_thread() if screener.plan.models else nullcontext():
        for chunk in chunks:
            parts.write(chunk.index, screener.run(chunk).to_bytes())
            progress(len(chunk))


# -------------------------------------------------------------------- processes

_WORKER: list[Screener] = []
"""Of a worker process: its screener."""


def _leave_with_parent() -> None:
    """End this process with the one that started it, which can't tell its workers when it is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start(setup: Setup, with_torch: bool) -> None:
    _leave_with_parent()
    if with_torch:
        import torch

        torch.set_num_threads(1)
    _WORKER[:] = [_screener(setup)]


def _work(chunk: Chunk) -> bytes:
    return _WORKER[0].run(chunk).to_bytes()


def _processes(
    setup: Setup, chunks: Iterator[Chunk], parts: Parts, workers: int, progress: Callable[[int], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start, (setup, bool(json.loads(setup[0])["models"]))) as pool:
        running: deque[tuple[Chunk, Future[bytes]]] = deque()

        def finish() -> None:
            chunk, future = running.popleft()
            parts.write(chunk.index, future.result())
            progress(len(chunk))

        try:
            for chunk in chunks:
                running.append((chunk, pool.submit(_work, chunk)))
                if len(running) >= _AHEAD * workers:
                    finish()
            while running:
                finish()
        except BrokenProcessPool:
            raise DataError(
                "a worker process died, perhaps for want of memory: run the same command again, it goes on where it "
                "was; fewer --workers or smaller --chunk-rows need less"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


# -------------------------------------------------------------------- Ray Data


class _RayWorker:
    """Stateful function of Ray Data: reads the rows of a chunk from a file, writes its result beside it."""

    def __init__(self, setup: Setup, folder: str) -> None:
        _start(setup, bool(json.loads(setup[0])["models"]))
        self._parts = Path(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for index in batch["item"].tolist():
            values = json.loads(_rows_file(self._parts, index).read_text(encoding="utf-8"))
            problems, blocks = (
                {int(place): text for place, text in values[key].items()} for key in ("problems", "blocks")
            )
            chunk = Chunk(index, values["first"], [tuple(cells) for cells in values["cells"]], problems, blocks)
            write_atomically(chunk_file(self._parts, index), _work(chunk))
        return batch


def _rows_file(folder: Path, index: int) -> Path:
    return folder / f"rows-{index:08d}.json"


def _ray(setup: Setup, chunks: Iterator[Chunk], parts: Parts, workers: int, progress: Callable[[int], None]) -> None:
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtra("ray", "scale", "the engine 'ray'") from None
    sizes: dict[int, int] = {}
    for chunk in chunks:  # chunks go through files, which all machines must see, not through the memory of this one
        values = {"first": chunk.first, "cells": chunk.cells, "problems": chunk.problems, "blocks": chunk.blocks}
        text = json.dumps(values)
        write_atomically(_rows_file(parts.folder, chunk.index), text.encode())
        sizes[chunk.index] = len(chunk)
    if not sizes:
        return
    own = not ray.is_initialized()
    if own:
        address = os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {"address": address} if address else {"num_cpus": workers + 1}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False, **options)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        done = ray.data.from_items(list(sizes), override_num_blocks=len(sizes)).map_batches(
            _RayWorker,
            fn_constructor_args=(setup, str(parts.folder.absolute())),
            batch_size=1,
            concurrency=workers,
            zero_copy_batch=True,
        )
        for row in done.iter_rows():
            index = int(row["item"])
            _rows_file(parts.folder, index).unlink()
            progress(sizes[index])
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray: {str(error).strip().splitlines()[-1]}; run the same command again, it goes on") from None
    finally:
        if own:
            ray.shutdown()


ENGINES: dict[str, Callable[[Setup, Iterator[Chunk], Parts, int, Callable[[int], None]], None]] = {
    "local": _processes,
    "ray": _ray,
}
"""Name → what hands chunks to several processes."""
