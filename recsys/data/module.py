"""The Lightning data module: tables -> events -> split -> encoders -> store -> batches, each one call."""

import copy
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from recsys.data.batches import Batch, Batches, InOrder, Rows, Shuffled, TrainRows
from recsys.data.candidates import Candidates, FewCandidates
from recsys.data.events import load_events
from recsys.data.leaks import RULES, check_leaks
from recsys.data.resident import Resident
from recsys.data.split import TEST, TRAIN, VALID, Split, split_events
from recsys.data.store import VERSION, Store, open_store, write_store
from recsys.data.tables import SPLIT_COLUMN, SPLITS, TableSet, check_files
from recsys.data.workers import THREADS, Workers, ray_cluster
from recsys.declare import declare
from recsys.schema import FeatureSchema

log = logging.getLogger(__name__)
LONG_RANKING = 2 * 10**8  # scores
WORKERS: dict[str, Callable[[], AbstractContextManager[Workers]]] = {
    "local": lambda: nullcontext(THREADS),
    "ray": ray_cluster,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Everything a data configuration declares. `about` says where the public can get the data."""

    name: str
    tables: TableSet
    schema: FeatureSchema
    split: Split
    about: str = ""

    @staticmethod
    def parse(mapping: Mapping[str, Any]) -> "DataSpec":
        """Read a data configuration; raises ValueError naming the option that is wrong."""
        own = {key: mapping[key] for key in ("name", "tables", "about") if key in mapping}
        rest = {key: value for key, value in mapping.items() if key not in (*own, "split")}
        split = declare(Split, mapping.get("split", {}), "data.split")
        schema = FeatureSchema.parse(rest, "data")
        return declare(DataSpec, {**own, "schema": schema, "split": split}, "data")

    @property
    def split_column(self) -> str | None:
        """The column that says which part a row belongs to, where there is one."""
        if isinstance(self.tables.behaviour.path, dict):
            return SPLIT_COLUMN
        return self.split.column if self.split.by in ("column", "fold") else None

    @property
    def fingerprint(self) -> str:
        """A hash of the declaration and of every source file's name, size and time of change."""
        files = [f for table in self.tables.present().values() for f in table.files]
        stats = [(str(f.resolve()), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
        content = [VERSION, dataclasses.asdict(self.tables), self.schema.to_dict(), dataclasses.asdict(self.split)]
        return hashlib.sha256(json.dumps([content, stats], sort_keys=True).encode()).hexdigest()[:16]


class DataModule(pl.LightningDataModule):
    """Prepares the encoded store once (`prepare_data`) and loads batches from it.

    `generate` writes the source files of a simulated dataset when they are missing. Training batches hold
    `batch_size` events, evaluation batches `eval_batch_size` rows. Labelled events are validated and tested row by
    row; with `ranking`, the test also ranks the whole catalogue for every user. Implicit data is always ranked.
    With `candidates`, each liked item is ranked among that many sampled items instead, in the test among those that
    the dataset gives.
    `prepare` says who encodes the tables: this machine, or a Ray cluster (see `ray_cluster`).
    With `on_device`, all of the dataset lies on the training device, and batches are gathered there.
    With `shuffle_block`, training rows are shuffled in blocks of so many (see `Shuffled`), for data larger than memory.
    `start` is the place in the training data, (epoch, batch), where a resumed run goes on.
    """

    def __init__(
        self,
        spec: DataSpec,
        *,
        cache: str | Path,
        batch_size: int = 1024,
        eval_batch_size: int = 8192,
        ranking: bool = True,
        candidates: int | None = None,
        workers: int = 0,
        shuffle_block: int | None = None,
        prepare: str = "local",
        on_device: bool = False,
        seed: int = 0,
        generate: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("workers", workers, 0),
            ("candidates", 1 if candidates is None else candidates, 1),
            ("shuffle_block", 1 if shuffle_block is None else shuffle_block, 1),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
        self.spec, self.cache = spec, Path(cache)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.ranking, self.candidates = ranking, candidates
        self.workers, self.seed, self._generate = workers, seed, generate
        if prepare not in WORKERS:
            raise ValueError(f"`prepare` must be {' or '.join(WORKERS)}, got {prepare!r}.")
        if on_device and workers:
            raise ValueError(
                f"`on_device` makes batches on the device in the training process; set `workers` to 0, got {workers}."
            )
        self.shuffle_block, self.prepare, self.on_device = shuffle_block, prepare, on_device
        self.start = (0, 0)
        self._store: Store | None = None
        self._on_device: Resident | None = None
        self._queries: dict[int, Candidates] = {}

    def prepare_data(self) -> None:
        """Build the store unless one with the same fingerprint exists."""
        if self._store is not None:
            return
        spec = self.spec
        if self._generate and not all(f.exists() for t in spec.tables.present().values() for f in t.files):
            self._generate()
        check_files(spec.tables, spec.about)
        if self.folder.exists() and self._reusable():
            log.info("reusing the encoded store %s", self.folder)
            return
        log.info("encoding %s into %s", spec.name, self.folder)
        self.cache.mkdir(parents=True, exist_ok=True)
        with WORKERS[self.prepare]() as workers, TemporaryDirectory(prefix=".reading-", dir=self.cache) as scratch:
            # gone when this ends, though the trace of an error may keep the events and the folder inside that is theirs
            events = load_events(spec.tables, spec.schema, spec.split_column, Path(scratch), workers)
            write_store(self.folder, spec.schema, events, split_events(spec.split, events), workers)

    def _reusable(self) -> bool:
        """Whether the store opens; a damaged one is removed."""
        try:
            open_store(self.folder)
        except (OSError, ValueError, KeyError, EOFError) as error:
            log.warning("the store %s is damaged and is built again (%s)", self.folder, error)
            shutil.rmtree(self.folder)
            return False
        return True

    @cached_property
    def folder(self) -> Path:
        """Where the encoded store lies, by the state of the source files when first asked."""
        return self.cache / f"{self.spec.name}-{self.spec.fingerprint}"

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - Lightning's signature
        """Open the store."""
        if self._store is None:
            self._store = open_store(self.folder)

    @property
    def store(self) -> Store:
        """The opened store; call `prepare_data` and `setup` first."""
        if self._store is None:
            raise RuntimeError("the store is not open: call prepare_data() and setup() first.")
        return self._store

    @property
    def schema(self) -> FeatureSchema:
        """The fitted schema."""
        return self.store.schema

    @cached_property
    def train_rows(self) -> TrainRows:
        """The training dataset."""
        return TrainRows(self.store)

    def with_valid(self) -> "DataModule":
        """The same opened data with another training dataset: the rows of the training and of the validation part.

        Negatives are drawn among the items of both and avoid the positives of both.
        """
        other = copy.copy(self)
        other.train_rows, other.start = TrainRows(self.store, TRAIN, VALID), (0, 0)
        return other

    def check_leaks(self) -> None:
        """Raise LeakError where training would know of validation or test rows, or of its own future."""
        started = time.perf_counter()
        check_leaks(self.train_rows, self.spec.tables)
        log.info("leak check passed: %s (%.1f s)", ", ".join(RULES), time.perf_counter() - started)

    def check_evaluation(self) -> None:
        """Make the queries of all rankings; warn of one that is left out, of a long one and of unused candidates.

        Raises ValueError where implicit data have nothing to rank, which would else come out after training.
        """
        if self._ranks(VALID):
            self.queries(VALID)
        if self._ranks(TEST):
            queries = self.queries(TEST)
            if not len(queries):
                log.warning("no test user meets a liked item for the first time, so rankings are left out")
            if len(queries) > LONG_RANKING:
                log.warning(
                    "the test part ranks %s items for %s users, which may take hours: evaluation.candidates=99 ranks a "
                    "sample, evaluation.ranking=false none",
                    *(f"{n:,}" for n in (queries.width, len(queries.rows_Q))),
                )
        elif self.candidates:
            log.warning(
                "`evaluation.candidates` is ignored: the test part is not ranked; that needs `evaluation.ranking` "
                "and, for ratings, `label.positive_from`"
            )
        if self.spec.tables.candidates and not self.candidates:
            log.warning("table `candidates` is ignored: set `evaluation.candidates` to rank among its items")

    @cached_property
    def state(self) -> dict[str, Any]:
        """What the data is by content: its name, the number of events of each part and a hash of the encoded store."""
        digest = hashlib.sha256(self.schema.fingerprint.encode())
        for path in sorted(self.folder.glob("*.npy")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        events = {name: int((self.store.part_E == part).sum()) for part, name in enumerate(SPLITS)}
        return {"name": self.spec.name, "events": events, "fingerprint": digest.hexdigest()}

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches, with fresh negatives for implicit data."""
        dataset = self.train_rows
        rank, world = self._place()
        shuffled = Shuffled(
            len(dataset),
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world=world,
            start=self.start,
            block=self.shuffle_block,
        )
        return self._loader(dataset, shuffled)

    def val_dataloader(self) -> DataLoader[Batch]:
        """What training is judged by: the labelled validation rows, or their full ranking for implicit data."""
        return self._evaluation(self.judged(VALID)[0])

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        """The labelled test rows and the full ranking of test users, as far as the label allows each."""
        return [self._evaluation(dataset) for dataset in self.judged(TEST)]

    def judged(self, part: int) -> list[Rows | Candidates]:
        """What a part is judged by: its labelled rows, its queries, or both."""
        datasets: list[Rows | Candidates] = []
        if self.schema.label.kind != "implicit":
            datasets.append(Rows(self.store, part))
        if self._ranks(part) and len(self.queries(part)):
            datasets.append(self.queries(part))
        return datasets

    def _ranks(self, part: int) -> bool:
        """Whether a part is judged by rankings."""
        label = self.schema.label
        return label.kind == "implicit" or (part == TEST and self.ranking and label.ranks)

    def queries(self, part: int) -> Candidates:
        """The queries of a part, made once. Raises ValueError where implicit data have none."""
        if part not in self._queries:
            self._queries[part] = (
                Candidates(self.store, part)
                if self.candidates is None
                else FewCandidates(self.store, part, self.candidates, given=part == TEST)
            )
        queries = self._queries[part]
        if self.schema.label.kind == "implicit" and not len(queries):
            name = {VALID: "validation", TEST: "test"}[part]
            raise ValueError(
                f"no {name} user meets an item for the first time, so there is nothing to rank by; keep each user and "
                "item once (`tables.behaviour.duplicates: pairs`) or choose another `split`."
            )
        return queries

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:  # noqa: ARG002
        """The batch on the device; a GPU is not waited for, so that it computes while the next batch is made."""
        return batch.to(device, non_blocking=device.type not in ("cpu", "mps"))

    def _evaluation(self, dataset: Rows | Candidates) -> DataLoader[Batch]:
        rank, world = self._place()
        unit = dataset.width if isinstance(dataset, Candidates) else 1
        return self._loader(dataset, InOrder(len(dataset), self.eval_batch_size, unit=unit, rank=rank, world=world))

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _resident(self, device: torch.device) -> Resident:
        """The dataset on the device, moved there once."""
        if self._on_device is None or self._on_device.device != device:
            self._on_device = Resident(self.store, device)
        return self._on_device

    def _loader(self, dataset: Batches, sampler: Sampler[Any]) -> DataLoader[Batch]:
        """A sampler's item is a whole batch's index, so the loader neither batches nor collates.

        Batches hold the lists that the trainer's model reads, no others. The loader has a random generator of its own,
        so that making batches leaves the model's random numbers (dropout) alone.
        """
        dataset.reads = getattr(self.trainer.lightning_module, "reads", None) if self.trainer else None
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        dataset.resident = self._resident(device) if self.on_device else None
        workers = min(self.workers, os.cpu_count() or 1)
        return DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            pin_memory=device.type == "cuda" and not self.on_device,
            generator=torch.Generator(),
            worker_init_fn=_leave_signals,
        )


def _leave_signals(worker: int) -> None:  # noqa: ARG001 - torch's signature
    """Ctrl-C, or a signal to the process group, is the training process's to answer; it still needs a batch or two."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # a death by signal would print a trace
