"""The private step on the real networks: engines against plain autograd, sensitivity, noise, faults."""

import math

import pytest
import torch
from scipy import stats

from client.private.gradient_engines import (
    hook_gradients,
    loop_gradients,
)
from client.private.noise import GRID
from client.private.private_step import PrivateStep, clip_and_sum
from client.private.secret_stream import RoundSecret
from common.privacy.plan import PrivacyPlan
from tests.private_step_parts import (
    DRAWS,
    ENGINES,
    NUM_VOLUMES,
    denoiser,
    difference,
    loss,
    norm,
    rows_of,
    step,
)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("weights", [0.05, 20.0, 1e4, math.nan])
def test_one_patient_more_or_less_moves_the_sum_by_at_most_the_clip_norm(engine, weights):
    everyone = list(NUM_VOLUMES)
    mechanism = step(ENGINES[engine])

    def summed(patients):
        return mechanism.clipped_sum(denoiser(weights), patients, RoundSecret(bytes(32)), 0)

    whole = summed(everyone)
    for patient in everyone:
        moved = norm(difference(whole, summed([p for p in everyone if p != patient])))
        assert moved <= 0.8 * (1 + 1e-5)
    for patient in everyone[1:]:
        swapped = norm(difference(summed([everyone[0], "eve"]), summed(["eve", patient])))
        assert swapped <= 2 * 0.8 * (1 + 1e-5)
    if weights < 100:  # beyond, every gradient is infinite and everybody contributes zero
        assert norm(whole) > 0.5  # the bound is not met by doing nothing


def test_the_clip_norm_is_reached_and_not_passed_by_large_gradients():
    found = clip_and_sum({"w": torch.full((1, 10), 1e30), "v": torch.full((1, 2), -1e30)}, 2.0)
    assert norm(found) == pytest.approx(2.0, rel=1e-12)


def test_small_gradients_are_not_scaled_and_zero_stays_zero():
    found = clip_and_sum({"w": torch.tensor([[0.1, 0.2], [0.0, 0.0]])}, 2.0)
    torch.testing.assert_close(found["w"], torch.tensor([0.1, 0.2]).double())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_patient_without_a_finite_gradient_contributes_zero_and_spoils_nobody(bad):
    gradients = {"w": torch.tensor([[0.1, 0.2], [bad, 0.3], [0.3, 0.1]]), "v": torch.ones(3, 1)}
    found = clip_and_sum(gradients, 10.0)
    torch.testing.assert_close(found["w"], torch.tensor([0.4, 0.3]).double())
    assert found["v"].item() == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_poisoned_volume_spoils_no_other_patient(engine):
    def poisoned(patient, stream):
        rows = rows_of(patient, stream)
        if patient == "bob":
            rows["latent"][0] = math.inf
        return rows

    mechanism = step(ENGINES[engine], poisoned)
    without = mechanism.clipped_sum(denoiser(), ["ann", "dee"], RoundSecret(bytes(32)), 0)
    found = mechanism.clipped_sum(denoiser(), ["ann", "bob", "dee"], RoundSecret(bytes(32)), 0)
    assert norm(difference(found, without)) < 1e-5 * norm(without)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("weights", [0.05, 20.0])
