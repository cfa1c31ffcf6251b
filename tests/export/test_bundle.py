"""A bundle appears whole, says what it holds, and refuses whatever is not as it was written."""

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import bundle as bundle_module
from export import runtime
from export.encryption import encrypt
from export.runtime import Bundle, BundleError, decrypt, read_key, seal
from recsys.schema import FeatureSchema

FILES = [
    "README.md",
    "manifest.json",
    "ranker.onnx",
    "ranker.onnx.data",
    "recommender.onnx",
    "retriever.onnx",
    "runtime.py",
    "sample_request.json",
]
SECRET = ["ranker.onnx", "ranker.onnx.data", "recommender.onnx", "retriever.onnx", "sample_request.json"]
LOCKED = sorted([*(set(FILES) - set(SECRET)), *(f"{name}.enc" for name in SECRET)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_scores(folder: Path, toys, key: bytes | None = None) -> None:
    loaded = Bundle.load(folder, key)
    scores = loaded.score(toys.SAMPLE["score"])
    expected = [toys.expected_score("ann", "i1", price=2.0, tags=["red"]), toys.expected_score("nobody", "i3")]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert loaded.rank(**toys.SAMPLE["rank"])[1].tolist() == [1, 2]
    assert loaded.retrieve(**toys.SAMPLE["retrieve"])[0].tolist() == ["i4", "i1"]


def test_the_folder_and_its_archive_hold_the_same_and_score_as_the_oracle(folder, toys):
    assert names(folder) == FILES
    assert names(folder.parent) == ["graphs", "toys", "toys.tar.gz"]
    with tarfile.open(folder.parent / "toys.tar.gz") as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar} == {f"toys/{n}": c for n, c in contents(folder).items()}
    same_scores(folder, toys)
    same_scores(folder.parent / "toys.tar.gz", toys)


def test_an_archive_made_by_hand_loads_as_well(folder, toys, tmp_path):
    subprocess.run(["tar", "czf", "hand.tar.gz", "./toys"], cwd=tmp_path, check=True)
    same_scores(tmp_path / "hand.tar.gz", toys)


def test_the_manifest_says_what_the_bundle_holds(folder, toys):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"], manifest["name"]) == ("recsys-bundle", 1, "toys")
    assert FeatureSchema.parse(manifest["schema"]).item == "item"
    assert manifest["metrics"] == {"test": {"auc": 0.75, "gauc": None}}
    assert set(manifest["files"]) == {*FILES} - {"manifest.json"}
    graph = manifest["graphs"]["ranker.onnx"]
    assert graph["inputs"][1] == {"name": "history.item", "type": "string", "shape": [1, "length"]}
    assert graph["outputs"][1] == {"name": "top", "type": "int64", "shape": ["best"]}
    assert (graph["opsets"], graph["ir_version"]) == ({"ai.onnx": 20, "ai.onnx.ml": 4}, 10)
    assert {"python", "onnxruntime", "torch"} <= set(manifest["libraries"])


def test_external_data_is_found_under_its_name_in_the_bundle(folder, graphs):
    tensors = onnx.load(folder / "ranker.onnx", load_external_data=False).graph.initializer
    places = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    assert places == {"ranker.onnx.data"}
    assert (folder / "ranker.onnx.data").read_bytes() == (graphs["ranker"].parent / "tables.bin").read_bytes()


def test_the_same_arguments_give_the_same_bytes(write, folder):
    first, archive = contents(folder), (folder.parent / "toys.tar.gz").read_bytes()
    write()
    assert contents(folder) == first
    assert (folder.parent / "toys.tar.gz").read_bytes() == archive


def test_the_readme_describes_every_input_and_its_example_runs(folder):
    text = (folder / "README.md").read_text()
    assert "| `shelf` | int64 | (batch) | `-9223372036854775808` | of the item: one value |" in text
    assert '| `history.item` | string | (1, length) | `""` (empty) | `item` of the items that the user liked' in text
    assert "| `price` | float32 | (batch) | `NaN` | of the item: a number |" in text
    assert "| int8 | 0.5000 | 0.7400 |" in text
    assert "| test.auc | 0.7500 |" in text
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    code = f"{example}\nassert scores.shape == (2,)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_earlier_bundle_is_replaced_and_anything_else_is_not(write, folder, toys):
    (folder / "left_over.txt").write_text("from the earlier one")
    write(manifest={**toys.MANIFEST, "name": "newer"})
    assert names(folder) == FILES
    assert Bundle.load(folder).manifest["name"] == "newer"
    other = folder.parent / "graphs"
    with pytest.raises(ValueError, match=r"graphs exists and is no bundle; give another place"):
        write("graphs")
    assert len(names(other)) == 4


def test_nothing_changes_when_writing_fails(write, folder, monkeypatch):
    before = contents(folder)

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    for step in ("_pack", "_sync", "render_readme"):
        with monkeypatch.context() as patch:
            patch.setattr(bundle_module, step, full)
            with pytest.raises(OSError, match=r"cannot write the bundle: No space left on device: '.*/toys'"):
                write()
            with pytest.raises(OSError, match="cannot write"):
                write("fresh")
    assert contents(folder) == before
    assert names(folder.parent) == ["graphs", "toys", "toys.tar.gz"]


def test_the_earlier_bundle_stands_again_when_the_new_one_cannot_take_its_place(write, folder, monkeypatch):
    before, rename = contents(folder), Path.rename

    def fail_once(path, target):
        if path.parent.name.startswith(".toys.") and path.name == "toys":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="Input/output error"):
        write()
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"graphs": {}}, "`graphs` must hold at least `recommender`"),
        ({"sample": {}}, r"a request for each of \['rank', 'retrieve', 'score'\], got \[\]"),
        ({"key": b"short"}, "`key` must be 32 bytes, got 5"),
        ({"graphs": {"rankr": Path("x")}}, "`graphs` holds 'rankr': did you mean 'ranker'"),
        ({"graphs": {"recommender": Path("no.onnx")}}, "there is no file no.onnx; export the graphs first"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(write, tmp_path, changed, message):
    with pytest.raises((ValueError, OSError), match=message):
        write(**changed)
    assert names(tmp_path) == ["graphs"]


def test_a_graph_that_cannot_answer_is_refused(write, toys, graphs, tmp_path):
    onnx.save(toys.recommender(scale=float("nan")), graphs["recommender"])
    with pytest.raises(ValueError, match="the score request has scores that are not finite"):
        write()
    graphs["recommender"].write_bytes(graphs["retriever"].read_bytes()[:-9])
    with pytest.raises(Exception, match="parsing"):
        write()
    assert names(tmp_path) == ["graphs"]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", sorted({*FILES, *LOCKED}))
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_name(request, toys, name, damage):
    whole = name in FILES
    folder = request.getfixturevalue("folder" if whole else "locked")
    DAMAGES[damage](folder / name)
    with pytest.raises(BundleError, match=re.escape(name)):
        Bundle.load(folder, None if whole else toys.KEY)


@pytest.fixture
def others(write, toys, tmp_path) -> dict[bool, Path]:
    """A bundle of which every file differs, plain (False) and encrypted with the same key (True)."""
    places = {name: tmp_path / "graphs" / f"other-{name}.onnx" for name in ("recommender", "ranker", "retriever")}
    graphs = {"recommender": toys.recommender(0.5), "ranker": toys.ranker(), "retriever": toys.retriever()}
    for name, graph in graphs.items():
        graph.producer_name = "another"
        external = {"save_as_external_data": True, "location": "other.bin", "size_threshold": 45}
        table = next(tensor for tensor in graph.graph.initializer if tensor.name == "users")
        table.raw_data = bytes(len(table.raw_data))
        onnx.save(graph, places[name], **(external if name == "ranker" else {}))
    changed = {"graphs": places, "manifest": {**toys.MANIFEST, "name": "other"}}
    found = {locked: write(f"other-{locked}", **changed, key=toys.KEY if locked else None) for locked in (False, True)}
    for folder in found.values():
        (folder / "runtime.py").write_text("of another version")
    return found


@pytest.mark.parametrize("name", sorted({*FILES, *LOCKED} - {"manifest.json"}))
def test_a_file_of_another_bundle_is_refused_by_name(request, others, toys, name):
    whole = name in FILES
    folder = request.getfixturevalue("folder" if whole else "locked")
    shutil.copy(others[not whole] / name, folder / name)
    with pytest.raises(BundleError, match=re.escape(name)):
        Bundle.load(folder, None if whole else toys.KEY)


def test_the_manifest_of_another_bundle_fits_no_file(folder, others):
    shutil.copy(others[False] / "manifest.json", folder / "manifest.json")
    with pytest.raises(BundleError, match=r"README\.md"):
        Bundle.load(folder)


def test_every_flipped_byte_of_a_manifest_is_noticed(folder):
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"manifest\.json|missing from the bundle"):
            Bundle.load(folder)


