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


def test_each_way_is_measured_with_its_own_sampler(monkeypatch):
    called = []

    def noting(name, sampler):
        return lambda *words: called.append(name) or sampler(*words)

    for name in ("compute_conv_grad_sample", "conv3d_grad_sample"):
        monkeypatch.setattr(private_cost, name, noting(name, getattr(private_cost, name)))
    module, loss, rows = case("codec", PATIENTS)
    rows = {"volume": rows["volume"][..., :16, :16, :16]}
    for way, own in (("stock", "compute_conv_grad_sample"), ("hooks", "conv3d_grad_sample")):
        called.clear()
        step(way, module, loss, rows)
        assert set(called) == {own}


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
