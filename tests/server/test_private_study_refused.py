"""Private studies that cannot be meant, promise too little, or start from the wrong model."""

import dataclasses

import pytest
import torch

from common.errors import ConfigError, RunError
from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from server.public_model import refuse_other_meaning
from server.state import start_from_public
from tests.small_federation import (
    GRADIENT_CODEC,
    PRIVATE_CODEC,
    private_codec_study,
    private_study,
    public_state,
    small_study,
)


def test_a_study_must_keep_its_own_promise(public):
    with pytest.raises(ConfigError, match=r"spend epsilon .* promises 1"):
        private_study(public, epsilon=1.0)


def test_a_delta_of_a_patient_s_share_is_refused(public):
    with pytest.raises(ConfigError, match=r"delta 0\.3 for 4 patients"):
        private_study(public, privacy__delta=0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion__model__objective": "eps", "diffusion__model__sampler": {"kind": "ddim"}}, "objective"),
        ({"volume__spacing_mm": [3, 3, 3]}, "volume.spacing_mm"),
        ({"volume__intensity": {"kind": "fixed", "low": 0, "high": 1}}, "volume.intensity"),
        (
            {"codec__model__quantizer": {"kind": "ema", "num_codes": 8, "code_dim": 2, "decay": 0.5}},
            "quantizer",
        ),
    ],
)
def test_a_public_model_that_means_something_else_is_refused(changes, message):
    refuse_other_meaning(small_study(("public",)), small_study(codec__model__discriminator=None))
    with pytest.raises(RunError, match=message):
        refuse_other_meaning(small_study(("public",)), small_study(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec__training": {"rounds": 1, "local_steps": 1}}, "leave codec.training out"),
        ({"privacy__codec": PRIVATE_CODEC}, "say how many rounds"),
        (
            {"privacy__codec": PRIVATE_CODEC, "codec__training": {"rounds": 1, "local_steps": 1}},
            "quantizer ema has no private form",
        ),
        (
            {
                "privacy__codec": PRIVATE_CODEC,
                "codec__training": {"rounds": 1, "local_steps": 1},
                "codec__model__quantizer": {"kind": "gradient", "num_codes": 8, "code_dim": 2},
            },
            "discriminator has no private form",
        ),
        ({"privacy__codec": PRIVATE_CODEC | {"draws": 4}}, "draws"),
        ({"federation": {"sites": ["a"], "strategy": {"kind": "fedprox"}}}, "fedprox has no private form"),
    ],
)
def test_a_private_study_that_cannot_be_meant(public, changes, message):
    with pytest.raises(ConfigError, match=message):
        small_study(
            ("a",),
            **{
                "privacy": private_study(public).privacy.model_dump(exclude_none=True),
                "codec__training": {"rounds": 0, "local_steps": 1},
            }
            | changes,
        )


def test_two_private_stages_are_charged_together(public):
    public = public_state(**GRADIENT_CODEC)
    alone = epsilon([private_codec_study(public).private_plans[Stage.DIFFUSION].event], 1e-5)
    with pytest.raises(
        ConfigError, match=r"spend epsilon .*codec 2 \+ 1 rounds of 1 steps, diffusion 2 \+ 2"
    ):
        private_codec_study(public, epsilon=alone * 1.01)


def test_a_public_codec_of_another_size_is_refused(public):
    study = private_study(public)
    wider = {n: torch.cat([t, t]) for n, t in public.codec.items()}
    other = dataclasses.replace(public, codec=wider)
    renamed = study.privacy.model_copy(update={"public_model": other.model_digest})
    with pytest.raises(RunError, match="other sizes"):
        start_from_public(other, study.model_copy(update={"privacy": renamed}))


def test_a_study_without_privacy_must_train_its_codec():
    with pytest.raises(ConfigError, match=r"codec\.training is missing"):
        small_study(("a",), codec__training={"rounds": 0, "local_steps": 1})


def test_another_public_model_is_refused(public):
    study = private_study(public)
    other = dataclasses.replace(public, denoiser_average={n: t + 1 for n, t in public.denoiser.items()})
    with pytest.raises(RunError, match="not the one that the study names"):
        start_from_public(other, study)
