"""What Flower's node answers when anything at all goes wrong: a code, and no word of the site's."""

from types import SimpleNamespace

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from client import app
from common.errors import ErrorCode
from common.federation.messages import FailureReport
from common.federation.wire import report_from_records

pytestmark = pytest.mark.usefixtures("flower_process")

PATIENT = "patient-MUSTERMANN"


def message(content=None) -> Message:
    return Message(content or RecordDict(), dst_node_id=1, message_type="train")


def context(node_config=(), run_config=()) -> Context:
    return Context(
        run_id=1, node_id=1, node_config=dict(node_config), state=RecordDict(), run_config=dict(run_config)
    )


def text_of(reply: Message) -> str:
    return repr(reply.content) + repr(reply.metadata)


@pytest.fixture
def secret_site(tmp_path, monkeypatch):
    """A node whose site file names a patient and cannot be read."""
    monkeypatch.delenv(app.STUDY_VARIABLE, raising=False)
    monkeypatch.delenv(app.SIMULATED_SITES_VARIABLE, raising=False)
    return {
        "site-config": str(tmp_path / PATIENT / "site.yaml"),
        "study": str(tmp_path / PATIENT / "study.yaml"),
    }


@pytest.mark.parametrize("handler", [app.hello, app.train])
def test_a_site_that_cannot_be_opened_answers_with_a_code_and_no_text(secret_site, handler):
    reply = handler(message(), context(secret_site))
    assert report_from_records(reply.content) == FailureReport("unknown", ErrorCode.CONFIG)
    assert PATIENT not in text_of(reply)


@pytest.mark.parametrize("handler", [app.hello, app.train])
def test_an_error_that_nobody_thought_of_answers_with_a_code_and_no_text(monkeypatch, secret_site, handler):
    def fail(context):
        raise OSError(5, "input/output error", PATIENT)

    monkeypatch.setattr(app, "_site", fail)
    monkeypatch.setattr(app, "order_from_records", lambda records: None)
    reply = handler(message(), context(secret_site))
    assert report_from_records(reply.content) == FailureReport("unknown", ErrorCode.INTERNAL)
    assert PATIENT not in text_of(reply)


def test_a_message_that_is_no_order_answers_with_a_code(monkeypatch):
    monkeypatch.setattr(app, "_site", lambda context: SimpleNamespace(execute=lambda order: 1 / 0))
    empty = Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=b"")  # numpy raises EOFError
    header = ConfigRecord(
        {
            "study_digest": "",
            "site": "a",
            "stage": "codec",
            "round_index": 1,
            "frozen_digest": "",
            "run": "",
            "ledger_head": "",
        }
    )
    parameters = ArrayRecord({"w": empty})
    for content in (
        RecordDict(),
        RecordDict({"header": header, "parameters": parameters, "frozen": ArrayRecord({})}),
    ):
        reply = app.train(message(content), context())
        assert report_from_records(reply.content) == FailureReport("unknown", ErrorCode.CONFIG)


def test_a_run_does_not_choose_the_file_that_a_site_takes_for_the_study(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(app, "_open_site", lambda site, study: opened.append(study))
    monkeypatch.setenv(app.STUDY_VARIABLE, str(tmp_path / "environment.yaml"))
    asked = {"study": str(tmp_path / "coordinator.yaml")}
    app._site(context({"site-config": "site.yaml"}, asked))
    app._site(context({"site-config": "site.yaml", "study": str(tmp_path / "own.yaml")}, asked))
    assert [path.name for path in opened] == ["environment.yaml", "own.yaml"]
