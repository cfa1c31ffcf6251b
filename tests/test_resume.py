"""What may differ between a run and the one that goes on from it."""

from recsys.config import build_data
from recsys.resume import find_resumption
from recsys.training import train


def test_a_run_on_the_shop_goes_on_with_another_cache(composed, tmp_path):
    """Bug: the shop lies in the cache, and its paths there were compared too."""
    options = ["data.generate.events=2000", "model=mf", "trainer=cpu", "trainer.max_epochs=1", "resume=true"]
    train(composed(*options, "resume=null", f"cache={tmp_path}/one"), tmp_path / "run", lambda *_: None)
    (tmp_path / "run" / "report.html").unlink()
    cfg = composed(*options, f"cache={tmp_path}/two", "prepare=ray", "on_device=true")
    resumption = find_resumption(cfg, tmp_path / "new")
    assert resumption is not None
    assert resumption.folder == tmp_path / "run"
    data = build_data(composed(*options, f"cache={tmp_path}/two"))
    data.prepare_data()
    data.setup()
    assert data.state == resumption.data
