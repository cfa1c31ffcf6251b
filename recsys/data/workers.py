"""Who does the work on the parts of a large table: the threads of this process, or the machines of a Ray cluster."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Workers(Protocol):
    """Both give their results in the order of the pieces."""

    def read(self, work: Callable[[Piece], Iterable[Result]], pieces: Sequence[Piece]) -> Iterator[Result]:
        """All results of work that is many-threaded itself and makes several results of a piece."""
        ...

    def map(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
        """The result of each piece."""
        ...


class Threads:
    """One thread per core."""

    def read(self, work: Callable[[Piece], Iterable[Result]], pieces: Sequence[Piece]) -> Iterator[Result]:
        for piece in pieces:
            yield from work(piece)

    def map(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from pool.map(work, pieces)


THREADS = Threads()


@contextlib.contextmanager
def ray_cluster() -> Iterator[Workers]:
    """A Ray cluster: the one this process uses already, else that of `RAY_ADDRESS`, else one on this machine.

    One that was not in use before is left, or shut down, at the end. Raises ValueError where Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("`prepare=ray` needs Ray; install it by: pip install '.[ray]'.") from None
    ours = not ray.is_initialized()
    if ours:
        _init_keeping_sigterm()
    try:
        yield RayData()
    finally:
        if ours:
            ray.shutdown()


def _init_keeping_sigterm() -> None:
    """Start or join a cluster; Ray would replace the process's own answer to SIGTERM, and not give it back."""
    import ray

    earlier = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, earlier)


class RayData:
    """The running Ray cluster, by Ray Data.

    The folder of the tables and that of the encoded store must be the same on all machines. A file of the behaviour
    table is read by one worker, so write large tables as several files.
    """

    def read(self, work: Callable[[Piece], Iterable[Result]], pieces: Sequence[Piece]) -> Iterator[Result]:
        for results in self.map(lambda piece: list(work(piece)), pieces):
            yield from results

    def map(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
        import ray
        from ray import cloudpickle

        ray.data.DataContext.get_current().enable_progress_bars = False
        shared = ray.put(work)  # its arrays are read where they lie, not copied for each piece

        def apply(row: dict[str, Any]) -> dict[str, Any]:
            try:
                result: Any = ray.get(shared)(cloudpickle.loads(row["piece"]))
            except (ValueError, OSError) as error:  # the user's; raised there, it would be one of Ray's
                result = error
            return {"place": row["place"], "result": cloudpickle.dumps(result)}

        rows = [{"place": place, "piece": cloudpickle.dumps(piece)} for place, piece in enumerate(pieces)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(apply).take_all()
        for row in sorted(done, key=lambda row: row["place"]):
            result = cloudpickle.loads(row["result"])
            if isinstance(result, (ValueError, OSError)):
                raise result
            yield result
