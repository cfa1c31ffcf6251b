"""Score raw rows with a recommender's bundle: this one file, numpy and onnxruntime (Python >= 3.11).

    bundle = Bundle.load("bundle")            # or bundle.tar.gz
    scores = bundle.score({"user_id": ["u1", "u2"], "item_id": ["i7", "i9"], "genres": [["drama"], []]})
    scores, best = bundle.rank(user={"user_id": "u1"}, candidates=["i7", "i9"], k=1)
    items, scores = bundle.retrieve(user={"user_id": "u1"}, seen=["i7"], k=10)

or `python runtime.py BUNDLE rows.json`, where rows.json holds the columns of `score`. An encrypted bundle needs
`pip install cryptography` and its key, 32 bytes as base64 or hex, in the variable RECSYS_BUNDLE_KEY.

Letters: B rows, N candidates.
"""

import base64
import binascii
import contextlib
import datetime
import difflib
import gzip
import hashlib
import hmac
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnxruntime

FORMAT, VERSION = "recsys-bundle", 1
MANIFEST, SAMPLE, ENCRYPTED = "manifest.json", "sample_request.json", ".enc"
GRAPHS = ("recommender", "ranker", "retriever")
KEY_VARIABLE = "RECSYS_BUNDLE_KEY"
TOLERANCE = 1e-5
MAGIC, SALT, CHUNK, TAG = b"recsys-bundle aes-256-gcm 1\n", 32, 2**20, 16
STRING, INTEGER, NUMBER = "tensor(string)", "tensor(int64)", "tensor(float)"
SMALLEST, GREATEST = -(2**63), 2**63 - 1
MISSING: dict[str, Any] = {STRING: "", INTEGER: SMALLEST, NUMBER: np.nan}
DTYPES: dict[str, Any] = {STRING: object, INTEGER: np.int64, NUMBER: np.float32}


