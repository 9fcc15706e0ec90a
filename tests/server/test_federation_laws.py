"""The laws of the federation, bit for bit on the CPU with fixed threads."""

import dataclasses
import random

import pytest
import torch
from small_federation import Federation, small_study, write_volumes

from client.batches import batches
from common.codec.codebook import split_dead_codes_of
from common.codec.training import CodecTraining
from common.errors import ErrorCode, FederationError, QuorumError
from common.federation.learning_rate import learning_rate_at
from common.federation.messages import FailureReport
from common.federation.seeds import seeded_generator
from common.federation.stage import Stage
from server.collect import Collector
from server.state import initial_state
from server.transport import Exchange


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    return {
        name: write_volumes(tmp_path / "data" / name, num, seed)
        for seed, (name, num) in enumerate({"a": 3, "b": 4, "c": 2}.items())
    }


def assert_same(left, right):
    for group in ("codec", "denoiser", "denoiser_average", "optimizer"):
        first, second = getattr(left, group), getattr(right, group)
        assert first.keys() == second.keys()
        different = [name for name in first if not torch.equal(first[name], second[name])]
        assert not different, f"{group}: {different[:3]}"


def test_one_site_equals_the_central_loop_with_the_same_round_boundaries(tmp_path, data):
    study = small_study(("a",))
    federation = Federation(tmp_path / "run", study, {"a": data["a"]})
    states = []
    federation.run(after_round=states.append)
    federated = next(s for s in states if s.stage is Stage.CODEC and s.round_index == 2)

    # The same loop without orders, reports, wire, aggregation or checkpoints.
    dataset = federation.sites["a"].dataset
    volumes, schedule = dataset.volumes(), study.codec.training
    state = initial_state(study).codec
    for round_index in (1, 2):
        training = CodecTraining(study.codec.model, 1, state, torch.device("cpu"))
        key = (study.seed, "a", "codec", round_index)
        which, noise = seeded_generator(*key, "batches"), seeded_generator(*key, "noise")
        for step, indices in enumerate(batches(dataset.patients, 2, 3, which), start=3 * (round_index - 1)):
            training.step(volumes[indices], step, learning_rate_at(step, schedule), noise)
        state = split_dead_codes_of(training.state())
    assert federated.codec.keys() == state.keys()
    assert all(torch.equal(federated.codec[name], state[name]) for name in state)


def test_two_sites_with_copies_of_one_folder_equal_one_codebook_included(tmp_path, data):
    alone = Federation(tmp_path / "one", small_study(("a",)), {"a": data["a"]}, {"a": "twin"}).run()
    both = Federation(
        tmp_path / "two",
        small_study(("a", "b")),
        {"a": data["a"], "b": data["a"]},
        {"a": "twin", "b": "twin"},
    ).run()
    assert_same(alone, both)
    assert "codec.quantizer.counts" in both.codec


def test_arrival_order_changes_no_bit(tmp_path, data):
    study = small_study(("a", "b", "c"))
    straight = Federation(tmp_path / "straight", study, data).run()
    mixed = Federation(tmp_path / "mixed", study, data)
    shuffler = random.Random(0)

    class Shuffled:
        def exchange(self, orders, deadline_s):
            orders = list(orders)
            shuffler.shuffle(orders)
            exchange = mixed.transport.exchange(orders, deadline_s)
            reports = list(exchange.reports)
            shuffler.shuffle(reports)
            return Exchange(reports, exchange.bytes_down, exchange.bytes_up)

    assert_same(straight, mixed.run(Shuffled()))


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", ["fedavg", "fedadam", "fedavgm", "fedprox"])
def test_a_run_killed_after_any_round_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, data, kind):
    study = small_study(("a", "b"), federation__strategy={"kind": kind})
    two = {name: data[name] for name in ("a", "b")}
    whole = Federation(tmp_path / "whole", study, two).run()
    for kill_after in range(1, 5):
        folder = tmp_path / f"killed-{kill_after}"
        done = []

        def kill(state, done=done, kill_after=kill_after):
            done.append(state)
            if len(done) == kill_after:
                raise Killed

        first = Federation(folder, study, two)
        if kill_after < 4:
            with pytest.raises(Killed):
                first.run(after_round=kill)
        else:
            first.run()
        assert_same(whole, Federation(folder, study, two).run())


def test_the_newest_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(tmp_path, data):
    study = small_study(("a",))
    whole = Federation(tmp_path / "run", study, {"a": data["a"]}).run()
    damaged = tmp_path / "run" / "checkpoints" / "diffusion-0002" / "denoiser.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert_same(whole, Federation(tmp_path / "run", study, {"a": data["a"]}).run())


def test_strategies_differ_so_that_the_tests_above_compare_something(tmp_path, data):
    two = {name: data[name] for name in ("a", "b")}
    results = [
        Federation(tmp_path / kind, small_study(("a", "b"), federation__strategy={"kind": kind}), two).run()
        for kind in ("fedavg", "fedadam", "fedavgm")
    ]
    name = "codec.encoder.linear.weight"
    assert not torch.equal(results[0].codec[name], results[1].codec[name])
    assert not torch.equal(results[0].codec[name], results[2].codec[name])


def test_fedprox_pulls_the_parameters_towards_the_global_ones(tmp_path, data):
    moved = {}
    for mu in (0.0, 100.0, 10000.0):
        study = small_study(("a",), federation__strategy={"kind": "fedprox", "proximal_mu": mu})
        states = []
        Federation(tmp_path / str(mu), study, {"a": data["a"]}).run(after_round=states.append)
        start = initial_state(study).codec["codec.encoder.linear.weight"]
        moved[mu] = float((states[0].codec["codec.encoder.linear.weight"] - start).norm())
    assert moved[10000.0] < moved[100.0] < moved[0.0]
    assert moved[10000.0] < 0.8 * moved[0.0]


