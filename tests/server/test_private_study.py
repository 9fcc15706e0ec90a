"""A private study from its public model to its end: sums, proofs, budgets, rollbacks."""

import dataclasses
import json
import shutil

import pytest
import torch

from client.private.ledger import Ledger
from client.site import Site
from common.errors import BudgetError, ErrorCode, LedgerError, QuorumError
from common.federation.messages import FailureReport, TrainReport
from common.federation.stage import Stage
from common.privacy.accountant import epsilon
from common.privacy.ledger_format import Reserve
from server.promise import Books, promise
from server.released_model import released_model
from server.state import start_from_public
from server.transport import Exchange
from tests.small_federation import (
    GRADIENT_CODEC,
    PRIVATE,
    Federation,
    opened,
    private_codec_study,
    private_study,
    public_state,
    small_study,
)


def events(federation):
    return [json.loads(line) for line in federation.log.path.read_text().splitlines()]


def reserved(federation, name="a"):
    entries = Ledger(federation.sites[name].config.policy.ledger).entries()
    return [entry for entry in entries if isinstance(entry, Reserve)]


def test_a_private_study_runs_to_its_end_and_spends_what_it_says(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public), data, public)
    state = federation.run()
    plan = federation.study.private_plans[Stage.DIFFUSION]
    assert (state.round_index, state.ended) == (2, False)
    for name in ("a", "b"):
        ledger = Ledger(federation.sites[name].config.policy.ledger)
        assert ledger.spent(1e-5) == epsilon([plan.event_of(2)], 1e-5)
        assert federation.heads.last(name) in {*_heads(ledger)}
    log = events(federation)
    assert [e["event"] for e in log] == [
        "run_started",
        *["round_finished"] * 2,
        "stage_finished",
        "run_finished",
    ]
    assert all(
        site["metrics"] == {} and site["seconds"] == 0 for e in log[1:3] for site in e["sites"].values()
    )
    model = released_model(federation.study, state, torch.device("cpu"))
    assert model.digest == state.model_digest != public.model_digest


def _heads(ledger):
    return [
        line["head"] for line in map(json.loads, (ledger.folder / "ledger.jsonl").read_text().splitlines())
    ]


def test_before_the_first_round_the_released_model_is_the_public_one(public):
    study = private_study(public)
    state = start_from_public(public, study)
    opened_model = released_model(study, state, torch.device("cpu")).denoiser
    latents = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([0.2, 0.7])
    public_study = small_study(("public",))
    with torch.no_grad():
        was = released_model(public_study, public, torch.device("cpu")).denoiser(latents, time, None)
        # The same function, in other layers: on some processors the last digits differ.
        assert torch.allclose(opened_model(latents, time, None), was, rtol=1e-5, atol=1e-5)
    assert sum(t.numel() for t in state.denoiser.values()) < sum(t.numel() for t in public.denoiser.values())


def test_what_is_not_trained_is_the_same_at_the_end_bit_by_bit(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public), data, public)
    start, end = federation.store.load_newest(), federation.run()
    assert start.denoiser_frozen.keys() == end.denoiser_frozen.keys()
    assert all(torch.equal(start.denoiser_frozen[n], end.denoiser_frozen[n]) for n in end.denoiser_frozen)
    assert start.frozen_digest == end.frozen_digest


def test_a_server_that_lost_its_last_round_gets_the_same_replies_for_nothing(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public), data, public)
    end = federation.run()
    shutil.rmtree(federation.store.folder / "diffusion-0002")
    again = federation.run()
    assert all(torch.equal(end.denoiser[n], again.denoiser[n]) for n in end.denoiser)
    assert len(reserved(federation)) == 2


class Losing:
    """Loses the replies of ``site`` the first ``times`` times, after the site made them."""

    def __init__(self, federation, site, times):
        self.federation, self.site, self.left = federation, site, times

    def exchange(self, orders, deadline_s):
        reports = list(self.federation.transport.exchange(orders, deadline_s).reports)
        if self.left:
            self.left -= 1
            reports = [report for report in reports if report.site != self.site]
        return Exchange(reports, 0, 0)


def test_a_reply_that_was_lost_on_its_way_is_sent_again_uncharged(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public), data, public)
    state = federation.run(Losing(federation, "b", 1))
    assert state.round_index == 2
    assert len(reserved(federation, "b")) == 2


