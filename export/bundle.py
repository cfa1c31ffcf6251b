"""The folder that leaves for the serving team: graphs, manifest, README, a sample request and the code to run them.

    manifest.json        what is known about the model, and size and SHA-256 of every other file
    README.md            for whoever serves it
    sample_request.json  requests with their expected answers
    runtime.py           scores raw rows with numpy and onnxruntime
    recommender.onnx, ranker.onnx, retriever.onnx, each with its <graph>.onnx.data where tables lie outside it

With a key, the graphs, their data and the sample are encrypted and end in `.enc`.
"""

import gzip
import importlib.metadata
import io
import json
import math
import os
import platform
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from export import runtime
from export.encryption import encrypt
from export.readme import render_readme
from export.runtime import ENCRYPTED, FORMAT, GRAPHS, MANIFEST, SAMPLE, VERSION, Bundle
from recsys.declare import nearest

VERBS = dict(zip(GRAPHS, ("score", "rank", "retrieve"), strict=True))
LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "torch")
TYPES = {TensorProto.STRING: "string", TensorProto.INT64: "int64", TensorProto.FLOAT: "float32"}


def write_bundle(
    folder: Path,
    graphs: Mapping[str, Path],
    *,
    manifest: Mapping[str, Any],
    sample: Mapping[str, Any],
    key: bytes | None = None,
) -> Path:
    """Write a bundle and its .tar.gz beside it; both appear whole or not at all, in the place of an earlier bundle.

    Args:
        folder: where the bundle is to lie. The same arguments give the same bytes (but for encrypted files).
        graphs: ONNX files of the graphs `recommender`, `ranker`, `retriever`; at least the first. A graph's external
            data is one file beside it.
        manifest: `name`, `model`, `schema` (as of `FeatureSchema.to_dict`) and whatever else is known of the model.
            Read again are `tolerance` (how far the sample's scores may be from the expected ones, 1e-5 if absent),
            `quality` (by `export.verify`), `probabilities` (whether the scores are, true if absent), `remembers` (of
            users: `keys`, or `events` too), `metrics` (nested) and `variants` (a list of mappings with equal keys).
        sample: for each graph by verb a request, the arguments of `Bundle.score`, `rank` and `retrieve`:
            {"score": {columns by name}, "rank": {"user": ..., "candidates": ..., "k": ...}, "retrieve": ...}.
        key: 32 bytes; encrypts everything that holds weights or values of columns.

    Returns:
        `folder`.

    Raises:
        ValueError: an argument breaks these rules, `folder` holds something else than a bundle, or a graph does not
            answer its sample with finite scores.
        OSError: naming `folder`, when it cannot be written.
    """
    folder = Path(folder)
    _check(folder, graphs, sample, key)
    models = {name: onnx.load(path, load_external_data=False) for name, path in graphs.items()}
    content = _plain({"format": FORMAT, "version": VERSION, **manifest, **_described(models)})
    sample = _answered(graphs, content, _plain(sample))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            draft = Path(scratch) / folder.name  # inside, for the scratch folder itself is closed to other users
            draft.mkdir()
            _write_files(draft, graphs, models, content, sample, key)
            Bundle.load(draft, key)
            archive = _pack(draft, Path(scratch) / _archive(folder).name)
            _put(draft, folder, Path(scratch) / "earlier")
            archive.replace(_archive(folder))
    except OSError as error:
        raise OSError(error.errno, f"cannot write the bundle: {error.strerror}", str(folder)) from error
    return folder


def _archive(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.tar.gz")


def _check(folder: Path, graphs: Mapping[str, Path], sample: Mapping[str, Any], key: bytes | None) -> None:
    """Refuse wrong arguments before anything is read or written."""
    for name in graphs:
        if name not in GRAPHS:
            raise ValueError(f"`graphs` holds {name!r}: {nearest(name, GRAPHS)}")
    if "recommender" not in graphs:
        raise ValueError("`graphs` must hold at least `recommender`.")
    for path in graphs.values():
        if not path.is_file():
            raise FileNotFoundError(f"`graphs`: there is no file {path}; export the graphs first.")
    verbs = {VERBS[name] for name in graphs}
    if set(sample) != verbs:
        raise ValueError(f"`sample` must hold a request for each of {sorted(verbs)}, got {sorted(sample)}.")
    if key is not None and len(key) != 32:
        raise ValueError(f"`key` must be 32 bytes, got {len(key)}; `openssl rand -base64 32` makes one to write down.")
    check_place(folder)


def check_place(folder: Path) -> None:
    """Raise ValueError where `folder` is something else than a bundle or an empty folder, and so is not replaced."""
    if folder.exists() and not _is_bundle(folder):
        raise ValueError(f"{folder} exists and is no bundle; give another place, or remove it.")


def _is_bundle(folder: Path) -> bool:
    """Whether a folder is empty or holds a bundle, so that it may be replaced."""
    try:
        return not any(folder.iterdir()) or json.loads((folder / MANIFEST).read_bytes())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_plain(place: Path) -> bool:
    """Whether a folder or its .tar.gz holds a bundle that opens without a key; a damaged one counts as such."""
    try:
        if place.is_file():
            with tarfile.open(place, "r:gz") as tar:
                manifest = next(tar.extractfile(member) for member in tar if member.name.endswith(f"/{MANIFEST}"))
                return manifest is None or "encryption" not in json.load(manifest)
        path = place / MANIFEST
        return path.is_file() and "encryption" not in json.loads(path.read_bytes())
    except (OSError, EOFError, StopIteration, ValueError, tarfile.TarError, zlib.error):
        return True


def _plain(value: Any) -> Any:
    """Arrays, tuples, paths and missing values as JSON has them; infinite bounds as the greatest numbers."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and math.isinf(value):
        return math.copysign(sys.float_info.max, value)
    if isinstance(value, Path):
        return str(value)
    return None if value != value or type(value).__name__ == "NAType" else value


def _described(models: Mapping[str, onnx.ModelProto]) -> dict[str, Any]:
    """What the manifest says of the graphs and of the libraries that made them."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    graphs = {f"{name}.onnx": describe(model) for name, model in models.items()}
    return {"libraries": {"python": platform.python_version(), **libraries}, "graphs": graphs}


def describe(model: onnx.ModelProto) -> dict[str, Any]:
    """Inputs and outputs of a graph (name, type, shape with names for free sizes), its opsets and its IR version."""

    def values(described: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": value.name,
                "type": TYPES.get(value.type.tensor_type.elem_type, "other"),
                "shape": [d.dim_param or d.dim_value or "any" for d in value.type.tensor_type.shape.dim],
            }
            for value in described
        ]

    opsets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    made = f"{model.producer_name} {model.producer_version}".strip()
    inputs, outputs = values(model.graph.input), values(model.graph.output)
    return {"inputs": inputs, "outputs": outputs, "opsets": opsets, "ir_version": model.ir_version, "producer": made}


