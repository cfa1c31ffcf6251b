"""A classical model on a store: what it learns from, and its probabilities."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import log_loss

from recsys.classical.ease import EASE
from recsys.classical.fitted import Fitted, learns_from_likes
from recsys.classical.knn import ItemKNN
from recsys.classical.popularity import Popularity
from recsys.classical.svd import SVD
from recsys.data.batches import Rows
from recsys.data.module import DataModule, DataSpec
from recsys.data.split import VALID
from recsys.schema import Label


@pytest.fixture
def store(tiny, tmp_path):
    data = DataModule(DataSpec.parse(tiny), cache=tmp_path)
    data.prepare_data()
    data.setup()
    return data.store


def test_values_are_learned_where_a_model_can_and_likes_where_it_cannot():
    clicks, stars = Label(kind="binary", column="x"), Label(kind="rating", column="x")
    assert [learns_from_likes(m, clicks) for m in (EASE(), ItemKNN(), SVD())] == [True, False, False]
    assert [learns_from_likes(m, stars) for m in (ItemKNN(), SVD())] == [False, False]
    assert [learns_from_likes(m, Label(kind="implicit")) for m in (EASE(), ItemKNN())] == [True, True]
    with pytest.raises(ValueError, match="EASE cannot be fitted on ratings feedback; use model=svd"):
        learns_from_likes(EASE(), stars)
    with pytest.raises(ValueError, match="SVD cannot be fitted on implicit feedback; use model=ials"):
        learns_from_likes(SVD(), Label(kind="implicit"))


@pytest.mark.parametrize("turned", [False, True])
def test_probabilities_have_the_least_logloss_that_keeps_the_order(store, turned):
    fitted = Fitted.fit(Popularity(), store)
    if turned:  # scores that fall with the label
        fitted.model.learned["score_I"] = -fitted.model.learned["score_I"]
    score_B, label_B = (
        fitted.score_rows(Rows(store, VALID)).numpy().astype("float64"),
        store.label_E[store.part_E == VALID],
    )

    def loss(line: np.ndarray) -> float:
        return log_loss(label_B, 1 / (1 + np.exp(-(max(line[0], 0.0) * score_B + line[1]))))

    best = min(minimize(loss, (start, 0.0), method="Nelder-Mead").fun for start in (0.0, 5.0))
    probability_B = fitted.calibrated(store).to_score(fitted.score_rows(Rows(store, VALID)))
    assert log_loss(label_B, probability_B.numpy().astype("float64")) == pytest.approx(best, abs=1e-5)
