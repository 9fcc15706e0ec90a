"""What is said of figures: how they are laid out, and when something improves."""

import pytest
import torch
from segmentation_place import PLAN

from common.errors import MetricError
from common.frozen import parse
from experiments.segmentation.analysis import by_site, pairs_of, summary_of, table_of
from experiments.segmentation.plan import SegmentationPlan
from experiments.segmentation.scores import DICE


def figures(arm, seed, dice):
    return {"arm": arm, "labels": 1, "seed": seed, "label_maps": 1, "scores": {DICE: dice}}


def test_dice_is_laid_out_by_pretraining_seed_and_averaged_over_classes():
    plan = parse(
        SegmentationPlan,
        PLAN | {"seeds": 4, "classes": [{"name": name, "values": [1]} for name in "xy"]},
        "plan",
    )
    made = [figures("noise", seed, [[seed, seed + 2.0], [10 * seed, 10 * seed]]) for seed in range(4)]
    table = table_of(plan, made, 1, "noise")
    assert table.tolist() == [[[1, 0], [3, 20]], [[2, 10], [4, 30]]]
    with pytest.raises(MetricError, match="no fine-tuning of seed 3"):
        table_of(plan, made[:3], 1, "noise")


def test_a_site_s_dice_is_that_of_its_own_patients():
    plan = parse(SegmentationPlan, PLAN | {"arms": PLAN["arms"][:2]}, "plan")
    dice = {"scratch": [[0.1], [0.2], [0.6]], "noise": [[0.5], [0.5], [0.9]]}
    made = [figures(arm, seed, values) for arm, values in dice.items() for seed in range(2)]
    found = by_site(plan, made, ["b", "a", "b"])
    assert {site: of["patients"] for site, of in found.items()} == {"b": 2, "a": 1}
    assert found["b"]["dice"] == pytest.approx({"scratch": 0.35, "noise": 0.7})
    assert found["a"]["dice"] == pytest.approx({"scratch": 0.2, "noise": 0.5})


def test_an_arm_that_is_better_is_said_to_improve_and_one_that_is_not_is_not():
    plan = parse(SegmentationPlan, PLAN | {"pretraining_seeds": 4, "seeds": 8, "labels": [1]}, "plan")
    generator = torch.Generator().manual_seed(0)

    def made(arm, mean):
        return [
            figures(arm, seed, (mean + 0.02 * torch.randn(12, 1, generator=generator)).tolist())
            for seed in range(8)
        ]

    found = summary_of(
        plan, [*made("scratch", 0.5), *made("noise", 0.5), *made("federated", 0.6), *made("real", 0.6)]
    )["1"]["differences"]
    improved = {name for name, difference in found.items() if difference["improves"]}
    assert improved == {"federated - scratch", "real - scratch", "federated - noise"}


def gains(standing, *, better=0.05, noise=0.02, only=("scratch", "noise", "federated", "real")):
    """Return the differences of a plan in which all arms are better than scratch by as much."""
    changes = {"pretraining_seeds": 4, "seeds": 8, "labels": [1], "standing": standing}
    plan = parse(SegmentationPlan, PLAN | changes, "plan")
    generator = torch.Generator().manual_seed(1)
    made = [
        figures(
            arm, seed, (mean + noise * torch.randn(1, 1, generator=generator) + torch.zeros(12, 1)).tolist()
        )
        for arm, mean in [
            ("scratch", 0.5),
            *((name, 0.5 + better) for name in ("noise", "federated", "real")),
        ]
        for seed in range(8)
    ]
    return summary_of(plan, [one for one in made if one["arm"] in only])["1"]["differences"]


def test_one_comparison_is_primary_in_a_primary_plan_alone():
    for standing, primary in [("primary", ["federated - scratch"]), ("secondary", []), ("descriptive", [])]:
        found = gains(standing)
        assert [name for name, one in found.items() if one["holm_p_value"] is None] == primary


def test_a_secondary_comparison_improves_only_if_it_stands_the_correction_for_all():
    found = gains("primary", better=0.03)
    uncertain = [
        one
        for one in found.values()
        if min(one["paired_t"]["low"], one["bootstrap_t"]["low"]) > 0 and (one["holm_p_value"] or 0) >= 0.05
    ]
    assert uncertain  # or this shows nothing
    assert not any(one["improves"] for one in uncertain)
    certain = gains("primary", noise=0.001)
    assert certain["federated - scratch"]["improves"]
    assert certain["real - scratch"]["holm_p_value"] < 0.05
    assert certain["real - scratch"]["improves"]


def test_arms_that_were_not_run_yet_count_in_the_correction():
    so_far, in_the_end = gains("secondary", only=("scratch", "real")), gains("secondary")
    assert list(so_far) == ["real - scratch"]
    name = "real - scratch"
    assert so_far[name]["p_value"] == in_the_end[name]["p_value"]
    assert so_far[name]["holm_p_value"] >= in_the_end[name]["holm_p_value"] > so_far[name]["p_value"]


def test_in_a_descriptive_plan_nothing_improves():
    assert any(one["improves"] for one in gains("secondary", noise=0.001).values())
    assert not any(one["improves"] for one in gains("descriptive", noise=0.001).values())


def test_every_arm_is_compared_with_scratch_and_the_federation_with_every_other():
    assert pairs_of(["scratch", "noise", "federated", "real"]) == [
        ("noise", "scratch"),
        ("federated", "scratch"),
        ("real", "scratch"),
        ("federated", "noise"),
        ("federated", "real"),
    ]
    assert pairs_of(["scratch", "noise"]) == [("noise", "scratch")]
