"""The private step on the real networks: engines against plain autograd, sensitivity, noise, faults."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from client.private.gradient_engines import (
    hook_gradients,
    loop_gradients,
    vmap_gradients,
)
from client.private.noise import GRID
from client.private.private_step import PrivateStep, clip_and_sum
from client.private.secret_stream import RoundSecret
from common.diffusion.adapters import adapt
from common.diffusion.config import ConditionConfig, DenoiserConfig, DiffusionConfig, TrainableConfig
from common.diffusion.objective import Draws, make_objective
from common.diffusion.unet import UNetDenoiser, initial_denoiser_state, load_denoiser
from common.errors import PrivacyError
from common.privacy.guard import refuse_leaks
from common.privacy.patient_gradients import trainable
from common.privacy.plan import PrivacyPlan

SMALL = DenoiserConfig(channels=(8, 16), attention=(False, True), head_channels=8)
CONFIG = DiffusionConfig(denoiser=SMALL, condition=ConditionConfig(kind="class", num_classes=2, dropout=0.2))
OBJECTIVE = make_objective(CONFIG)
ENGINES = {"loop": loop_gradients, "hooks": hook_gradients, "vmap": vmap_gradients}
NUM_VOLUMES = {"ann": 1, "bob": 3, "cyd": 2, "dee": 5}
DRAWS = 2


def denoiser(scale: float = 0.05) -> UNetDenoiser:
    """A network that has left its zero-initialised start, where most gradients are zero."""
    generator = torch.Generator().manual_seed(1)
    state = initial_denoiser_state(SMALL, 2, 2, torch.Generator().manual_seed(0))
    return load_denoiser(
        SMALL, 2, 2, {n: p + scale * torch.randn(p.shape, generator=generator) for n, p in state.items()}
    )


def loss(module, rows):
    draws = Draws(rows["time"], rows["eps"], rows["drop"])
    return OBJECTIVE.loss_at(module, rows["latent"], rows["label"], draws)


def rows_of(patient, stream):
    """Latents of a patient that depend on the name, with draws from the stream."""
    num = NUM_VOLUMES.get(patient, 2)
    content = torch.Generator().manual_seed(sum(map(ord, patient)))
    latent = torch.randn(num, 2, 4, 4, 4, generator=content).repeat_interleave(DRAWS, dim=0)
    draws = OBJECTIVE.draw(latent, torch.Generator().manual_seed(stream.seed()))
    label = torch.full((len(latent),), len(patient) % 2)
    return {"latent": latent, "label": label, "time": draws.time, "eps": draws.eps, "drop": draws.drop_label}


def gathered(patients):
    secret = RoundSecret(bytes(32))
    made = [rows_of(p, secret.stream("draws", p)) for p in patients]
    rows = {name: torch.cat([own[name] for own in made]) for name in made[0]}
    return rows, [len(own["latent"]) for own in made]


def step(engine=loop_gradients, rows=rows_of, **changes):
    usual = {
        "sampling_rate": 0.5,
        "nominal_patients": 8,
        "rounds": 4,
        "noise_multiplier": 1.5,
        "clip_norm": 0.8,
    }
    return PrivateStep(PrivacyPlan(**(usual | changes)), "diffusion", loss, rows, engine)


def norm(gradients) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in gradients.values()))


def difference(left, right):
    return {name: left[name] - right[name] for name in left}


@pytest.mark.parametrize("engine", ["hooks", "vmap"])
@pytest.mark.parametrize("clip_norm", [1e-3, 1.0, 1e3])
def test_engines_equal_the_oracle_on_the_clipped_sum(engine, clip_norm):
    rows, counts = gathered(NUM_VOLUMES)
    oracle = clip_and_sum(loop_gradients(denoiser(), loss, rows, counts), clip_norm)
    found = clip_and_sum(ENGINES[engine](denoiser(), loss, rows, counts), clip_norm)
    assert found.keys() == oracle.keys() == trainable(denoiser()).keys()
    assert norm(difference(found, oracle)) < 1e-3 * norm(oracle)


@pytest.mark.parametrize("engine", ["hooks", "vmap"])
@pytest.mark.parametrize(
    "config",
    [
        TrainableConfig(kind="lora", rank=2),
        TrainableConfig(kind="film"),
        TrainableConfig(kind="norm"),
        TrainableConfig(kind="bias"),
    ],
    ids=lambda config: config.kind,
)
def test_engines_equal_the_oracle_with_every_kind_of_adapter(engine, config):
    network = denoiser()
    trained = adapt(network, config, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name in trained:  # away from the start, where half of a low-rank pair has no gradient
            parameter = network.get_parameter(name)
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    rows, counts = gathered(NUM_VOLUMES)
    oracle = clip_and_sum(loop_gradients(network, loss, rows, counts), 0.05)
    found = clip_and_sum(ENGINES[engine](network, loss, rows, counts), 0.05)
    assert tuple(found) == trained
    assert norm(difference(found, oracle)) < 1e-3 * norm(oracle)
    assert norm(oracle) > 0.05
    refuse_leaks(network, loss, {name: tensor[:3] for name, tensor in rows.items()}, ENGINES[engine])


@pytest.mark.parametrize("engine", ENGINES)
def test_all_rows_of_a_patient_are_one_mean(engine):
    """Three volumes times two draws equal autograd of the mean of the six."""
    rows, counts = gathered(["bob"])
    assert counts == [6]
    network = denoiser()
    loss(network, rows).mean().backward()
    found = ENGINES[engine](denoiser(), loss, rows, counts)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name][0], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_leave_the_network_as_it_was(engine):
    network = denoiser()
    before = {name: p.clone() for name, p in network.state_dict().items()}
    ENGINES[engine](network, loss, *gathered(["ann", "bob"]))
    assert all(torch.equal(before[name], p) for name, p in network.state_dict().items())
    for parameter in network.parameters():
        assert parameter.grad is None
        assert getattr(parameter, "grad_sample", None) is None
    loss(network, gathered(["ann"])[0]).sum().backward()  # no hook is left behind
    assert all(getattr(p, "grad_sample", None) is None for p in network.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_have_no_gradient(engine):
    network = denoiser()
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("bias" in name)
    found = ENGINES[engine](network, loss, *gathered(["ann", "bob"]))
    assert found.keys() == {name for name, _ in network.named_parameters() if "bias" in name}
    oracle = loop_gradients(denoiser(), loss, *gathered(["ann", "bob"]))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, oracle[name], rtol=1e-3, atol=1e-5)


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


def test_a_pass_that_failed_leaves_nothing_to_the_next_patient():
    """A layer used twice, and a failure between its two backward passes, as when memory runs out."""

    class Failing(torch.autograd.Function):
        fails = True

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            if Failing.fails:
                raise RuntimeError("out of memory")
            return gradient

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(Failing.apply(self.layer(x)))

    def sum_of(module, rows):
        return module(rows["x"]).sum(dim=1)

    torch.manual_seed(0)
    module, rows = Twice(), {"x": torch.randn(1, 3)}
    with pytest.raises(RuntimeError, match="out of memory"):
        hook_gradients(module, sum_of, {"x": torch.randn(1, 3)}, [1])
    Failing.fails = False
    found, oracle = hook_gradients(module, sum_of, rows, [1]), loop_gradients(module, sum_of, rows, [1])
    for name in oracle:
        torch.testing.assert_close(found[name], oracle[name])


class OffThePath(nn.Module):
    """Layers whose inputs no row's gradient flows to: a constant's, an index', a frozen layer's."""

    def __init__(self):
        super().__init__()
        self.frozen, self.last = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 2)
        self.of_constant, self.of_index = nn.Linear(2, 2), nn.Embedding(5, 2)
        self.after_index = nn.Linear(2, 2)
        self.scale = nn.LayerNorm(2)

    def forward(self, x, index):
        constant = self.of_constant(torch.ones(len(x), 2))
        looked_up = self.after_index(self.of_index(index))
        return self.scale(self.last(self.frozen(x).detach()) + constant * looked_up)


def test_hooks_see_layers_that_no_row_s_gradient_flows_to():
    torch.manual_seed(0)
    module, rows = OffThePath(), {"x": torch.randn(6, 3), "index": torch.tensor([0, 4, 2, 2, 1, 0])}

    def square(network, own):
        return network(own["x"], own["index"]).square().sum(dim=1)

    found, oracle = (engine(module, square, rows, [1, 3, 2]) for engine in (hook_gradients, loop_gradients))
    assert found.keys() == oracle.keys()
    for name in oracle:
        assert float(oracle[name].abs().max()) > 1e-4
        torch.testing.assert_close(found[name], oracle[name])


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


def test_a_layer_that_mixes_rows_is_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x.reshape(-1, 3)).reshape(len(x), -1)

    def sum_of(module, rows):
        return module(rows["x"]).sum(dim=1)

    with pytest.raises(PrivacyError, match="each of 4 rows"):
        hook_gradients(Mixing(), sum_of, {"x": torch.randn(4, 2, 3)}, [2, 2])
    # vmap is right there: the oracle says so.
    found, oracle = (
        engine(Mixing().requires_grad_(), sum_of, {"x": torch.ones(4, 2, 3)}, [2, 2])
        for engine in (vmap_gradients, loop_gradients)
    )
    torch.testing.assert_close(found["linear.weight"], oracle["linear.weight"])


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
