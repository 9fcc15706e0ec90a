"""Which plans can be meant, and which networks are whose."""

from pathlib import Path

import pytest
import yaml
from segmentation_place import PLAN

from common.errors import ConfigError
from common.frozen import parse
from experiments.segmentation.plan import SegmentationPlan, load_plan

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"


def test_networks_of_another_plan_are_not_taken_for_this_one_s():
    plan = parse(SegmentationPlan, PLAN, "plan")
    longer = parse(SegmentationPlan, PLAN | {"pretraining": {"steps": 3, "batch_size": 2}}, "plan")
    changes = {
        "labels": [1, 2, 3],
        "arms": PLAN["arms"][:2],
        "secondary_seeds": 4,
        "secondary_arms": ["scratch"],
    }
    more = parse(SegmentationPlan, PLAN | changes, "plan")
    assert plan.key != longer.key
    assert plan.key == more.key
    arm = plan.arm("federated")
    assert arm.key != arm.model_copy(update={"run": "another"}).key


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seeds": 3}, "no multiple"),
        ({"secondary_seeds": 3}, "seeds: 3 is no multiple"),
        ({"secondary_arms": ["nobody"]}, "secondary_arms: there is no arm nobody"),
        ({"also": [["nobody", "scratch"]]}, "also: there is no arm nobody"),
        ({"arms": PLAN["arms"][1:]}, "one of them is scratch"),
        ({"arms": [PLAN["arms"][0], {"name": "a/b", "source": "noise"}]}, "name"),
        ({"name": "../elsewhere"}, "name"),
        ({"labels": [0]}, "labels"),
        ({"labels": [1, 1]}, "labels: a number stands there twice"),
        ({"pretraining": {"steps": 0}}, "steps"),
        ({"fine_tuning": {"steps": 2, "batch_size": 0}}, "batch_size"),
        ({"arms": [PLAN["arms"][0], PLAN["arms"][0]]}, "names of their own"),
        ({"arms": [PLAN["arms"][0], {"name": "x", "source": "synthetic"}]}, "have a run"),
        ({"arms": [PLAN["arms"][0], {"name": "x", "source": "real", "run": "run"}]}, "have a run"),
        ({"arms": [PLAN["arms"][0], {"name": "x", "source": "folder"}]}, "source folder"),
        ({"arms": [PLAN["arms"][0], {"name": "x", "source": "noise", "folder": "x"}]}, "source folder"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        parse(SegmentationPlan, PLAN | changes, "plan")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("segmentation-*.yaml")), ids=lambda file: file.stem)
def test_a_committed_plan_can_be_meant_and_its_smoke_version_is_short(file):
    plan = load_plan(file)
    assert plan.name == file.stem
    smoke = plan.smoke()
    assert parse(SegmentationPlan, smoke.model_dump(), "smoke") == smoke
    assert smoke.arms == plan.arms
    assert smoke.seeds == 2
    assert smoke.key != plan.key


def test_a_plan_of_no_study_is_refused(tmp_path):
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    with pytest.raises(ConfigError, match=r"no tiny\.yaml"):
        load_plan(tmp_path / "plan.yaml")
    (tmp_path / "tiny.yaml").touch()
    assert load_plan(tmp_path / "plan.yaml") == parse(SegmentationPlan, PLAN, "plan")