class BundleError(ValueError):
    """The bundle itself is damaged, foreign, incomplete or locked; the message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Column:
    """One input of a graph: `shape` holds a number for a fixed length and None for any."""

    name: str
    type: str
    shape: tuple[int | None, ...]

    @property
    def is_history(self) -> bool:
        """Whether the lists hold a value for each of a user's past items, the oldest first."""
        return self.name.startswith("history.")

    def array(self, values: Any) -> np.ndarray:
        """The values of B rows, each a single value or a list (of lists), as one array padded with missing values.

        None, NaN and NA are missing. Lists may differ in length; those beyond a fixed length lose their last values,
        histories their oldest. Raises ValueError naming column, row and value where the kind is wrong.
        """
        if isinstance(values, np.ndarray) and self._fits(values.shape):
            cells: Sequence[Any] | np.ndarray = values.ravel()
            filled = np.ones(values.shape, bool)
        else:
            cells, filled = self._flatten(values)
        row_of = lambda position: int(np.nonzero(filled)[0][position])  # noqa: E731 - wanted for messages only
        padded = np.full(filled.shape, MISSING[self.type], DTYPES[self.type])
        padded[filled] = _CONVERT[self.type](cells, lambda position, rule: self._refuse(row_of(position), rule))
        return padded

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape needs neither padding nor cutting."""
        same = all(fixed in (None, size) for fixed, size in zip(self.shape[1:], shape[1:], strict=False))
        return len(shape) == len(self.shape) and 0 not in shape and same

    def _flatten(self, values: Any) -> tuple[list[Any], np.ndarray]:
        """All single values in one list, and which places of the padded array they take."""
        cells, filled = list(values), np.ones(len(values), bool)
        for fixed in self.shape[1:]:
            lists = [self._list(cell, place, filled) for place, cell in enumerate(cells)]
            if fixed is not None:
                lists = [cell[-fixed:] if self.is_history else cell[:fixed] for cell in lists]
            length = np.zeros(filled.shape, np.int64)
            length[filled] = [len(cell) for cell in lists]
            width = fixed if fixed is not None else max(1, int(length.max(initial=0)))
            filled = np.arange(width) < length[..., None]
            cells = [value for cell in lists for value in cell]
        return cells, filled

    def _list(self, cell: Any, place: int, filled: np.ndarray) -> list[Any]:
        if _is_list(cell):
            return list(cell)
        if _missing(cell):
            return []
        self._refuse(int(np.nonzero(filled)[0][place]), f"must be a list of values, got {cell!r}")
        raise AssertionError

    def _refuse(self, row: int, rule: str) -> None:
        raise ValueError(f"column {self.name!r}, row {row}: {rule}.")


Refuse = Callable[[int, str], None]  # the position among the cells, and what is wrong there


def _is_list(cell: Any) -> bool:
    return hasattr(cell, "__iter__") and not isinstance(cell, str | bytes | Mapping)


def _missing(cell: Any) -> bool:
    try:
        return cell is None or bool(cell != cell)
    except (TypeError, ArithmeticError):  # NA of pandas, a signalling NaN of decimal
        return True


def _single(cells: Sequence[Any] | np.ndarray, refuse: Refuse) -> Iterator[tuple[int, Any]]:
    """The cells that are there, with their positions; lists and mappings are no single values."""
    for position, cell in enumerate(cells.tolist() if isinstance(cells, np.ndarray) else cells):
        cell = cell.item() if isinstance(cell, np.generic) else cell
        if _is_list(cell) or isinstance(cell, Mapping):
            refuse(position, f"must be a single value, got {cell!r}")
        if not _missing(cell):
            yield position, cell


def _strings(cells: Sequence[Any] | np.ndarray, refuse: Refuse) -> np.ndarray:
    """Texts as they are, anything else as its text (floats as in Python: 41.5, 42.0)."""
    cells = cells.tolist() if isinstance(cells, np.ndarray) else cells
    if set(map(type, cells)) != {str}:
        texts = [""] * len(cells)
        for position, cell in _single(cells, refuse):
            with contextlib.suppress(ValueError):  # an integer of thousands of digits
                texts[position] = cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell)
        cells = texts
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:  # halves of a character, which no training table can hold
        cells = [cell.encode(errors="replace").decode() for cell in cells]
    return np.fromiter(cells, object, len(cells))


def _integers(cells: Sequence[Any] | np.ndarray, refuse: Refuse) -> np.ndarray:
    """Whole numbers, also as floats or as plain text ("12"); whatever else, also beyond int64, is an unseen value."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "i":
        return cells.astype(np.int64)
    if set(map(type, cells)) == {int}:
        with contextlib.suppress(OverflowError):
            return np.array(cells, np.int64)
    numbers = np.full(len(cells), SMALLEST, np.int64)
    moments = isinstance(cells, np.ndarray) and cells.dtype.kind in "mM"
    for position, cell in _single(cells, refuse):
        if moments or isinstance(cell, datetime.date | datetime.timedelta):
            refuse(position, f"must be an integer, got the moment {cell}; give seconds (or what README.md says)")
        numbers[position] = _integer(cell)
    return numbers


def _integer(cell: Any) -> int:
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, str):
        cell = cell.strip()
        cell = int(cell) if re.fullmatch(r"0|-?[1-9][0-9]{0,18}", cell, re.ASCII) else None
    try:
        return int(cell) if SMALLEST <= cell <= GREATEST and int(cell) == cell else SMALLEST
    except (TypeError, ArithmeticError):  # not a number
        return SMALLEST


def _numbers(cells: Sequence[Any] | np.ndarray, refuse: Refuse) -> np.ndarray:
    """Numbers as float32, true and false as 1 and 0; text is refused."""
    with np.errstate(over="ignore"):
        if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
            return cells.astype(np.float32)
        if set(map(type, cells)) == {float}:
            return np.array(cells, np.float64).astype(np.float32)
        numbers = np.full(len(cells), np.nan, np.float64)
        for position, cell in _single(cells, refuse):
            if isinstance(cell, str | bytes) or not hasattr(cell, "__float__"):
                refuse(position, f"must be a number, got {cell!r}; None stands for a missing one")
            try:
                numbers[position] = float(cell)
            except OverflowError:
                numbers[position] = np.inf if cell > 0 else -np.inf
        return numbers.astype(np.float32)


_CONVERT: dict[str, Callable[[Any, Refuse], np.ndarray]] = {STRING: _strings, INTEGER: _integers, NUMBER: _numbers}