def test_a_site_whose_budget_is_spent_ends_the_stage_with_the_last_model(tmp_path, data, public):
    study = private_study(public, diffusion__training={"rounds": 3, "local_steps": 2})
    federation = opened(tmp_path / "run", study, data, public)
    # Its own cap allows two rounds of the three that the study has.
    site = federation.sites["b"]
    cap = study.privacy.epsilon
    ledger = Ledger(site.config.policy.ledger)
    spent = {"b": 0}

    class Crashing:
        def exchange(self, orders, deadline_s):
            reports = []
            for order in orders:
                if order.site == "b" and order.round_index == 2:
                    spent["b"] += 1
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr("client.private_round.report_to_bytes", lambda _: 1 / 0)
                        reports.append(site.execute(order))
                else:
                    reports.append(federation.sites[order.site].execute(order))
            return Exchange(reports, 0, 0)

    with pytest.raises(QuorumError):
        federation.run(Crashing())
    with pytest.raises(QuorumError):
        federation.run(Crashing())
    state = federation.run(Crashing())
    assert (state.round_index, state.ended) == (1, True)
    assert len(reserved(federation, "b")) == 3 + PRIVATE["spare_rounds"]
    assert ledger.spent(1e-5) <= cap
    names = [e["event"] for e in events(federation)]
    assert names[-3:] == ["budget_spent", "stage_finished", "run_finished"]
    assert federation.store.load_newest().ended
    again = federation.run()
    assert (again.round_index, again.ended) == (1, True)


class Refusing:
    """Every site says that its budget is spent."""

    def exchange(self, orders, deadline_s):
        return Exchange([FailureReport(order.site, ErrorCode.BUDGET) for order in orders], 0, 0)


def test_a_run_in_which_no_round_was_paid_for_is_no_trained_model(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public), data, public)
    with pytest.raises(BudgetError):
        federation.run(Refusing())
    assert not federation.store.load_newest().ended
    assert "run_finished" not in [e["event"] for e in events(federation)]
    assert federation.run().round_index == 2  # the sites may have a larger cap by then


def test_a_site_cannot_end_a_study_that_costs_it_no_budget(tmp_path, data):
    federation = Federation(tmp_path / "run", small_study(), data)
    with pytest.raises(QuorumError):
        federation.run(Refusing())
    assert federation.store.load_newest() is None


def test_a_run_that_lost_its_record_of_the_ledgers_does_not_go_on_without(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public), data, public)

    class Stop(Exception):
        pass

    def stop(state):
        raise Stop

    with pytest.raises(Stop):
        federation.run(after_round=stop)
    (tmp_path / "run" / "ledger_heads.json").unlink()
    with pytest.raises(LedgerError, match="lost its record"):
        federation.run()


def test_a_site_without_budget_is_passed_over_where_the_study_can_do_without(tmp_path, data, public):
    study = private_study(public, federation={"sites": ["a", "b"], "min_sites": 1})
    federation = opened(tmp_path / "run", study, data, public)
    config = federation.sites["b"].config
    site = Site(config, study, on_step=lambda *_: None)
    site._private_rounds(Stage.DIFFUSION).plan = study.private_plans[Stage.DIFFUSION].model_copy(
        update={"rounds": 1, "spare_rounds": 0}
    )
    federation.sites["b"] = site
    federation.transport.sites = federation.sites
    state = federation.run()
    assert (state.round_index, state.ended) == (2, False)
    assert any(e["event"] == "site_failed" and e["code"] == "E_BUDGET" for e in events(federation))


def test_a_rolled_back_ledger_is_refused(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public, ("a",)), data, public)
    ledger = federation.sites["a"].config.policy.ledger
    copy = tmp_path / "copy"
    shutil.copytree(ledger, copy)

    class Stop(Exception):
        pass

    def stop(state):
        raise Stop

    with pytest.raises(Stop):
        federation.run(after_round=stop)
    shutil.rmtree(ledger)
    shutil.copytree(copy, ledger)
    with pytest.raises(QuorumError):
        federation.run()
    assert any(e.get("code") == "E_LEDGER" for e in events(federation))
    assert Ledger(ledger).entries() == []