def rewrite(folder: Path, **changed: object) -> None:
    """Change the manifest as somebody would who knows the format."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changed
    manifest["seal"] = seal(manifest, None)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "something"}, "manifest.json is not that of a recsys-bundle"),
        ({"version": 2}, "format version 2, this runtime reads 1: use the runtime.py that lies in the bundle"),
        ({"files": {}}, "does not name ranker.onnx, recommender.onnx, retriever.onnx, sample_request.json"),
        ({"files": {"../passwd": {}}}, "does not name the files of a bundle"),
        ({"graphs": None}, "does not name the files of a bundle"),
    ],
)
def test_a_foreign_manifest_is_refused(folder, changed, message):
    rewrite(folder, **changed)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_what_is_no_bundle_is_refused(tmp_path, graphs):
    for path, message in [
        (tmp_path / "absent", "there is no bundle at .*absent"),
        (graphs["ranker"].parent, "has no manifest.json: it is no bundle"),
        (graphs["ranker"], "is damaged or no .tar.gz"),
    ]:
        with pytest.raises(BundleError, match=message):
            Bundle.load(path)


def test_a_sample_that_is_answered_otherwise_is_refused(folder):
    for verb, field, wrong in [
        ("score", "score", [0.7160598, 0.5]),
        ("rank", "top", [2, 1]),
        ("retrieve", "items", ["i1", "i2"]),
        ("retrieve", "items", ["i4"]),
    ]:
        sample = json.loads((folder / "sample_request.json").read_text())
        sample[verb]["expected"][field] = wrong
        other = folder.parent / "other"
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(folder, other)
        path = other / "sample_request.json"
        path.write_text(json.dumps(sample))
        files = json.loads((folder / "manifest.json").read_text())["files"]
        files[path.name] = {"bytes": path.stat().st_size, "sha256": runtime.checksum(path)}
        rewrite(other, files=files)
        with pytest.raises(BundleError, match=f"sample_request.json: the answer to the {verb} request differs"):
            Bundle.load(other)


def test_equal_scores_may_change_places():
    expected = {"score": [0.5, 0.25, 0.5], "top": [0, 2]}
    assert runtime._difference(expected, {"score": [0.5, 0.25, 0.5], "top": [2, 0]}) == 0
    best = {"items": ["a", "b"], "scores": [0.5, 0.25]}
    assert runtime._difference(best, {"items": ["a", "tied with b"], "scores": [0.5, 0.25]}) == 0
    assert runtime._difference(best, {"items": ["b", "a"], "scores": [0.5, 0.25]}) == 0.25


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/tmp/evil.txt", "toys/../../evil.txt", "toys/sub/evil.txt", "evil.txt", "toys/.."]
)
def test_an_archive_whose_paths_lead_elsewhere_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(BundleError, match=r"bad.tar.gz holds '.*', which no bundle has; nothing of it is used"):
        Bundle.load(tmp_path / "bad.tar.gz")
    assert not list(tmp_path.parent.rglob("evil.txt"))
    assert not Path("/tmp/evil.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_an_archive_with_links_or_pipes_is_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("toys/manifest.json")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(BundleError, match="which no bundle has"):
        Bundle.load(tmp_path / "bad.tar.gz")


def test_a_damaged_archive_is_refused_and_leaves_nothing(folder, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    archive = tmp_path / "toys.tar.gz"
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:30], b"", whole[:200] + b"\0" * 50 + whole[250:]):
        archive.write_bytes(content)
        with pytest.raises(BundleError, match=r"toys\.tar\.gz|fetch"):
            Bundle.load(archive)
    assert names(scratch) == []


def test_an_encrypted_bundle_scores_alike_and_keeps_its_values_to_itself(locked, toys):
    assert names(locked) == LOCKED
    same_scores(locked, toys, toys.KEY)
    same_scores(locked.parent / "locked.tar.gz", toys, toys.KEY)
    with tarfile.open(locked.parent / "locked.tar.gz") as tar:
        stored = b"".join(tar.extractfile(member).read() for member in tar)
    words = [f"{quote}{word}{quote}" for word in (*toys.USERS, *toys.ITEMS, *toys.TAGS) for quote in "'\""]
    assert [word for word in (*words, "secret-customer", "böb") if word.encode() in stored] == []
    weights = np.array([0.0, *toys.ITEMS.values()], "float32").tobytes()
    assert weights in (locked.parent / "graphs" / "recommender-draft.onnx").read_bytes()
    assert weights not in stored


def test_decrypted_files_never_touch_the_disk(locked, toys, tmp_path, monkeypatch):
    """Every file that is opened for writing while loading is watched; only an archive's own files are written."""
    written = []

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and watching and set(str(arguments[1])) & set("wxa+"):
            written.append(str(arguments[0]))

    watching = True
    sys.addaudithook(watch)
    (locked / "recommender.onnx.enc").read_bytes()
    same_scores(locked, toys, toys.KEY)
    assert written == []
    same_scores(locked.parent / "locked.tar.gz", toys, toys.KEY)
    watching = False
    assert sorted(Path(name).name for name in written) == LOCKED