def _answered(graphs: Mapping[str, Path], manifest: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any]:
    """The sample's requests with what the graphs answer to them."""
    bundle = Bundle({name: runtime.open_session(path, threads=1) for name, path in graphs.items()}, manifest)
    answered = {}
    for verb, request in sample.items():
        expected = bundle.answer(verb, request)
        if not np.isfinite(expected["scores" if verb == "retrieve" else "score"]).all():
            raise ValueError(f"`sample`: the {verb} request has scores that are not finite; did the training diverge?")
        answered[verb] = {"request": request, "expected": expected}
    return answered


def _write_files(
    draft: Path,
    graphs: Mapping[str, Path],
    models: Mapping[str, onnx.ModelProto],
    manifest: dict[str, Any],
    sample: Mapping[str, Any],
    key: bytes | None,
) -> None:
    """All files of the bundle; with a key, nothing that holds weights or values of columns is written as it is."""
    (draft / "README.md").write_text(render_readme(manifest, sample, encrypted=key is not None), encoding="utf-8")
    (draft / "runtime.py").write_bytes(Path(runtime.__file__).read_bytes())
    secret = io.BytesIO(json.dumps(sample, indent=1, allow_nan=False).encode())
    _write(draft, SAMPLE, secret, key)
    for name, path in graphs.items():
        for file, source in _graph_files(name, path, models[name]):
            with source:
                _write(draft, file, source, key)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": runtime.checksum(p)} for p in sorted(draft.iterdir())}
    manifest |= {"files": files}
    if key is not None:
        manifest |= {"encryption": {"algorithm": "AES-256-GCM", "key_id": runtime.key_id(key)}}
    manifest |= {"seal": runtime.seal(manifest, key)}
    (draft / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False), encoding="utf-8")
    _sync(*draft.iterdir())


def _write(draft: Path, name: str, source: BinaryIO, key: bytes | None) -> None:
    if key is not None:
        encrypt(source, draft / f"{name}{ENCRYPTED}", name, key)
        return
    with (draft / name).open("wb") as target:
        while chunk := source.read(2**20):
            target.write(chunk)


def _graph_files(name: str, path: Path, model: onnx.ModelProto) -> Iterator[tuple[str, BinaryIO]]:
    """A graph and its external data under their names in the bundle, and what they hold."""
    outside = [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]
    places = {ExternalDataInfo(tensor).location for tensor in outside}
    if len(places) > 1:
        raise ValueError(f"`graphs`: {path} has external data in {len(places)} files; save it in one.")
    own = f"{name}.onnx.data"
    for tensor in outside:
        next(entry for entry in tensor.external_data if entry.key == "location").value = own
    yield f"{name}.onnx", io.BytesIO(model.SerializeToString()) if outside else path.open("rb")
    for place in places:
        yield own, (path.parent / place).open("rb")


def _sync(*files: Path) -> None:
    """Wait until files are on the disk."""
    for file in files:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())


def _pack(folder: Path, archive: Path) -> Path:
    """A .tar.gz of a folder's files; the same files give the same bytes. Weights hardly shrink, so quickly."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", 1, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.iterdir()):
            member = tarfile.TarInfo(f"{folder.name}/{path.name}")
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                tar.addfile(member, content)
    _sync(archive)
    return archive


def _put(draft: Path, folder: Path, earlier: Path) -> None:
    """Give the draft its place; what stood there stands there again when that fails."""
    if folder.exists():
        folder.rename(earlier)
    try:
        draft.rename(folder)
    except BaseException:
        if earlier.exists():
            earlier.rename(folder)
        raise
