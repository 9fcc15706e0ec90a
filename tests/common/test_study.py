"""A study that cannot be meant is refused with the key, the value and the remedy."""

import copy

import pytest

from common.errors import ConfigError, UnknownKeyError
from common.frozen import load_yaml, parse
from common.study import Study

GOOD = {
    "name": "study",
    "volume": {"shape": [32, 48, 32], "spacing_mm": [1, 1, "keep"]},
    "codec": {"training": {"rounds": 2, "local_steps": 3}},
    "diffusion": {"training": {"rounds": 2, "local_steps": 3}},
    "federation": {"sites": ["a", "b", "c"]},
}


def changed(path, value):
    content = copy.deepcopy(GOOD)
    target = content
    *parents, last = path.split(".")
    for part in parents:
        target = target.setdefault(part, {})
    target[last] = value
    return content


def test_the_latent_shape_follows_from_volume_and_downsampling():
    assert parse(Study, changed("codec.model.downsampling", [2, 4, 1]), "s").latent_shape == (16, 12, 32)


def test_the_digest_is_of_the_meaning_not_of_the_file():
    spelled_out = changed("volume.channels", ["image"])
    assert parse(Study, GOOD, "s").digest == parse(Study, spelled_out, "s").digest
    assert parse(Study, GOOD, "s").digest != parse(Study, changed("seed", 1), "s").digest


@pytest.mark.parametrize(
    ("path", "value", "nearest"),
    [
        ("codec.trainig", 1, "training"),
        ("volume.shpe", 1, "shape"),
        ("codec.model.quantizer", {"kind": "ema", "num_cods": 3}, "num_codes"),
        ("diffusion.model.sampler", {"num_step": 3}, "num_steps"),
        ("federation.strategy", {"kind": "fedadam", "beta1": 0.5}, "beta_1"),
        ("sede", 1, "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(path, value, nearest):
    with pytest.raises(UnknownKeyError, match=f"did you mean '{nearest}'"):
        parse(Study, changed(path, value), "study.yaml")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("volume.shape", [33, 48, 32], r"along x is 33.*does not divide: use 32 or 34"),
        ("codec.model.downsampling", [3, 2, 2], "downsampling"),
        ("diffusion.model.denoiser.channels", [16, 32, 64, 64, 64, 64], "attention has 3 entries"),
        (
            "diffusion.model.denoiser",
            {"channels": [8] * 6, "attention": [False] * 6, "head_channels": 8},
            "the latent has 16",
        ),
        ("codec.model.downsampling", [1, 1, 2], "4 channels for blocks of 2 values"),
        ("codec.model.channels", 12, "not a multiple of 8"),
        ("diffusion.model.sampler.kind", "ddim", "use euler or heun"),
        ("federation.sites", ["a", "a"], "repeat"),
        ("federation.sites", ["A b"], "sites"),
        ("federation.min_sites", 4, "more than the 3 sites"),
        ("federation.weights", {"a": 1}, "every site"),
        ("federation.aggregation", {"kind": "krum"}, "needs 5 reports"),
        ("federation.aggregation", {"kind": "trimmed_mean", "trim": 2}, "needs 5 reports"),
        ("federation.aggregation", {"kind": "median"}, "no meaning for the sums"),
        ("volume.intensity", {"kind": "percentile", "low": 99, "high": 1}, "not below"),
        ("volume.output_range", [1, 1], "not ascending"),
        ("codec.training.rounds", 0, "has no rounds"),
        ("codec.training.rounds", -1, "greater than or equal to 0"),
        ("diffusion.training.rounds", 0, "at least one round"),
        ("seed", "x", "seed"),
    ],
)
def test_what_cannot_be_meant_is_refused(path, value, message):
    with pytest.raises(ConfigError, match=message):
        parse(Study, changed(path, value), "study.yaml")


def test_rules_that_know_of_no_weights_refuse_them():
    weights = {"a": 1.0, "b": 2.0, "c": 1.0}
    with pytest.raises(ConfigError, match="knows of no weights"):
        parse(
            Study,
            changed(
                "federation", {**GOOD["federation"], "weights": weights, "aggregation": {"kind": "median"}}
            ),
            "study.yaml",
        )


def test_sums_of_a_codebook_are_combined_by_rules_that_keep_them_sums():
    clipped = parse(Study, changed("federation.aggregation", {"kind": "norm_clipping"}), "study.yaml")
    assert clipped.federation.aggregation.times_median == 1.0


@pytest.mark.parametrize("text", ["- 1\n", "a: [", "\tx: 1", ""])
def test_a_file_that_is_no_mapping_is_one_clear_line(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_yaml(tmp_path / "none.yaml")
