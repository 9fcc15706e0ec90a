"""The private round on the real site: paid first, said little, answered once."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from client import private_round
from client.admission import PolicyError, check_admitted
from client.checkup import checkup
from client.cohort import SmallCohortError
from client.policy import Policy
from client.private.ledger import Ledger
from client.private_tasks import private_task
from client.progress import ProgressFile
from client.site import Site
from common.artifact import digest_of_tensors
from common.errors import ConfigError, ErrorCode
from common.federation.messages import FailureReport, TrainReport
from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from common.privacy.ledger_format import GENESIS, Commit, Reserve
from server.collect import Collector
from server.state import initial_state
from tests.small_federation import (
    GRADIENT_CODEC,
    PRIVATE,
    PRIVATE_CODEC,
    Federation,
    opened,
    private_codec_study,
    private_study,
    public_state,
    small_study,
)


@pytest.fixture
def federation(tmp_path, data, public):
    return opened(tmp_path / "run", private_study(public), data, public)


def order_to_a(federation, state=None, **changes):
    collector = Collector(
        federation.study, federation.transport, federation.log, "small-run", federation.heads
    )
    order = collector.orders(state or federation.store.load_newest(), ["a"], 1)["a"]
    return dataclasses.replace(order, **changes)


def ledger_of(federation, name="a") -> Ledger:
    return Ledger(federation.sites[name].config.policy.ledger)


def test_a_reply_holds_the_trained_tensors_a_proof_and_nothing_else(federation):
    order = order_to_a(federation)
    reply = federation.sites["a"].execute(order)
    assert isinstance(reply, TrainReport)
    assert reply.parameters.keys() == order.parameters.keys()
    assert all(".up." in name or ".down." in name for name in reply.parameters)
    assert (reply.metrics, reply.seconds, reply.steps) == ({}, 0.0, 2)
    assert reply.ledger is not None
    assert reply.ledger.start == GENESIS
    assert len(reply.ledger.bodies) == 2  # RESERVE and COMMIT
    moved = [not torch.equal(reply.parameters[name], order.parameters[name]) for name in order.parameters]
    assert all(moved)


def test_the_reservation_says_what_is_run(federation):
    federation.sites["a"].execute(order_to_a(federation))
    reserve, commit = ledger_of(federation).entries()
    assert isinstance(reserve, Reserve)
    assert isinstance(commit, Commit)
    plan = federation.study.private_plans[Stage.DIFFUSION]
    assert reserve.event == plan.event_of(1)
    assert (reserve.event.sampling_rate, reserve.event.noise_multiplier, reserve.event.steps) == (0.5, 3.0, 2)
    assert reserve.clip_norm == plan.clip_norm
    assert reserve.order.study == federation.study.digest
    assert (reserve.order.run, reserve.order.stage, reserve.order.round_index) == (
        "small-run",
        "diffusion",
        1,
    )


def test_the_same_order_gets_the_same_bytes_also_from_another_process_and_is_not_charged(federation):
    order = order_to_a(federation)
    first = federation.sites["a"].execute(order)
    spent = ledger_of(federation).spent(1e-5)
    restarted = Site(federation.sites["a"].config, federation.study, on_step=lambda *_: None)
    again = restarted.execute(order)
    assert first.parameters.keys() == again.parameters.keys()
    assert all(torch.equal(first.parameters[n], again.parameters[n]) for n in first.parameters)
    assert (
        ledger_of(federation).spent(1e-5)
        == spent
        == epsilon([federation.study.private_plans[Stage.DIFFUSION].event_of(1)], 1e-5)
    )


def test_an_order_from_another_model_is_another_order_with_other_noise(federation):
    order = order_to_a(federation)
    changed = {n: t + 1e-7 * (n == next(iter(order.parameters))) for n, t in order.parameters.items()}
    first = federation.sites["a"].execute(order)
    second = federation.sites["a"].execute(dataclasses.replace(order, parameters=changed))
    assert len([e for e in ledger_of(federation).entries() if isinstance(e, Reserve)]) == 2
    name = next(n for n in order.parameters if ".up." in n)
    assert not torch.equal(first.parameters[name], second.parameters[name])


def test_training_touches_no_patient_before_the_reservation(federation, monkeypatch):
    site = federation.sites["a"]
    seen = []

    def watch(*args, **kwargs):
        seen.append([type(entry).__name__ for entry in ledger_of(federation).entries()])
        raise RuntimeError("patient SECRET-7 could not be read")

    monkeypatch.setattr("client.latent_store.LatentStore.latents", watch)
    assert site.execute(order_to_a(federation)) == FailureReport("a", ErrorCode.INTERNAL)
    assert seen == [["Reserve"]]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(28, "full"), ErrorCode.INTERNAL),
        (torch.OutOfMemoryError("memory"), ErrorCode.INTERNAL),
        (ValueError("volume of SECRET-7"), ErrorCode.INTERNAL),
        (ConfigError("a setting"), ErrorCode.CONFIG),
    ],
)
def test_what_patients_can_decide_has_one_code(federation, monkeypatch, fault, told):
    def fail(*args, **kwargs):
        raise fault

    monkeypatch.setattr("client.latent_store.LatentStore.latents", fail)
    assert federation.sites["a"].execute(order_to_a(federation)) == FailureReport("a", told)


def test_a_round_that_is_lost_after_its_reservation_stays_charged(federation, monkeypatch):
    site, order = federation.sites["a"], order_to_a(federation)
    with monkeypatch.context() as context:
        context.setattr(private_round, "report_to_bytes", lambda _: 1 / 0)
        assert site.execute(order) == FailureReport("a", ErrorCode.INTERNAL)
    assert isinstance(site.execute(order), TrainReport)
    plan = federation.study.private_plans[Stage.DIFFUSION]
    assert ledger_of(federation).spent(1e-5) == epsilon([plan.event_of(2)], 1e-5)


def test_rounds_beyond_those_the_study_pays_for_are_refused(federation, monkeypatch):
    site, order = federation.sites["a"], order_to_a(federation)
    with monkeypatch.context() as context:
        context.setattr(private_round, "report_to_bytes", lambda _: 1 / 0)
        for _ in range(2 + PRIVATE["spare_rounds"]):
            assert site.execute(order) == FailureReport("a", ErrorCode.INTERNAL)
    assert site.execute(order) == FailureReport("a", ErrorCode.BUDGET)
    # A new name of the run does not buy the study another set of rounds.
    renamed = dataclasses.replace(order, run="another-run")
    assert site.execute(renamed) == FailureReport("a", ErrorCode.BUDGET)


def policy_of(federation, **changes):
    return federation.sites["a"].config.policy.model_copy(update=changes)


@pytest.mark.parametrize(
    "changes", [{"epsilon": None, "ledger": None}, {"epsilon": 1.0}], ids=["no cap", "a lower cap"]
)
def test_a_policy_that_does_not_allow_the_study_is_kept(federation, changes, caplog):
    config = federation.sites["a"].config.model_copy(update={"policy": policy_of(federation, **changes)})
    site = Site(config, federation.study, on_step=lambda *_: None)
    with caplog.at_level(logging.ERROR, "fedvox.site"):
        assert site.execute(order_to_a(federation)) == FailureReport("a", ErrorCode.CONFIG)
    assert "policy" in caplog.text
    assert ledger_of(federation).entries() == []


def test_the_cap_holds_at_the_sites_own_delta(federation):
    study = federation.study
    assert study.privacy.epsilon == 20
    assert study.privacy.delta == 1e-5
    event = study.private_plans[Stage.DIFFUSION].event
    same, smaller = epsilon([event], 1e-5), epsilon([event], 1e-9)
    for cap, delta, refused in (
        (same, 1e-5, False),
        (same * 0.999, 1e-5, True),
        (same, 1e-9, True),
        (smaller, 1e-9, False),
    ):
        config = federation.sites["a"].config
        policy = policy_of(federation, epsilon=cap, delta=delta)
        if refused:
            with pytest.raises(PolicyError, match=r"may spend epsilon"):
                check_admitted(config.model_copy(update={"policy": policy}), study)
        else:
            check_admitted(config.model_copy(update={"policy": policy}), study)


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ({}, False),
        ({"require_privacy": True}, True),
        ({"epsilon": 3, "ledger": "ledger"}, True),
        ({"epsilon": 3, "ledger": "ledger", "require_privacy": False}, False),
    ],
)
def test_a_site_with_a_ledger_refuses_studies_that_are_in_none(tmp_path, data, policy, refused):
    study = small_study(("a",))
    federation = Federation(tmp_path / "run", study, {"a": data["a"]})
    config = federation.sites["a"].config.model_copy(update={"policy": Policy.model_validate(policy)})
    order = order_to_a(federation, initial_state(study))
    reply = Site(config, study, on_step=lambda *_: None).execute(order)
    assert (reply == FailureReport("a", ErrorCode.CONFIG)) is refused
    assert isinstance(reply, TrainReport) is not refused


def test_a_private_study_needs_somebody_who_says_whose_the_exams_are(federation):
    config = federation.sites["a"].config.model_copy(update={"one_exam_per_patient": False})
    site = Site(config, federation.study, on_step=lambda *_: None)
    assert site.execute(order_to_a(federation)) == FailureReport("a", ErrorCode.CONFIG)
    assert ledger_of(federation).entries() == []


def spoiled(tensors, value):
    """The tensors with one number of one of them replaced."""
    name = next(name for name in tensors if name.startswith("codec."))
    changed = tensors[name].clone()
    changed.view(-1)[0] = value
    return {**tensors, name: changed}


def broken_orders(order):
    """Orders that no honest server sends; each would otherwise cost the site a round."""
    name, tensor = next(iter(order.parameters.items()))

    def with_parameters(**changes):
        return dataclasses.replace(order, parameters={**order.parameters, **changes})

    def with_frozen(frozen):
        return dataclasses.replace(order, frozen=frozen, frozen_digest=digest_of_tensors(frozen))

    return {
        "a tensor more": with_parameters(more=torch.zeros(3)),
        "a frozen one among the trained": with_parameters(
            **{n.removeprefix("denoiser."): t for n, t in order.frozen.items() if n.endswith("out.weight")},
            another=torch.zeros(1),
        ),
        "a tensor less": dataclasses.replace(
            order, parameters={n: t for n, t in order.parameters.items() if n != name}
        ),
        "another shape": with_parameters(**{name: tensor[None]}),
        "another dtype": with_parameters(**{name: tensor.double()}),
        "not a number": with_parameters(**{name: torch.full_like(tensor, float("nan"))}),
        "a frozen one less": with_frozen(dict(list(order.frozen.items())[1:])),
        "a frozen one more": with_frozen({**order.frozen, "codec.more": torch.zeros(3)}),
        "a frozen one that is no number": with_frozen(spoiled(order.frozen, float("nan"))),
        "a frozen one that is infinite": with_frozen(spoiled(order.frozen, float("inf"))),
        "a codebook of one code": with_frozen(
            {n: torch.ones_like(t) if "quantizer" in n else t for n, t in order.frozen.items()}
        ),
        "frozen ones that are not sent": dataclasses.replace(order, frozen={}),
        "frozen ones of another digest": dataclasses.replace(order, frozen_digest="0" * 64),
    }


def test_an_order_that_does_not_fit_costs_nothing(federation):
    for what, broken in broken_orders(order_to_a(federation)).items():
        reply = federation.sites["a"].execute(broken)
        assert isinstance(reply, FailureReport), what
        assert ledger_of(federation).entries() == [], what
    assert isinstance(federation.sites["a"].execute(order_to_a(federation)), TrainReport)


def test_a_table_without_the_classes_that_a_study_conditions_on_costs_nothing(tmp_path, data, public):
    condition = {"kind": "class", "num_classes": 2}
    opening = public_state(diffusion__model__condition=condition)
    study = private_study(opening, ("a",), diffusion__model__condition=condition)
    federation = opened(tmp_path / "run", study, data, opening)
    assert federation.sites["a"].execute(order_to_a(federation)) == FailureReport("a", ErrorCode.INTERNAL)
    assert ledger_of(federation).entries() == []


def test_the_same_order_at_the_same_time_is_computed_once(federation):
    order = order_to_a(federation)
    sites = [Site(federation.sites["a"].config, federation.study, on_step=lambda *_: None) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda site: site.execute(order), sites))
    assert all(isinstance(reply, TrainReport) for reply in replies), replies
    for name in order.parameters:
        assert all(torch.equal(replies[0].parameters[name], reply.parameters[name]) for reply in replies)
    assert [type(entry) for entry in ledger_of(federation).entries()] == [Reserve, Commit]


def test_a_progress_file_that_cannot_be_written_stops_no_round(federation, tmp_path):
    site = Site(
        federation.sites["a"].config, federation.study, on_step=ProgressFile(tmp_path / "nowhere" / "p.json")
    )
    assert isinstance(site.execute(order_to_a(federation)), TrainReport)


def test_a_private_study_has_no_codec_stage_whatever_the_server_asks(federation):
    order = order_to_a(federation, stage=Stage.CODEC)
    assert federation.sites["a"].execute(order) == FailureReport("a", ErrorCode.CONFIG)
    assert ledger_of(federation).entries() == []


def test_a_codec_of_which_nothing_is_trained_is_refused_by_name():
    public = public_state(**GRADIENT_CODEC)
    study = private_codec_study(public, stage=PRIVATE_CODEC | {"where": "decodre"})
    with pytest.raises(ConfigError, match="no parameter of the codec has 'decodre'"):
        private_task(study, Stage.CODEC).example()


def test_a_head_that_the_ledger_never_had_is_refused_before_anything_is_spent(federation):
    order = order_to_a(federation, ledger_head="f" * 64)
    assert federation.sites["a"].execute(order) == FailureReport("a", ErrorCode.LEDGER)
    assert ledger_of(federation).entries() == []


def test_huge_weights_do_not_make_the_reply_anything_but_noise(federation):
    order = order_to_a(federation)
    state = federation.store.load_newest()
    huge = {n: torch.full_like(t, 1e18) for n, t in order.parameters.items()}
    reply = federation.sites["a"].execute(dataclasses.replace(order, parameters=huge))
    assert isinstance(reply, TrainReport)
    assert reply.parameters.keys() == state.denoiser.keys()


def test_no_file_of_the_site_but_the_ledger_and_caches_remains(federation):
    federation.sites["a"].execute(order_to_a(federation))
    state = federation.sites["a"].config.state
    names = {path.relative_to(state).parts[0] for path in state.rglob("*")}
    assert names == {"ledger", "latents", "cache"}
    files = {"ledger.jsonl", "heads.jsonl", "key", "lock", "order", "replies"}
    assert {path.name for path in (state / "ledger").iterdir()} == files


@pytest.mark.parametrize("digest", ["../../../elsewhere", "", "F" * 64, "a" * 63 + "/"])
def test_a_digest_that_is_a_path_names_no_folder(federation, digest):
    order = order_to_a(federation, frozen_digest=digest)
    assert federation.sites["a"].execute(order) == FailureReport("a", ErrorCode.INTERNAL)
    assert ledger_of(federation).entries() == []


def test_no_round_depends_on_how_many_patients_the_site_s_policy_wants(federation):
    """Whether a round fails would tell of one patient; the person who approves is told instead."""
    site = federation.sites["a"]
    policy = site.config.policy.model_copy(update={"min_patients": 99})
    site.config = site.config.model_copy(update={"policy": policy})
    assert isinstance(site.execute(order_to_a(federation)), TrainReport)
    with pytest.raises(SmallCohortError):
        checkup(site.config, site.study)