def test_what_a_patient_adds_has_the_same_bits_whoever_else_is_drawn(engine, weights):
    """Kernels round a row differently in a larger batch; weights that cancel make a whole gradient of it."""
    mechanism = step(ENGINES[engine])

    def summed(*patients):
        return mechanism.clipped_sum(denoiser(weights), patients, RoundSecret(bytes(32)), 0)

    one, other, both = summed("ann"), summed("dee"), summed("ann", "dee")
    assert all(torch.equal(one[name] + other[name], both[name]) for name in both)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_row_patients_and_weights_that_cancel_stay_within_the_clip_norm(engine):
    """What an adversarial server would send: of the time embedding only rounding is left, blown up."""
    network = denoiser()
    with torch.no_grad():
        first, second = network.unet.time_embed[0], network.unet.time_embed[2]
        half = first.out_features // 2
        first.weight[half:], first.bias[half:] = first.weight[:half], first.bias[:half]
        second.weight[:, :half] *= 1e8
        second.weight[:, half:] = -second.weight[:, :half]

    def one_row(patient, stream):
        return {name: tensor[:1] for name, tensor in rows_of(patient, stream).items()}

    mechanism = step(ENGINES[engine], one_row)

    def summed(*patients):
        return mechanism.clipped_sum(network, patients, RoundSecret(bytes(32)), 0)

    everyone = ("ann", "bob", "cyd", "dee", "eve")
    for left_out in everyone:
        rest = [patient for patient in everyone if patient != left_out]
        assert norm(difference(summed(*everyone), summed(*rest))) <= 0.8 * (1 + 1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_around_the_step_changes_no_bit(engine):
    mechanism = step(ENGINES[engine])
    plain = mechanism.clipped_sum(denoiser(), ["ann", "bob"], RoundSecret(bytes(32)), 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = mechanism.clipped_sum(denoiser(), ["ann", "bob"], RoundSecret(bytes(32)), 0)
    assert all(torch.equal(plain[name], around[name]) for name in plain)


def test_nobody_drawn_never_reaches_the_network_and_is_noise_all_the_same():
    def forbidden(*_):
        raise AssertionError("the network was called for an empty draw")

    plan = PrivacyPlan(sampling_rate=0.01, nominal_patients=100, rounds=1, noise_multiplier=2.0)
    mechanism = PrivateStep(plan, "diffusion", forbidden, forbidden, forbidden)
    found = mechanism.gradient(denoiser(), [], RoundSecret(bytes(32)), 0)
    numbers = torch.cat([t.flatten() for t in found.values()]).numpy()
    assert len(numbers) >= 20_000
    assert (
        stats.kstest(numbers, stats.norm(scale=2.0 * plan.clip_norm / plan.nominal_batch).cdf).pvalue > 1e-6
    )


@pytest.mark.parametrize(("scale", "accepted"), [(1.0, True), (2 / 3, False), (3 / 2, False)])
def test_the_step_adds_noise_of_sigma_times_clip_norm_once(scale, accepted):
    """What a step returns, times q N, less the clipped sum: normal of deviation sigma C, and of no other."""
    mechanism = step(hook_gradients, sampling_rate=1.0, noise_multiplier=2.5, clip_norm=0.4)
    network = denoiser()
    private = mechanism.gradient(network, list(NUM_VOLUMES), RoundSecret(bytes(32)), 3)
    total = mechanism.clipped_sum(network, list(NUM_VOLUMES), RoundSecret(bytes(32)), 3)
    noise = torch.cat([(private[n].double() * 8 - total[n]).flatten() for n in total]).numpy()
    assert len(noise) >= 20_000
    assert (stats.kstest(noise, stats.norm(scale=scale * 1.0).cdf).pvalue > 1e-6) == accepted
    assert GRID < 1e-3


def test_the_normaliser_is_public_whoever_is_there():
    """The same gradient times q N for one patient or four: no count of patients in the divisor."""
    mechanism = step(loop_gradients, sampling_rate=1.0, noise_multiplier=1e-6)
    for patients in (["ann"], list(NUM_VOLUMES)):
        private = mechanism.gradient(denoiser(), patients, RoundSecret(bytes(32)), 0)
        total = mechanism.clipped_sum(denoiser(), patients, RoundSecret(bytes(32)), 0)
        scaled = {name: 8 * tensor.double() for name, tensor in private.items()}
        assert norm(difference(scaled, total)) < 1e-3 * norm(total)


def test_a_patient_with_many_volumes_needs_no_more_at_a_time_and_has_the_gradient_of_the_whole_mean():
    largest = []

    def watching(module, loss_of, rows, counts):
        largest.append(max(len(tensor) for tensor in rows.values()))
        return loop_gradients(module, loss_of, rows, counts)

    module = denoiser()
    made = step(watching, draws=DRAWS, clip_norm=1e6)
    found = made.clipped_sum(module, ["dee"], RoundSecret(bytes(32)), 0)
    assert largest == [DRAWS] * NUM_VOLUMES["dee"]
    stream = RoundSecret(bytes(32)).stream("draws", "diffusion", 0, "dee")
    rows = rows_of("dee", stream)
    whole = loop_gradients(module, loss, rows, [len(rows["latent"])])
    assert all(torch.allclose(found[n].float(), whole[n][0], rtol=1e-3, atol=1e-6) for n in whole)


def test_a_patient_whose_name_is_no_text_takes_part():
    """A file name in Latin-1, read on a machine that speaks UTF-8."""
    name = b"M\xfcller".decode(errors="surrogateescape")
    patients = [name, *"abcdefg"]
    assert step(sampling_rate=1.0).gradient(denoiser(), patients, RoundSecret(bytes(32)), 0)
