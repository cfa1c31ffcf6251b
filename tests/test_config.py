"""What is refused before any data is read."""

import pytest

from recsys.config import check

REFUSED = {
    "pretrained=outputs/x.ckpt": r"`pretrained` must be a list of two checkpoints .*, got 'outputs/x\.ckpt'",
    "+trainer.val_check_interval=5 +trainer.check_val_every_n_epoch=null": "`.*_every_n_epoch` must be an integer",
}


@pytest.mark.parametrize("options", REFUSED)
def test_a_wrong_option_is_refused_by_name(composed, options):
    """Bug: a path given as `pretrained` was read letter by letter; validations across epochs did not resume exactly."""
    with pytest.raises(ValueError, match=REFUSED[options]):
        check(composed("trainer=cpu", *options.split()))


def test_a_trainer_of_one_process_is_not_started_as_many(composed, monkeypatch):
    """Bug: under torchrun, each of the processes trained a model of its own into the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ValueError, match="for one process and 8 were started"):
        check(composed())
    check(composed("trainer=ddp"))


def test_seeds_are_not_for_several_processes(composed):
    with pytest.raises(ValueError, match="`seeds` repeats new runs in one process"):
        check(composed("trainer=ddp", "seeds=2"))


def test_a_validation_inside_an_epoch_is_accepted(composed):
    check(composed("trainer=cpu", "+trainer.val_check_interval=0.5"))
