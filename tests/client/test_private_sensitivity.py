"""One patient more, less or exchanged, on the path of an order: files, latents, draws, clipping, reply.

The noise is taken off by the tests (that it is there, and how much, is tested elsewhere) and the round's
secret is fixed, so that two runs differ by the patient and by nothing else.
"""

import dataclasses
import itertools
import shutil

import pytest
import torch

from client.private import private_step
from client.private.secret_stream import RoundSecret
from common.artifact import digest_of_tensors
from common.federation.learning_rate import learning_rate_at
from common.federation.messages import TrainReport
from common.federation.stage import Stage
from common.study_networks import shaped_codec
from server.collect import Collector
from server.state import start_from_public
from tests.small_federation import (
    GRADIENT_CODEC,
    PRIVATE,
    PRIVATE_CODEC,
    Federation,
    private_codec_study,
    private_study,
    public_state,
    write_volumes,
)

VOLUMES = (1, 2, 3, 4, 5)  # of patients 0 to 4
NEWCOMER = 5  # has three volumes, and stands in for patient 2 in the swap
CLIP_NORM = 0.01  # so small that every patient is clipped
TOLERANCE = 1e-5
SCHEDULE = {"rounds": 2, "local_steps": 1, "learning_rate": 1.0}


@pytest.fixture(scope="module", params=["diffusion", "codec"])
def stage(request):
    return request.param


@pytest.fixture(scope="module")
def public(stage):
    return public_state(**(GRADIENT_CODEC if stage == "codec" else {}))


@pytest.fixture(scope="module")
def exams(tmp_path_factory):
    """Files by patient."""
    files = sorted(write_volumes(tmp_path_factory.mktemp("exams") / "all", 18, 1).iterdir())
    source = iter(files)
    return {patient: list(itertools.islice(source, num)) for patient, num in enumerate((*VOLUMES, 3))}


@pytest.fixture(scope="module")
def study(public, stage):
    # Everybody is drawn: coins are tested elsewhere, and here they would hide the patient in question.
    settings = {"sampling_rate": 1.0, "clip_norm": CLIP_NORM, "noise_multiplier": 4.0}
    if stage == "codec":
        codec = PRIVATE_CODEC | settings | {"where": ""}
        return private_codec_study(public, ("a",), stage=codec, codec__training=SCHEDULE)
    return private_study(public, ("a",), diffusion__training=SCHEDULE, stage=PRIVATE | settings)


def data_of(folder, exams, patients):
    """Write a site's folder with these patients and its table."""
    folder.mkdir(parents=True)
    rows = ["file,patient"]
    for patient in patients:
        for file in exams[patient]:
            shutil.copy(file, folder)
            rows.append(f"{file.name},patient-{patient}")
    (folder / "patients.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def run(tmp_path, exams, study, public, monkeypatch):
    """Return a function from patients to the sum before the noise, and the reply."""
    sums = []

    def bare(total, deviation, stream):
        sums.append(total.clone())
        return total

    monkeypatch.setattr(private_step, "noised", bare)
    monkeypatch.setattr(RoundSecret, "drawn", classmethod(lambda cls: cls(bytes(range(32)))))

    def on(patients, change=lambda order: order):
        sums.clear()
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        federation = Federation(folder, study, {"a": data_of(folder / "data", exams, patients)})
        federation.store.save(start_from_public(public, study))
        state = federation.store.load_newest()
        collector = Collector(study, federation.transport, federation.log, "run", federation.heads)
        order = change(collector.orders(state, ["a"], 1)["a"])
        reply = federation.sites["a"].execute(order)
        assert isinstance(reply, TrainReport), reply
        return torch.cat([total.flatten() for total in sums]), reply

    return on


def trained(value):
    """Return a change of order whose trained tensors have ``value`` everywhere."""

    def change(order):
        everywhere = {name: torch.full_like(tensor, value) for name, tensor in order.parameters.items()}
        return dataclasses.replace(order, parameters=everywhere)

    return change


def broken_frozen(value):
    """Return a change of order whose frozen denoiser has ``value`` in every weight."""

    def change(order):
        frozen = {
            name: torch.full_like(tensor, value) if name.startswith("denoiser.") else tensor
            for name, tensor in order.frozen.items()
        }
        return dataclasses.replace(order, frozen=frozen, frozen_digest=digest_of_tensors(frozen))

    return change


CHANGES = {
    "as they are": lambda order: order,
    "huge": trained(1e15),
    "beyond all numbers": trained(3e38),
    "frozen huge": broken_frozen(1e12),
    "frozen beyond all numbers": broken_frozen(3e38),
}


def fields_without_noise(reply):
    tensors = {name: (tensor.shape, tensor.dtype) for name, tensor in reply.parameters.items()}
    rest = (reply.study_digest, reply.site, reply.stage, reply.round_index, reply.steps, reply.seconds)
    return tensors, rest, dict(reply.metrics), reply.ledger.start, len(reply.ledger.bodies)


@pytest.mark.parametrize("weights", CHANGES)
@pytest.mark.parametrize("patient", range(len(VOLUMES)))
def test_one_patient_less_moves_the_sum_by_at_most_the_clip_norm(run, patient, weights):
    everyone = list(range(len(VOLUMES)))
    total, reply = run(everyone, CHANGES[weights])
    without, other = run([p for p in everyone if p != patient], CHANGES[weights])
    assert float((total - without).norm()) <= CLIP_NORM * (1 + TOLERANCE)
    assert fields_without_noise(reply) == fields_without_noise(other)


@pytest.mark.parametrize("weights", CHANGES)
def test_one_patient_for_another_moves_it_by_at_most_twice_that(run, weights):
    total, reply = run([0, 1, 2, 3, 4], CHANGES[weights])
    swapped, other = run([0, 1, NEWCOMER, 3, 4], CHANGES[weights])
    assert float((total - swapped).norm()) <= 2 * CLIP_NORM * (1 + TOLERANCE)
    assert fields_without_noise(reply) == fields_without_noise(other)


def test_the_bound_is_reached_so_that_a_larger_step_would_be_seen(run):
    # The sum of one patient is that patient's clipped gradient: of norm C where gradients are larger.
    total, _ = run([4])
    assert float(total.norm()) == pytest.approx(CLIP_NORM, rel=1e-6)
    nobody_finite, _ = run([0, 4], CHANGES["beyond all numbers"])
    assert float(nobody_finite.abs().max()) == 0


def test_the_reply_holds_the_sum_and_nothing_beside_it(run, study, public):
    total, reply = run([0, 1, 2, 3, 4])
    opening = start_from_public(public, study)
    is_codec = opening.stage is Stage.CODEC
    names = (
        [f"codec.{n}" for n, _ in shaped_codec(study).named_parameters()] if is_codec else opening.denoiser
    )
    before, schedule = opening.trained, study.codec.training if is_codec else study.diffusion.training
    moved = torch.cat([(before[n] - reply.parameters[n]).double().flatten() for n in names])
    expected = total / study.private_plans[opening.stage].nominal_batch * learning_rate_at(0, schedule)
    largest = max(float(before[n].abs().max()) for n in names)
    rounding = 2 * torch.finfo(torch.float32).eps * largest  # of parameters, which are float32
    assert float(expected.abs().max()) > 20 * rounding
    torch.testing.assert_close(moved, expected, rtol=0, atol=rounding)
    assert all(torch.equal(before[n], reply.parameters[n]) for n in before if n not in names)  # buffers
