"""Every yaml composes, is accepted by the checks that run before any data is read, and builds."""

import dataclasses
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from export.compress import Compression
from recsys.config import build_classical, build_data, check, is_classical, resolve
from recsys.data.module import DataModule
from recsys.data.split import TEST, TRAIN
from recsys.declare import declare
from recsys.search import read_space

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GROUPS = {
    p.name: sorted(f.stem for f in p.glob("*.yaml")) for p in CONFIGS.iterdir() if p.is_dir() and p.name != "hydra"
}
TRAINED_WITH = {
    str(key) for entry in OmegaConf.load(CONFIGS / "train.yaml").defaults if entry != "_self_" for key in entry
}
LABEL_OF = {
    "squared_error": ["data.label.kind=rating", "+data.label.range=[0,1]"],
    "bpr": ["data.label.kind=implicit"],
    "sampled_softmax": ["data.label.kind=implicit"],
}


CLASSICAL = {p.stem for p in (CONFIGS / "model").glob("*.yaml") if "recsys.classical" in p.read_text(encoding="utf-8")}
OF_EACH_LABEL = ["shop", "ml100k", "ml100k_folds", "ml100k_topn"]  # which is all that classical models are checked by
PAIRS = [(d, n) for d in GROUPS["data"] for n in GROUPS["model"] if d in OF_EACH_LABEL or n not in CLASSICAL]
OF_TRAINING = [(g, n) for g, names in GROUPS.items() for n in names if g in TRAINED_WITH]


@pytest.mark.parametrize(("group", "name"), OF_TRAINING)
def test_every_choice_passes_the_checks(composed, group, name):
    cpu = ["trainer.accelerator=cpu"] if group == "trainer" else []
    check(composed(f"{group}={name}", *LABEL_OF.get(name, []), *cpu))


@pytest.mark.parametrize("name", GROUPS["tuned"])
def test_tuned_settings_are_found_by_data_and_model_and_give_way(composed, name):
    data, model, _ = name.split("_")
    tuned, plain = composed(f"data={data}", f"model={model}"), composed(f"data={data}", f"model={model}", "~tuned")
    assert tuned != plain
    check(tuned)
    assert composed(f"data={data}", f"model={model}", "optimizer.lr=0.5").optimizer.lr == 0.5


@pytest.mark.parametrize(("data", "name"), PAIRS)
def test_every_model_builds_on_every_dataset_that_has_what_it_reads(composed, data, name):
    cfg = composed(f"data={data}", f"model={name}")
    feedback = {"implicit": {"implicit"}, "rating": {"ratings"}}.get(cfg.data.label.kind, {"implicit", "ratings"})
    if is_classical(cfg) and feedback.isdisjoint(build_classical(cfg).feedback):
        with pytest.raises(ValueError, match=r"cannot be fitted on (ratings|implicit) feedback; use model="):
            check(cfg)
        return
    if name == "din" and cfg.data.get("history") is None:
        with pytest.raises(ValueError, match=r"the model reads histories; declare `data.history`"):
            check(cfg)
        return
    check(cfg)


@pytest.mark.parametrize("name", GROUPS["compress"])
def test_every_compression_composes_and_shows_every_setting(composed, name):
    shown = resolve(composed(f"compress={name}", "checkpoint=any.ckpt", name="export").compress)
    declare(Compression, shown, "compress")
    assert list(shown) == [field.name for field in dataclasses.fields(Compression)]


def test_the_default_compression_is_that_of_the_code(composed):
    shown = composed("compress=default", "checkpoint=any.ckpt", name="export").compress
    assert declare(Compression, resolve(shown), "compress") == Compression()


@pytest.mark.parametrize("name", GROUPS["model"])
def test_every_model_has_a_search_of_options_that_are_there(composed, name):
    cfg = composed(f"model={name}", name="tune")
    space = read_space(resolve(cfg)["search"], cfg)
    own = {option.removeprefix("model.") for option in space if option.startswith("model.")}
    assert own
    assert own <= {*cfg.model}


def test_every_yaml_says_what_it_is_for():
    for path in (
        *CONFIGS.glob("data/**/*.yaml"),
        *CONFIGS.glob("experiment/*.yaml"),
        *CONFIGS.glob("search/*.yaml"),
        *CONFIGS.glob("*.yaml"),
    ):
        assert path.read_text(encoding="utf-8").startswith("#"), path


@pytest.mark.parametrize("name", GROUPS["data"])
def test_every_dataset_says_where_it_comes_from(composed, name):
    data = composed(f"data={name}").data
    assert data.name == name
    assert "generate" in data or "http" in data.about


def prepared(composed, cache: Path, *overrides: str) -> DataModule:
    data = build_data(composed(*overrides, f"cache={cache}"))
    data.prepare_data()
    data.setup()
    return data


def test_the_shop_prepares_with_its_dirt_counted(composed, tmp_path):
    data = prepared(composed, tmp_path, "data=shop", "data.generate.events=4000")
    rules = {(e["table"], e["rule"]) for e in data.store.cleaning["entries"]}
    assert {
        ("behaviour", "duplicate row"),
        ("behaviour", "item not in table `items`"),
        ("users", "missing value"),
    } <= rules
    rows = data.store.cleaning["rows"]["behaviour"]
    dropped = [
        e["rows"] for e in data.store.cleaning["entries"] if e["table"] == "behaviour" and e["action"] == "dropped"
    ]
    assert rows["read"] - sum(dropped) == rows["kept"] == len(data.store.user_E)
    assert data.store.order_E[data.store.part_E == TRAIN].max() < data.store.order_E[data.store.part_E == TEST].min()


def test_movielens_prepares_whole(composed, tmp_path, real_data):
    data = prepared(composed, tmp_path, "data=ml100k", f"data.root={real_data}/ml-100k")
    store = data.store
    assert (len(store.user_E), store.users, store.items) == (100_000, 943, 1_682)
    assert store.schema.size("genres") == 19 + 1  # the nineteen genres and the unseen one
    assert store.schema.size("occupation") <= 21 + 1
    assert abs(float(store.label_E.mean()) - 55_375 / 100_000) < 1e-6  # ratings of 4 and 5
    first = store.start_E == store.stop_E
    assert len(set(store.user_E[first].tolist())) == 943, "every user's first events have no history"


def test_frappes_words_and_apps_prepare_whole(composed, tmp_path, real_data):
    store = prepared(composed, tmp_path, "data=frappe_raw", f"data.root={real_data}/frappe-raw").store
    assert (len(store.user_E), store.users, store.items) == (96_203, 957, 4_082)
    assert 0.45 < float(store.label_E.mean()) < 0.55
    words = {name: set(store.encoders.columns[name].values) for name in ("weather", "country", "category")}
    assert {"sunny", "unknown"} <= words["weather"]
    assert "United States" in words["country"]
    assert "Tools" in words["category"]
    assert "unknown" not in words["category"], "apps without metadata share the unseen row"