class Forging:
    """Changes the reports of site a on their way."""

    def __init__(self, federation, change):
        self.federation, self.change = federation, change

    def exchange(self, orders, deadline_s):
        reports = self.federation.transport.exchange(orders, deadline_s).reports
        return Exchange([self.change(r) if r.site == "a" else r for r in reports], 0, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: dataclasses.replace(r, metrics={"loss": 0.1}), "holds metrics or a time"),
        (lambda r: dataclasses.replace(r, seconds=1.0), "holds metrics or a time"),
        (lambda r: dataclasses.replace(r, ledger=None), "proof is missing"),
        (lambda r: dataclasses.replace(r, steps=r.steps + 1), "steps, the study makes"),
        (
            lambda r: dataclasses.replace(r, parameters={n: t + 1e4 for n, t in r.parameters.items()}),
            "tensors moved by",
        ),
        (
            lambda r: dataclasses.replace(r, ledger=dataclasses.replace(r.ledger, head="e" * 64)),
            "does not lead",
        ),
    ],
)
def test_the_server_refuses_private_reports_that_hold_more_or_prove_less(
    tmp_path, data, public, change, reason
):
    federation = opened(tmp_path / "run", private_study(public), data, public)
    with pytest.raises(QuorumError):
        federation.run(Forging(federation, change))
    refused = [e for e in events(federation) if e["event"] == "report_rejected"]
    assert refused
    assert all(reason in e["reason"] for e in refused)


def test_a_private_codec_is_trained_first_and_both_stages_share_the_promise(tmp_path, data):
    public = public_state(**GRADIENT_CODEC)
    study = private_codec_study(public)
    assert [stage.value for stage in study.private_plans] == ["codec", "diffusion"]
    federation = opened(tmp_path / "run", study, data, public)
    opening = federation.store.load_newest()
    assert (opening.stage, opening.codec.keys()) == (Stage.CODEC, {f"codec.{n}" for n in public.frozen_codec})
    state = federation.run()
    assert (state.stage, state.round_index, state.ended) == (Stage.DIFFUSION, 2, False)
    moved = {n for n in opening.codec if not torch.equal(opening.codec[n], state.codec[n])}
    assert moved
    assert all("decoder" in name for name in moved)  # the part that the study trains
    assert all(
        torch.equal(opening.denoiser_frozen[n], state.denoiser_frozen[n]) for n in state.denoiser_frozen
    )
    plans = study.private_plans
    events = [plans[Stage.CODEC].event_of(2), plans[Stage.DIFFUSION].event_of(2)]
    for name in ("a", "b"):
        entries = reserved(federation, name)
        assert [entry.order.stage for entry in entries] == ["codec"] * 2 + ["diffusion"] * 2
        ledger = Ledger(federation.sites[name].config.policy.ledger)
        assert ledger.spent(1e-5) == pytest.approx(epsilon(events, 1e-5))
    assert epsilon(study.private_events, 1e-5) <= study.privacy.epsilon
    said = promise(study, Books())
    assert {name: stage["steps_paid_for"] for name, stage in said["stages"].items()} == {
        "codec": 3,
        "diffusion": 8,
    }


def test_a_codec_stage_without_budget_goes_on_with_the_codec_that_there_is(tmp_path, data):
    public = public_state(**GRADIENT_CODEC)
    federation = opened(tmp_path / "run", private_codec_study(public, ("a",)), data, public)
    site = federation.sites["a"]
    codec = site._private_rounds(Stage.CODEC)
    codec.plan = codec.plan.model_copy(update={"rounds": 1, "spare_rounds": 0})
    state = federation.run()
    assert (state.stage, state.round_index, state.ended) == (Stage.DIFFUSION, 2, False)
    assert [entry.order.stage for entry in reserved(federation)] == ["codec", "diffusion", "diffusion"]
    assert [e["event"] for e in events(federation)].count("budget_spent") == 1


def test_sites_answer_alone(tmp_path, data, public):
    federation = opened(tmp_path / "run", private_study(public), data, public)
    seen = []

    class Watching:
        def exchange(self, orders, deadline_s):
            exchange = federation.transport.exchange(orders, deadline_s)
            seen.extend(exchange.reports)
            return exchange

    federation.run(Watching())
    assert all(isinstance(r, TrainReport) and not isinstance(r, FailureReport) for r in seen)
    assert len(seen) == 4
