"""What a search may try, and what is refused."""

import optuna
import pytest
from omegaconf import OmegaConf

from recsys.search import Choice, Range, changed, read_space

CONFIG = OmegaConf.create(
    {"model": {"k": 40, "hidden": [8], "similarity": None}, "optimizer": {"lr": 0.1}, "data": {"name": "x"}}
)


def test_a_space_is_read_by_dotted_name():
    space = read_space(
        {
            "model": {"k": {"low": 1, "high": 9}, "hidden": {"choices": [[8], [4, 2]]}},
            "optimizer": {"lr": {"low": 0.1, "high": 1, "log": True}},
        },
        CONFIG,
    )
    assert space == {
        "model.k": Range(low=1, high=9),
        "model.hidden": Choice(choices=([8], [4, 2])),
        "optimizer.lr": Range(low=0.1, high=1, log=True),
    }


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"model": {"kk": {"low": 1, "high": 2}}}, "`search.model.kk`: there is no option `model.kk`"),
        ({"data": {"name": {"choices": ["x", "y"]}}}, "`search.data`: trials must share their data"),
        ({"model": {"k": 3}}, "`search.model.k` must say low and high, or choices, got 3"),
        ({"model": {"k": {"low": 3, "high": 3}}}, "`low` must be below `high`, got 3 and 3"),
        ({"model": {"k": {"low": 0, "high": 3, "log": True}}}, "`log` needs a positive `low`, got 0"),
        ({"model": {"k": {"low": 0, "high": 3, "step": 1}}}, "has no option 'step'"),
        ({"model": {"hidden": {"choices": [[8]]}}}, "`choices` must be two at least"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(declared, message):
    with pytest.raises(ValueError, match=message):
        read_space(declared, CONFIG)


@pytest.mark.parametrize(
    ("option", "kind"),
    [(Range(low=2, high=5), int), (Range(low=2.0, high=5), float), (Choice(choices=([8], None)), None)],
)
def test_what_a_study_keeps_is_read_back_as_it_was_tried(option, kind):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(5):
        trial = study.ask()
        tried = option.suggest(trial, "x")
        assert option.read(trial.params["x"]) == tried
        assert option.stored(tried) == trial.params["x"]
        assert kind is None or type(tried) is kind
    assert option.stored("elsewhere") is None


def test_a_value_outside_is_not_stored():
    assert Range(low=2, high=5).stored(6) is None
    assert Range(low=2, high=5).stored(True) is None
    assert Range(low=2, high=5).stored(None) is None


def test_settings_change_a_copy():
    other = changed(CONFIG, {"model.hidden": [1, 2], "optimizer.lr": 0.5})
    assert (other.model.hidden, other.optimizer.lr, other.model.k) == ([1, 2], 0.5, 40)
    assert (CONFIG.model.hidden, CONFIG.optimizer.lr) == ([8], 0.1)
