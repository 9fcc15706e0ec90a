"""What the cost benchmark compares is the same sum, and its table says what was measured."""

import torch

from experiments import private_cost
from experiments.private_cost import PATIENTS, WAYS, case, private_cost_text, step


def test_all_ways_make_the_same_sum_and_the_sampler_is_put_back(monkeypatch):
    samplers = dict(private_cost.GradSampleModule.GRAD_SAMPLERS)
    module, loss, rows = case("codec", PATIENTS)
    rows = {"volume": rows["volume"][..., :16, :16, :16]}
    expected = step("one call a patient", module, loss, rows)
    size = torch.stack([t.norm() for t in expected.values()]).norm()
    for way in ("stock", "hooks", "vmap"):
        found = step(way, module, loss, rows)
        assert found.keys() == expected.keys()
        assert torch.stack([(found[n] - expected[n]).norm() for n in expected]).norm() < 1e-3 * size
    assert samplers == private_cost.GradSampleModule.GRAD_SAMPLERS


def test_the_table_has_every_way_and_ratio():
    network = {
        "seconds": dict.fromkeys(WAYS, 0.5),
        "fastest_engine": "vmap",
        "fastest_over_plain": 1.5,
        "fastest_over_stock": 0.5,
        "in_use_over_plain_4_draws": 1.0,
        "extra_mb": 10.0,
        "stock_extra_mb": 300.0,
    }
    text = private_cost_text({"batch": 8, "repeats": 5, "threads": 2, "networks": {"codec": network}})
    assert all(f"| {way}, s | 0.500 |" in text for way in WAYS)
    assert "| extra memory of stock, MB | 300 |" in text