class Graph:
    """One ONNX graph that takes raw columns by name."""

    def __init__(self, session: onnxruntime.InferenceSession, name: str) -> None:
        """Raises BundleError where an input is of a type that no bundle has."""
        self.session, self.name = session, name
        self.columns: dict[str, Column] = {}
        for given in session.get_inputs():
            if given.type not in MISSING:
                raise BundleError(f"{name}.onnx: input {given.name!r} has the unknown type {given.type}.")
            shape = tuple(size if isinstance(size, int) else None for size in given.shape)
            self.columns[given.name] = Column(given.name, given.type, shape)

    def run(self, columns: Mapping[str, Any], rows: int, own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs by name for columns of `rows` rows, missing where left out; `own` inputs go in as they are."""
        for name in map(str, columns):
            if name not in self.columns or name in own:
                raise ValueError(f"{self.name} takes no column {name!r}: {_nearest(name, self.columns.keys() - own)}")
        given = {name: column.array(columns[name]) for name, column in self.columns.items() if name in columns}
        absent = {name: column for name, column in self.columns.items() if name not in columns and name not in own}
        missing = {name: column.array([None] * rows) for name, column in absent.items()}
        outputs = [output.name for output in self.session.get_outputs()]
        feed = self._equally_long({**given, **missing}) | dict(own)
        return dict(zip(outputs, self.session.run(outputs, feed), strict=True))

    def _equally_long(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The histories padded to the length of the longest: their places stand for the same past items."""
        past = [name for name, column in self.columns.items() if name in feed and column.is_history]
        longest = max((feed[name].shape[1] for name in past), default=0)
        for name in past:
            values, kind = feed[name], self.columns[name].type
            shape = (len(values), longest - values.shape[1], *values.shape[2:])
            feed[name] = np.concatenate([values, np.full(shape, MISSING[kind], DTYPES[kind])], axis=1)
        return feed


def _nearest(word: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(options), n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"It takes: {', '.join(sorted(options))}."


class Bundle:
    """A loaded bundle; safe to use from several threads. `manifest` holds what is known about the model."""

    def __init__(self, graphs: Mapping[str, onnxruntime.InferenceSession], manifest: Mapping[str, Any]) -> None:
        self.graphs = {name: Graph(session, name) for name, session in graphs.items()}
        self.manifest = manifest

    @classmethod
    def load(cls, path: str | Path, key: bytes | None = None, threads: int = 1) -> "Bundle":
        """Open a bundle's folder or .tar.gz after checking every file, and let it answer its sample request.

        Args:
            path: the folder or the .tar.gz.
            key: 32 bytes, for an encrypted bundle; None reads the variable RECSYS_BUNDLE_KEY where the bundle is
                encrypted. Decrypted files are held in memory only.
            threads: of one call; 0 takes every core.

        Raises:
            BundleError: a file is missing, damaged, of another bundle or of a newer format, the key is missing or
                wrong, or the sample's scores differ.
        """
        with _opened(Path(path)) as folder:
            manifest = _read_manifest(folder)
            if "encryption" in manifest:
                key = _right_key(manifest, read_key() if key is None else key)
            elif key is not None:  # a plain bundle could be anybody's
                raise BundleError(
                    f"{path} is not encrypted, though a key is given; load it without one if you trust it."
                )
            _check_seal(manifest, key)
            _check_files(folder, manifest)
            names = frozenset(manifest["files"])
            read = _EncryptedFiles(folder, names, key) if key else _Files(folder, names)
            graphs = [name for name in GRAPHS if f"{name}.onnx" in manifest["graphs"]]
            bundle = cls({name: read.session(name, threads) for name in graphs}, manifest)
            sample = json.loads(read.content(SAMPLE))
        bundle.check_sample(sample)
        return bundle

    def score(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Scores float32 (B,) of rows given as columns: lists, arrays or pandas columns by name, one value per row.

        Columns left out are missing. Raises ValueError naming the column (and the row) that cannot be used.
        """
        rows = {}
        for name, values in columns.items():
            if not _is_list(values) or not hasattr(values, "__len__"):
                raise ValueError(f"column {name!r} must be a list with one value per row, got {values!r}.")
            rows[name] = len(values)
        if len(set(rows.values())) != 1:
            raise ValueError(f"`columns` must hold at least one column, all with as many rows, got {rows}.")
        graph, count = self._graph("recommender"), next(iter(rows.values()))
        return graph.run(columns, count, {})["score"] if count else np.zeros(0, np.float32)

    def rank(self, user: Mapping[str, Any], candidates: Sequence[Any], k: int) -> tuple[np.ndarray, np.ndarray]:
        """Score candidate items for one user in one scene.

        Args:
            user: the user's and the scene's columns, one value each (a list for tags and histories).
            candidates: N item keys.
            k: how many of the best to name, at least 1.

        Returns:
            Scores float32 (N,) in the candidates' order and the positions int64 (min(k, N),) of the best, best first.
        """
        graph = self._graph("ranker")
        own = {"candidates": _keys(graph, "candidates", candidates), "k": _count(k)}
        if not len(own["candidates"]):
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        found = graph.run(_one_row(user), 1, own)
        return found["score"], found["top"]

    def retrieve(self, user: Mapping[str, Any], seen: Sequence[Any], k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best items of the whole catalogue that are not in `seen`: at most `k` item keys and their scores.

        `user` holds the user's columns as in `rank`. Best first; fewer than `k` where the catalogue ends.
        """
        graph = self._graph("retriever")
        seen_items = _keys(graph, "seen_items", seen if len(seen) else [None])
        found = graph.run(_one_row(user), 1, {"seen_items": seen_items, "k": _count(k)})
        left = found["top_scores"] > -np.inf  # where fewer than k are unseen
        return found["top_items"][left], found["top_scores"][left]

    def answer(self, verb: str, request: Mapping[str, Any]) -> dict[str, list[Any]]:
        """What `score`, `rank` or `retrieve` says to a request, as plain lists."""
        if verb == "score":
            return {"score": self.score(request).tolist()}
        first, second = self.rank(**request) if verb == "rank" else self.retrieve(**request)
        names = ("score", "top") if verb == "rank" else ("items", "scores")
        return {names[0]: first.tolist(), names[1]: second.tolist()}

    def check_sample(self, sample: Mapping[str, Any]) -> None:
        """Raises BundleError where a sample request is not answered as when the bundle was written."""
        tolerance = self.manifest.get("tolerance", TOLERANCE)
        for verb, case in sample.items():
            try:
                difference = _difference(case["expected"], self.answer(verb, case["request"]))
            except ValueError as error:
                raise BundleError(f"{SAMPLE}: the {verb} request is not answered: {error}") from error
            if not difference <= tolerance:  # also for NaN
                raise BundleError(
                    f"{SAMPLE}: the answer to the {verb} request differs from the expected one by {difference:.2e}, "
                    f"more than {tolerance}: the graphs are not those of this sample, or this version of ONNX Runtime "
                    f"({onnxruntime.__version__}) computes otherwise. Fetch the bundle again."
                )

    def _graph(self, name: str) -> Graph:
        if name not in self.graphs:
            raise ValueError(f"this bundle has no {name}.onnx; it has: {', '.join(self.graphs)}.")
        return self.graphs[name]


def _one_row(user: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {name: [value] for name, value in user.items()}


def _keys(graph: Graph, name: str, values: Sequence[Any]) -> np.ndarray:
    if not _is_list(values):
        raise ValueError(f"`{name}` must be a list of item keys, got {values!r}.")
    return graph.columns[name].array(values)


def _count(k: int) -> np.ndarray:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= GREATEST:
        raise ValueError(f"`k` must be an integer of at least 1, got {k!r}.")
    return np.array([k], np.int64)


def _difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> float:
    """The greatest difference of scores; infinite where other items are best, unless their scores are as good."""
    if {name: len(values) for name, values in expected.items()} != {name: len(values) for name, values in got.items()}:
        return float("inf")
    scores = "scores" if "scores" in expected else "score"
    pairs = list(zip(expected[scores], got[scores], strict=True))
    if "top" in expected:  # equal scores may change places on another processor
        pairs += [(expected["score"][e], got["score"][g]) for e, g in zip(expected["top"], got["top"], strict=True)]
    if expected.get("items"):
        known = dict(zip(expected["items"], expected["scores"], strict=True))
        last = expected["scores"][-1]
        pairs += [(known.get(i, last), s) for i, s in zip(got["items"], got["scores"], strict=True)]
    return float(np.abs(np.subtract(*np.array(pairs).T)).max()) if pairs else 0.0


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Path]:
    """The folder of a bundle; that of an archive is a temporary one."""
    if path.is_dir():
        yield path
    elif not path.is_file():
        raise BundleError(f"there is no bundle at {path}; give its folder or its .tar.gz.")
    else:
        with tempfile.TemporaryDirectory(prefix="bundle.", ignore_cleanup_errors=True) as folder:
            try:
                _extract(path, Path(folder))
            except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise BundleError(f"{path} is damaged or no .tar.gz ({error}); fetch it again.") from error
            if not (Path(folder) / MANIFEST).is_file():  # tarfile takes some damage for the end
                raise BundleError(f"{path} holds no {MANIFEST}: it is no bundle, or is damaged; fetch it again.")
            yield Path(folder)


def _extract(archive: Path, folder: Path) -> None:
    """Plain files of one folder only: no links, no paths that lead elsewhere."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isdir():
                continue
            parts = PurePosixPath(member.name).parts
            plain = member.isfile() and len(parts) == 2 and _is_plain(parts[0]) and _is_plain(parts[1])
            source = tar.extractfile(member) if plain else None
            if source is None or (folder / parts[1]).exists():
                raise BundleError(f"{archive} holds {member.name!r}, which no bundle has; nothing of it is used.")
            with (folder / parts[1]).open("xb") as target:
                shutil.copyfileobj(source, target, 2**20)


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{folder} has no {MANIFEST}: it is no bundle, or an incomplete one.") from None
    except ValueError as error:
        raise BundleError(f"{MANIFEST} is damaged ({error}); fetch the bundle again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{MANIFEST} is not that of a {FORMAT}; give a folder that scripts/export.py wrote.")
    if manifest.get("version") != VERSION:
        raise BundleError(
            f"{MANIFEST} has format version {manifest.get('version')!r}, this runtime reads {VERSION}: use the "
            "runtime.py that lies in the bundle."
        )
    files, graphs = manifest.get("files"), manifest.get("graphs")
    if not isinstance(files, dict) or not isinstance(graphs, dict) or not all(map(_is_plain, files)):
        raise BundleError(f"{MANIFEST} does not name the files of a bundle; fetch the bundle again.")
    suffix = ENCRYPTED if "encryption" in manifest else ""
    if absent := {f"{name}{suffix}" for name in (*graphs, SAMPLE, "recommender.onnx")} - set(files):
        raise BundleError(f"{MANIFEST} does not name {', '.join(sorted(absent))}; fetch the bundle again.")
    return manifest


def seal(manifest: Mapping[str, Any], key: bytes | None) -> str:
    """What proves a manifest: SHA-256 of its content as sorted, compact JSON without `seal`; with a key, its HMAC."""
    content = {name: value for name, value in manifest.items() if name != "seal"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return hmac.digest(key, b"seal\0" + text, "sha256").hex() if key else hashlib.sha256(text).hexdigest()


def _check_seal(manifest: Mapping[str, Any], key: bytes | None) -> None:
    if not hmac.compare_digest(str(manifest.get("seal")).encode(), seal(manifest, key).encode()):
        raise BundleError(f"{MANIFEST} was changed after the bundle was written; fetch the bundle again.")


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raises BundleError naming the first file whose size or SHA-256 is not that of the manifest."""
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{name} is missing from the bundle; fetch the bundle again.")
        if path.stat().st_size != wanted["bytes"]:
            size = path.stat().st_size
            raise BundleError(f"{name} has {size} bytes instead of {wanted['bytes']}; fetch the bundle again.")
        if checksum(path) != wanted["sha256"]:
            raise BundleError(f"{name} is damaged or of another bundle (SHA-256 differs); fetch the bundle again.")


def checksum(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_session(
    model: Path | bytes, threads: int, data: Mapping[str, bytes] | None = None
) -> onnxruntime.InferenceSession:
    """A CPU session of a graph's file, or of its bytes with its external data by file name.

    Raises BundleError where ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if data:
        if not hasattr(options, "add_external_initializers_from_files_in_memory"):
            raise BundleError(f"onnxruntime {onnxruntime.__version__} cannot take decrypted tables; use 1.32 or newer.")
        sizes = [len(content) for content in data.values()]
        options.add_external_initializers_from_files_in_memory(list(data), list(data.values()), sizes)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of onnxruntime's own kinds
        name = "a decrypted graph" if isinstance(model, bytes) else model.name
        raise BundleError(f"{name}: onnxruntime {onnxruntime.__version__} cannot load it: {error}") from error


@dataclass(frozen=True)
class _Files:
    """The files of a plain bundle."""

    folder: Path
    names: frozenset[str]

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def session(self, graph: str, threads: int) -> onnxruntime.InferenceSession:
        return open_session(self.folder / f"{graph}.onnx", threads)


@dataclass(frozen=True)
class _EncryptedFiles(_Files):
    """The files of an encrypted bundle, decrypted in memory."""

    key: bytes

    def content(self, name: str) -> bytes:
        return decrypt(self.folder / f"{name}{ENCRYPTED}", self.key)

    def session(self, graph: str, threads: int) -> onnxruntime.InferenceSession:
        model, data = f"{graph}.onnx", f"{graph}.onnx.data"
        outside = {data: self.content(data)} if data + ENCRYPTED in self.names else None
        return open_session(self.content(model), threads, outside)


def read_key(file: str | Path | None = None) -> bytes | None:
    """The 32 bytes of a key written as base64 or hex, from a file or the variable RECSYS_BUNDLE_KEY; None without one.

    Raises BundleError where it is not such a key; the message does not repeat it.
    """
    where = f"the file {file}" if file else f"the variable {KEY_VARIABLE}"
    text = Path(file).read_text(encoding="utf-8") if file else os.environ.get(KEY_VARIABLE, "")
    if not text.strip():
        if file:
            raise BundleError(f"{where} is empty; it must hold the key, 32 bytes as base64 or hex.")
        return None
    with contextlib.suppress(binascii.Error, ValueError):
        text = text.strip()
        key = bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]{64}", text) else base64.b64decode(text, validate=True)
        if len(key) == 32:
            return key
    raise BundleError(f"{where} must hold a key of 32 bytes as base64 (44 characters) or hex (64).")


def key_id(key: bytes) -> str:
    """By which name a manifest knows its key; tells nothing about the key."""
    return hmac.digest(key, b"key id", "sha256").hex()[:16]


def _right_key(manifest: Mapping[str, Any], key: bytes | None) -> bytes:
    encryption = manifest["encryption"]
    wanted = encryption.get("key_id") if isinstance(encryption, dict) else None
    if key is None:
        raise BundleError(f"the bundle is encrypted: set {KEY_VARIABLE} to the key {wanted} (32 bytes, base64 or hex).")
    if not isinstance(key, bytes) or len(key) != 32:
        raise BundleError("`key` must be 32 bytes; read_key() reads one that is written as base64 or hex.")
    if key_id(key) != wanted:
        raise BundleError(f"the bundle is encrypted with the key {wanted}, the one given is {key_id(key)}.")
    return key


def file_cipher(key: bytes, salt: bytes, name: str) -> Any:
    """AES-256-GCM under a key of this one file, so that counting chunks gives nonces that never come again."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise BundleError("the bundle is encrypted: run `pip install cryptography` first.") from None
    return AESGCM(hmac.digest(key, b"file\0" + salt + name.encode(), "sha256"))


def chunk_place(name: str, number: int, last: bool) -> tuple[bytes, bytes]:
    """Nonce and associated data of a chunk: bound to its file, its number and whether the file ends with it."""
    return number.to_bytes(12, "big"), f"{name}\0{number}\0{int(last)}".encode()


def decrypt(path: Path, key: bytes) -> bytes:
    """The content of an encrypted file. Raises BundleError where it is not as it was written under this key."""
    name, content = path.name.removesuffix(ENCRYPTED), bytearray()
    size = path.stat().st_size - len(MAGIC) - SALT
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BundleError(f"{path.name} is no encrypted file of a bundle; fetch the bundle again.")
        cipher = file_cipher(key, file.read(SALT), name)
        chunks = max(1, -(-size // (CHUNK + TAG)))
        try:
            for number in range(chunks):
                nonce, place = chunk_place(name, number, number == chunks - 1)
                content += cipher.decrypt(nonce, file.read(CHUNK + TAG), place)
        except Exception as error:  # InvalidTag, or a chunk shorter than its tag
            raise BundleError(f"{path.name} was changed after it was encrypted; fetch the bundle again.") from error
    return bytes(content)


def main(arguments: Sequence[str]) -> int:
    """`python runtime.py BUNDLE rows.json`: the scores of columns as JSON."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python runtime.py BUNDLE rows.json\n")
        return 2
    try:
        columns = json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
        if not isinstance(columns, dict):
            raise ValueError(f'{arguments[1]} must hold columns by name: {{"user_id": ["u1", "u2"], ...}}.')
        sys.stdout.write(json.dumps(Bundle.load(arguments[0]).answer("score", columns)) + "\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