@pytest.mark.parametrize("place", ["locked", "locked.tar.gz"])
def test_without_the_right_key_nothing_loads(locked, toys, tmp_path, place, monkeypatch):
    monkeypatch.delenv("RECSYS_BUNDLE_KEY", raising=False)
    before = contents(locked)
    with pytest.raises(BundleError, match=r"encrypted: set RECSYS_BUNDLE_KEY to the key [0-9a-f]{16}"):
        Bundle.load(tmp_path / place)
    with pytest.raises(BundleError, match=r"encrypted with the key [0-9a-f]{16}, the one given is [0-9a-f]{16}\."):
        Bundle.load(tmp_path / place, bytes(32))
    with pytest.raises(BundleError, match="`key` must be 32 bytes"):
        Bundle.load(tmp_path / place, b"short")
    assert contents(locked) == before


def test_the_key_is_read_from_the_environment_or_a_file(locked, toys, tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_BUNDLE_KEY", f" {toys.KEY.hex().upper()}\n")
    same_scores(locked, toys)
    monkeypatch.setenv("RECSYS_BUNDLE_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    assert read_key() == toys.KEY
    (tmp_path / "key").write_text(toys.KEY.hex())
    assert read_key(tmp_path / "key") == toys.KEY
    monkeypatch.delenv("RECSYS_BUNDLE_KEY")
    assert read_key() is None
    for text in ("", "not a key", toys.KEY.hex()[:-2], "AAECAwQ="):
        (tmp_path / "key").write_text(text)
        with pytest.raises(BundleError, match=r"32 bytes as base64") as refused:
            read_key(tmp_path / "key")
        assert not text or text not in str(refused.value)


def test_a_manifest_that_was_changed_without_the_key_is_refused(locked, toys):
    rewrite(locked, name="changed")
    with pytest.raises(BundleError, match=r"manifest.json was changed after the bundle was written"):
        Bundle.load(locked, toys.KEY)
    manifest = json.loads((locked / "manifest.json").read_text())
    del manifest["encryption"]
    (locked / "manifest.json").write_text(json.dumps(manifest | {"seal": seal(manifest, None)}))
    with pytest.raises(BundleError, match=r"manifest.json does not name ranker.onnx, recommender.onnx"):
        Bundle.load(locked, toys.KEY)


def test_a_plain_bundle_in_the_place_of_an_encrypted_one_is_refused(folder, toys):
    with pytest.raises(BundleError, match=r"toys is not encrypted, though a key is given"):
        Bundle.load(folder, toys.KEY)


def test_chunks_cannot_be_changed_swapped_cut_or_given_to_another_file(tmp_path, monkeypatch, toys):
    for module in ("export.encryption", "export.runtime"):
        monkeypatch.setattr(f"{module}.CHUNK", 8)
    for content in (b"", b"x", b"x" * 8, bytes(range(30)), bytes(range(32))):
        encrypt(io.BytesIO(content), tmp_path / "a.enc", "a", toys.KEY)
        assert decrypt(tmp_path / "a.enc", toys.KEY) == content
    whole = (tmp_path / "a.enc").read_bytes()
    start, chunk = len(runtime.MAGIC) + runtime.SALT, 8 + runtime.TAG
    head, chunks = whole[:start], [whole[n : n + chunk] for n in range(start, len(whole), chunk)]
    assert len(chunks) == 4
    for wrong in (
        head + chunks[1] + chunks[0] + chunks[2] + chunks[3],
        head + b"".join(chunks[:3]),
        head + b"".join(chunks) + chunks[3],
        whole[:-1],
        head,
        head[:-5],
        b"not magic" + whole[9:],
    ):
        (tmp_path / "a.enc").write_bytes(wrong)
        with pytest.raises(BundleError, match=r"a\.enc (was changed after it was encrypted|is no encrypted file)"):
            decrypt(tmp_path / "a.enc", toys.KEY)
    (tmp_path / "b.enc").write_bytes(whole)
    with pytest.raises(BundleError, match=r"b\.enc was changed"):
        decrypt(tmp_path / "b.enc", toys.KEY)


def test_encrypting_twice_never_uses_the_same_key_stream(tmp_path, toys):
    for name in ("a", "b"):
        encrypt(io.BytesIO(bytes(100)), tmp_path / name, "same", toys.KEY)
    first, second = ((tmp_path / name).read_bytes()[len(runtime.MAGIC) :] for name in ("a", "b"))
    assert first[: runtime.SALT] != second[: runtime.SALT]
    assert first[runtime.SALT :] != second[runtime.SALT :]


def test_a_missing_library_is_named(locked, toys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(BundleError, match="run `pip install cryptography` first"):
        Bundle.load(locked, toys.KEY)
