"""The generated shop: its files, its bookkeeping of the true probability, and the effects it must contain."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.data.shop import files, visits, vocabulary, write_shop
from recsys.data.shop.world import DAY, START

COLUMNS = {
    "user_behavior_data": "user_id item_id scene_id timestamp behavior clicked rating click_probability",
    "item_attribute_data": "item_id title category brand price popularity tags",
    "user_data": "user_id age gender city",
    "scene_information_data": "scene_id hour weekday weather place",
    "social_data": "user_id friend_id",
}
EVENTS, DAYS = 100_000, 60

Tables = dict[str, pd.DataFrame]


def read(folder: Path) -> Tables:
    return {name: pd.read_csv(folder / f"{name}.csv") for name in COLUMNS}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = tmp_path_factory.mktemp("shop") / "shop"
    write_shop(folder, events=EVENTS, days=DAYS, seed=3)
    return read(folder)


@pytest.fixture(scope="module")
def rows(tables: Tables) -> pd.DataFrame:
    """Behaviour without repeats, with the attributes of its item, user and scene."""
    item = tables["item_attribute_data"].drop_duplicates("item_id")
    behavior = tables["user_behavior_data"].drop_duplicates(ignore_index=True)
    joined = behavior.merge(item, on="item_id", how="left").merge(tables["user_data"], on="user_id")
    joined = joined.merge(tables["scene_information_data"], on="scene_id")
    return joined.sort_values("timestamp", kind="stable", ignore_index=True)


def test_the_five_files_have_their_columns(tables: Tables) -> None:
    assert {name: " ".join(table.columns) for name, table in tables.items()} == COLUMNS


def test_same_seed_same_bytes_whatever_the_chunk(tmp_path: Path) -> None:
    for name, seed, chunk in (("a", 5, 10**6), ("b", 5, 10**6), ("c", 5, 700), ("d", 6, 10**6)):
        write_shop(tmp_path / name, events=4_000, days=9, seed=seed, chunk=chunk)
    first = content(tmp_path / "a")
    assert content(tmp_path / "b") == first
    assert content(tmp_path / "c") == first
    assert all(content(tmp_path / "d")[name] != first[name] for name in first)


@pytest.mark.parametrize("slot_rows", [100, 1_000])
def test_rows_are_the_events_and_the_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slot_rows: int) -> None:
    monkeypatch.setattr(visits, "SLOT_ROWS", slot_rows)
    write_shop(tmp_path / "shop", events=5_001, days=3, seed=1)
    behavior = read(tmp_path / "shop")["user_behavior_data"]
    assert len(behavior.drop_duplicates()) == 5_001
    assert (behavior.duplicated() <= (behavior == behavior.shift()).drop(columns="rating").all(axis=1)).all()
    assert behavior["timestamp"].is_monotonic_increasing


@pytest.mark.parametrize(("events", "users", "items", "days"), [(1, 10, 26, 1), (37, 10, 30, 400)])
def test_tiny_shops_are_complete(tmp_path: Path, events: int, users: int, items: int, days: int) -> None:
    write_shop(tmp_path / "shop", events=events, users=users, items=items, days=days)
    tables = read(tmp_path / "shop")
    assert len(tables["user_behavior_data"].drop_duplicates()) == events
    assert len(tables["user_data"]) == users
    assert len(tables["item_attribute_data"].drop_duplicates()) == items


def test_ids_refer_to_their_tables(tables: Tables) -> None:
    behavior, social = tables["user_behavior_data"], tables["social_data"]
    user = tables["user_data"]["user_id"]
    assert user.is_unique
    assert behavior["user_id"].isin(user).all()
    assert social.isin(user.tolist()).all(axis=None)
    assert set(behavior["scene_id"]) == set(tables["scene_information_data"]["scene_id"])
    orphan = ~behavior["item_id"].isin(tables["item_attribute_data"]["item_id"])
    assert 0.0005 < orphan.mean() < 0.002


def test_a_friendship_is_listed_once(tables: Tables) -> None:
    social = tables["social_data"]
    assert (social["user_id"] < social["friend_id"]).all()
    assert not social.duplicated().any()


def test_values_are_in_range_but_for_the_dirt(tables: Tables) -> None:
    behavior, item = tables["user_behavior_data"], tables["item_attribute_data"]
    assert set(behavior["behavior"]) == set(vocabulary.BEHAVIORS)
    assert (behavior["clicked"] == (behavior["behavior"] != "skip")).all()
    assert (behavior.loc[behavior["rating"].notna(), "behavior"] == "purchase").all()
    assert set(behavior["rating"].dropna()) == {1, 2, 3, 4, 5, 9}
    assert 0 < (behavior["rating"] == 9).sum() < 60
    assert 0.001 < behavior.duplicated().mean() < 0.003
    assert tables["user_data"]["age"].isna().sum() == 0.01 * len(tables["user_data"])
    assert item.drop_duplicates()["price"].isna().sum() == 0.005 * item["item_id"].nunique()
    assert item.duplicated().sum() == 2


def test_time_stays_within_the_period_and_agrees_with_the_scene(rows: pd.DataFrame) -> None:
    since = rows["timestamp"] - START
    assert since.is_monotonic_increasing
    assert since.between(0, DAYS * DAY - 1).all()
    assert (since // 3600 % 24 == rows["hour"]).all()
    assert (since // DAY % 7 == rows["weekday"]).all()
    assert (rows["hour"] == 20).mean() > 5 * (rows["hour"] == 3).mean()


def test_clicks_follow_the_stated_probability(rows: pd.DataFrame) -> None:
    """Within 4.5 standard deviations of sum(p) in each tenth of the probabilities."""
    for _, part in rows.groupby(pd.qcut(rows["click_probability"], 10)):
        probability = part["click_probability"]
        deviation = np.sqrt((probability * (1 - probability)).sum())
        assert abs(part["clicked"].sum() - probability.sum()) < 4.5 * deviation
    assert rows["click_probability"].between(0, 1, inclusive="neither").all()


def test_click_rate_and_best_auc_are_believable(rows: pd.DataFrame) -> None:
    test = rows[int(0.9 * len(rows)) :]
    rank = test["click_probability"].rank()
    positives = test["clicked"].sum()
    wins = rank[test["clicked"] == 1].sum() - positives * (positives + 1) / 2
    assert 0.76 < wins / (positives * (len(test) - positives)) < 0.84
    assert 0.2 < rows["clicked"].mean() < 0.35


@pytest.mark.parametrize(
    ("category", "better", "worse"), [("umbrella", "rainy", "sunny"), ("ice cream", "sunny", "rainy")]
)
def test_weather_moves_clicks(rows: pd.DataFrame, category: str, better: str, worse: str) -> None:
    rate = rows[rows["category"] == category].groupby("weather")["clicked"].mean()
    assert rate[better] > rate[worse] + 0.1


def test_a_purchase_makes_its_follow_up_wanted(rows: pd.DataFrame) -> None:
    bought = rows["category"].where(rows["behavior"] == "purchase")
    last = bought.groupby(rows["user_id"]).ffill().groupby(rows["user_id"]).shift()
    follows = last.map(vocabulary.FOLLOW_UPS) == rows["category"]
    common = rows[rows["category"].isin(vocabulary.FOLLOW_UPS.values())]
    rate = common["clicked"].groupby(follows[common.index]).mean()
    assert rate[True] > rate[False] + 0.1


def test_popularity_tells_of_appeal(rows: pd.DataFrame) -> None:
    item = rows.groupby("item_id").agg(rate=("clicked", "mean"), sold=("popularity", "first"))
    assert item.corr(method="spearman").loc["rate", "sold"] > 0.5


def test_friends_share_a_favourite_more_than_strangers(tables: Tables, rows: pd.DataFrame) -> None:
    clicks = pd.crosstab(rows["user_id"], rows["category"], values=rows["clicked"], aggfunc="sum").fillna(0)
    favourite = clicks.idxmax(axis=1)
    social = tables["social_data"]
    first, second = social["user_id"].map(favourite), social["friend_id"].map(favourite)
    stranger = second.sample(frac=1, random_state=0).to_numpy()
    assert (first == second).mean() > 1.2 * (first.to_numpy() == stranger).mean()


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_some_users_and_items_come_late(tables: Tables, rows: pd.DataFrame, column: str) -> None:
    known = rows[rows["item_id"].isin(tables["item_attribute_data"]["item_id"])]
    first = known.groupby(column)["timestamp"].min() - START
    assert 0.1 < (first > 0.75 * DAYS * DAY).mean() < 0.15


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files, "write_scenes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_shop(tmp_path / "deep" / "shop", events=100)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_file", [True, False])
def test_what_exists_is_refused_and_kept(tmp_path: Path, is_file: bool) -> None:
    target = tmp_path / "shop"
    target.write_text("mine") if is_file else target.mkdir()
    with pytest.raises(FileExistsError, match=r"`folder` must not exist yet, got '.*shop'"):
        write_shop(target, events=100)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]
    assert target.is_file() == is_file


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("events", 0),
        ("events", 1.5),
        ("events", "many"),
        ("users", 9),
        ("items", 25),
        ("days", 0),
        ("days", 40_000),
        ("seed", -1),
        ("seed", None),
        ("chunk", 0),
        ("chunk", True),
    ],
)
def test_a_bad_argument_is_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be a whole number in \[.*\], got {value!r}\."):
        write_shop(tmp_path / "shop", **{name: value})  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="recsys.data.shop"):
        write_shop(tmp_path / "shop", events=3_000, chunk=1_000)
    assert caplog.messages[-1] == "wrote 3000 of 3000 events"
    assert len(caplog.messages) == 3