class Faulty:
    """Replaces the reports of one site by something else."""

    def __init__(self, transport, site, change, times=10**9):
        self.transport, self.site, self.change, self.times = transport, site, change, times

    def exchange(self, orders, deadline_s):
        exchange = self.transport.exchange(orders, deadline_s)
        reports = []
        for sent in exchange.reports:
            faulty = sent.site == self.site and self.times > 0
            self.times -= faulty
            received = self.change(sent) if faulty else sent
            if received is not None:
                reports.append(received)
        return Exchange(reports, 0, 0)


def nan_report(report):
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in report.parameters.items()}
    return type(report)(**{**report.__dict__, "parameters": broken})


FAULTS = {
    "missing": (lambda _: None, "site_missing"),
    "code": (lambda report: FailureReport(report.site, ErrorCode.MEMORY), "site_failed"),
    "nan": (nan_report, "report_rejected"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_below_the_quorum_the_run_stops_with_a_named_error_and_no_checkpoint(tmp_path, data, fault):
    change, event = FAULTS[fault]
    federation = Federation(tmp_path / "run", small_study(("a", "b")), {n: data[n] for n in ("a", "b")})
    with pytest.raises(QuorumError, match="1 of 2 sites"):
        federation.run(Faulty(federation.transport, "b", change))
    assert federation.store.load_newest() is None
    assert f'"event":"{event}"' in federation.log.path.read_text()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_site_that_fails_once_is_asked_again_and_changes_no_bit(tmp_path, data, fault):
    two = {name: data[name] for name in ("a", "b")}
    whole = Federation(tmp_path / "whole", small_study(("a", "b")), two).run()
    federation = Federation(tmp_path / "run", small_study(("a", "b")), two)
    assert_same(whole, federation.run(Faulty(federation.transport, "b", FAULTS[fault][0], times=1)))


def test_with_a_quorum_the_run_goes_on_without_a_site_and_says_so(tmp_path, data):
    study = small_study(("a", "b"), federation__min_sites=1)
    federation = Federation(tmp_path / "run", study, {name: data[name] for name in ("a", "b")})
    state = federation.run(Faulty(federation.transport, "b", lambda _: None))
    assert state.round_index == 2
    assert '"site_missing"' in federation.log.path.read_text()


def test_a_site_that_lost_the_codec_asks_for_it_and_gets_it(tmp_path, data):
    federation = Federation(tmp_path / "run", small_study(("a",)), {"a": data["a"]})
    whole = Federation(tmp_path / "whole", small_study(("a",)), {"a": data["a"]}).run()

    def lose(state):
        if state.stage is Stage.DIFFUSION:
            import shutil

            shutil.rmtree(tmp_path / "run" / "sites" / "a" / "latents")

    assert_same(whole, federation.run(after_round=lose))
    assert "E_NEED_FROZEN" in federation.log.path.read_text()


def test_an_order_of_another_study_is_refused_with_a_code(tmp_path, data):
    federation = Federation(tmp_path / "run", small_study(("a",)), {"a": data["a"]})
    other = small_study(("a",), seed=9)
    collector = Collector(other, federation.transport, federation.log, "run", federation.heads)
    order = collector.orders(initial_state(other), ["a"], 1)["a"]
    assert federation.sites["a"].execute(order) == FailureReport("a", ErrorCode.CONFIG)


def test_a_failure_leaves_as_a_code_without_any_text(tmp_path):
    federation = Federation(tmp_path / "run", small_study(("a",)), {"a": tmp_path / "SECRET-patient"})
    with pytest.raises(QuorumError):
        federation.run()
    log = federation.log.path.read_text()
    assert "E_DATA" in log
    assert "SECRET" not in log


class Overstating:
    """Reports of site a, with every tensor but the codebook's at a number that float32 just holds."""

    def __init__(self, federation):
        self.federation = federation

    def exchange(self, orders, deadline_s):
        reports = self.federation.transport.exchange(orders, deadline_s).reports
        return Exchange([self.changed(r) if r.site == "a" else r for r in reports], 0, 0)

    def changed(self, report):
        huge = {n: torch.full_like(t, -3.3e38) for n, t in report.parameters.items() if "quantizer" not in n}
        return dataclasses.replace(report, parameters={**report.parameters, **huge})


class Only:
    """Replies of one site alone."""

    def __init__(self, transport, site):
        self.transport, self.site = transport, site

    def exchange(self, orders, deadline_s):
        return self.transport.exchange([order for order in orders if order.site == self.site], deadline_s)


def test_a_site_that_sends_huge_numbers_is_not_heard(tmp_path, data):
    study = small_study(federation={"sites": ["a", "b"], "min_sites": 1})
    alone = Federation(tmp_path / "alone", study, data)
    expected = alone.run(Only(alone.transport, "b"))
    federation = Federation(tmp_path / "run", study, data)
    assert_same(expected, federation.run(Overstating(federation)))
    assert "training moves them by at most" in federation.log.path.read_text()


def test_an_aggregate_that_is_no_number_is_no_checkpoint(tmp_path, data, monkeypatch):
    strategy = {"kind": "fedavgm", "learning_rate": 1e42, "momentum": 0.9}
    federation = Federation(
        tmp_path / "run", small_study(federation={"sites": ["a", "b"], "strategy": strategy}), data
    )
    with pytest.raises(FederationError, match="is not finite"):
        federation.run()
    newest = federation.store.load_newest()
    assert newest is None or all(bool(torch.isfinite(t).all()) for t in newest.codec.values())
