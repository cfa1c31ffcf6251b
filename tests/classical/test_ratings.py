import numpy as np
import pytest

from recsys.classical.ratings import Ratings
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import TRAIN


def test_a_pair_rated_twice_has_the_mean_of_both_at_the_place_of_the_first():
    ratings = Ratings.from_events([1, 0, 1, 1], [2, 0, 1, 2], [1.0, 5.0, 3.0, 4.0], users=3, items=3)
    assert ratings.by_user.toarray().tolist() == [[5, 0, 0], [0, 3, (1 + 4) / 2], [0, 0, 0]]
    assert ratings.by_user.indices.tolist() == [0, 2, 1]


def test_implicit_events_count_once_however_often_they_happened():
    ratings = Ratings.from_events([0, 0, 0], [1, 1, 0], users=1, items=2)
    assert ratings.implicit
    assert ratings.by_item.toarray().tolist() == [[1], [1]]


def test_rows_keep_the_order_of_their_events():
    rng = np.random.default_rng(0)
    pair = rng.permutation(40 * 30)[:500]
    user_E, item_E = pair // 30, pair % 30
    ratings = Ratings.from_events(user_E, item_E, np.arange(500.0), users=40, items=30)
    for matrix, row_E, column_E in ((ratings.by_user, user_E, item_E), (ratings.by_item, item_E, user_E)):
        for row in range(matrix.shape[0]):
            part = slice(*matrix.indptr[row : row + 2])
            assert matrix.indices[part].tolist() == column_E[row_E == row].tolist()
            assert matrix.data[part].tolist() == np.flatnonzero(row_E == row).tolist()


@pytest.mark.parametrize(
    ("user_E", "item_E", "value_E", "message"),
    [
        ([0, 2], [0, 1], [1.0, 1.0], r"`user_E` must be positions in \[0, 2\), got 0 to 2"),
        ([0, 1], [0, -1], [1.0, 1.0], "`item_E` must be positions"),
        ([0], [0], [np.nan], "`value_E` must be finite"),
        ([0, 1], [0], [1.0], "differ in length: 2, 1, 1"),
        ([], [], [], "no training events"),
    ],
)
def test_what_is_wrong_is_named(user_E, item_E, value_E, message):
    with pytest.raises(ValueError, match=message):
        Ratings.from_events(user_E, item_E, value_E, users=2, items=2)


def test_a_store_gives_its_training_events_and_no_others(tiny, tmp_path):
    data = DataModule(DataSpec.parse(tiny), cache=tmp_path / "cache")
    data.prepare_data()
    data.setup()
    store = data.store
    rated, liked = (Ratings.from_store(store, implicit=implicit) for implicit in (False, True))
    train_E = store.part_E == TRAIN
    assert 0 < train_E.sum() < len(train_E)
    assert (rated.users, rated.items, rated.scale) == (store.users, store.items, None)
    label = np.full((store.users, store.items), np.nan)
    for user, item in set(zip(store.user_E[train_E], store.item_E[train_E], strict=True)):
        label[user, item] = store.label_E[train_E & (store.user_E == user) & (store.item_E == item)].mean()
    found = np.full(label.shape, np.nan)
    found[rated.user_N, rated.item_N] = rated.value_N
    np.testing.assert_allclose(found, label)
    assert liked.implicit
    assert set(zip(liked.user_N, liked.item_N, strict=True)) == set(zip(*np.nonzero(label > 0), strict=True))
