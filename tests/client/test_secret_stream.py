import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from client.private.noise import GRID, noised
from client.private.patient_sampling import drawn_patients
from client.private.secret_stream import RoundSecret, SecretStream
from common.errors import PrivacyError

SIGNIFICANCE = 1e-6


def secret(byte: int = 7) -> RoundSecret:
    return RoundSecret(bytes([byte]) * 32)


def test_the_key_stream_is_chacha20():
    """RFC 8439, A.1, test vector 1: the zero key and nonce."""
    expected = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28")
    numbers = SecretStream(bytes(32)).uniform(2)
    words = np.frombuffer(expected, dtype="<u8")
    assert numbers.tolist() == [((int(word) >> 11) + 1) / 2**53 for word in words]


def test_uniform_numbers_are_uniform_and_never_zero():
    numbers = secret().stream("a").uniform(50_000)
    assert 0 < numbers.min() <= numbers.max() <= 1
    assert stats.kstest(numbers, "uniform").pvalue > SIGNIFICANCE


@pytest.mark.parametrize(("scale", "accepted"), [(1.0, True), (2 / 3, False), (3 / 2, False)])
def test_noise_is_normal_of_the_right_scale_and_of_no_other(scale, accepted):
    numbers = noised(torch.zeros(25_000, dtype=torch.float64), 0.3 * scale, secret().stream("noise")).numpy()
    assert (stats.kstest(numbers, stats.norm(scale=0.3).cdf).pvalue > SIGNIFICANCE) == accepted


def test_halves_of_a_box_muller_pair_are_unrelated():
    numbers = secret().stream("a").normal(40_000)
    first, second = numbers[:20_000], numbers[20_000:]
    assert stats.pearsonr(first, second).pvalue > SIGNIFICANCE
    assert stats.pearsonr(first**2, second**2).pvalue > SIGNIFICANCE
    assert len(secret().stream("b").normal(7)) == 7


def test_a_noised_sum_lies_on_the_public_grid():
    total = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    multiples = noised(total, 0.7, secret().stream("noise")) / (GRID * 0.7)
    assert torch.allclose(multiples, multiples.round(), atol=1e-6)


def test_noise_is_not_added_in_single_precision():
    with pytest.raises(TypeError, match="float64"):
        noised(torch.zeros(3), 1.0, secret().stream("noise"))


def test_streams_differ_by_purpose_and_secret_and_are_served_once():
    one = secret()
    first = one.stream("coin", "codec", 1, "p").uniform(4)
    others = [
        one.stream("coin", "codec", 11, "p").uniform(4),
        one.stream("coin", "codec", 1, "q").uniform(4),
        one.stream("coin", "code", "c1", "p").uniform(4),
        secret(8).stream("coin", "codec", 1, "p").uniform(4),
    ]
    assert all(not np.array_equal(first, other) for other in others)
    assert np.array_equal(first, secret().stream("coin", "codec", 1, "p").uniform(4))
    with pytest.raises(PrivacyError, match="twice"):
        one.stream("coin", "codec", 1, "p")


def test_a_secret_comes_from_the_system_and_is_neither_shown_nor_stored():
    first, second = RoundSecret.drawn(), RoundSecret.drawn()
    assert first.stream("a").seed() != second.stream("a").seed()
    assert repr(first) == "RoundSecret(...)"
    with pytest.raises(TypeError, match="never stored"):
        pickle.dumps(first)
    with pytest.raises(ValueError, match="32 bytes"):
        RoundSecret(b"short")


def test_a_secret_does_not_work_in_a_copied_process(monkeypatch):
    one = secret()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(PrivacyError, match="another process"):
        one.stream("noise")


def test_every_patient_takes_part_at_the_sampling_rate_by_a_coin_of_their_own():
    patients = [f"p{i}" for i in range(20)]
    rate, steps = 0.3, 500
    one = secret()
    counts = [len(drawn_patients(patients, rate, one, "codec", step)) for step in range(steps)]
    assert stats.binomtest(sum(counts), steps * len(patients), rate).pvalue > SIGNIFICANCE
    # Batches of a fixed size would have no spread; independent coins have that of a binomial.
    assert 0.8 < np.var(counts) / (len(patients) * rate * (1 - rate)) < 1.2
    assert 0 in [len(drawn_patients(patients, 0.02, secret(9), "codec", step)) for step in range(20)]


def test_another_patient_changes_nobody_elses_coin():
    patients = [f"p{i}" for i in range(30)]
    for step in range(20):
        here = drawn_patients(patients, 0.4, secret(), "diffusion", step)
        there = drawn_patients([*patients, "new"], 0.4, secret(), "diffusion", step)
        assert [p for p in there if p != "new"] == here


def test_a_rate_of_one_draws_everybody():
    assert drawn_patients(["a", "b"], 1.0, secret(), "codec", 0) == ["a", "b"]
