"""A study as one of its sites would run it alone."""

import pytest
from small_federation import private_study, public_state, small_study

from common.errors import ConfigError
from common.frozen import parse
from common.study import Study
from experiments.study_file import alone, with_sites

SITE_STYLE = {"kind": "site", "dropout": 0.1}


def test_a_site_alone_has_the_study_s_networks_and_schedules_and_is_not_told_its_own_name():
    study = small_study(("a", "b"), diffusion__model__condition=SITE_STYLE)
    found = alone(study, "b")
    assert found.name == "small-b"
    assert found.federation.sites == ("b",)
    assert found.federation.quorum == 1
    assert found.diffusion.model.condition.kind == "none"
    assert found.codec == study.codec
    assert found.diffusion.training == study.diffusion.training
    assert found.diffusion.model.denoiser == study.diffusion.model.denoiser
    assert parse(Study, found.model_dump(mode="json"), "the file it is written to") == found


def test_a_class_is_still_told():
    condition = {"kind": "class", "num_classes": 2, "dropout": 0.1}
    assert (
        alone(small_study(diffusion__model__condition=condition), "a").diffusion.model.condition.kind
        == "class"
    )


def test_sites_that_are_not_there_and_private_studies_are_refused():
    with pytest.raises(ConfigError, match="no site c"):
        alone(small_study(("a", "b")), "c")
    with pytest.raises(ConfigError, match="not one site's alone"):
        alone(private_study(public_state()), "a")


def test_other_sites_have_equal_weight_and_are_all_waited_for():
    study = small_study(
        ("a", "b"), federation={"sites": ["a", "b"], "weights": {"a": 1, "b": 3}, "min_sites": 1}
    )
    found = with_sites(study, ("x", "y", "z"))
    assert found.federation.weights is None
    assert found.federation.quorum == 3
