"""What all tests share: hypothesis must be repeatable and patient."""

import pytest
from hypothesis import settings

# A loaded machine must not fail a test, and a failure must come back when it is run again.
settings.register_profile("fedvox", deadline=None, derandomize=True)
settings.load_profile("fedvox")


def pytest_collection_modifyitems(items):
    """Begin with the files of long stories, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: not {"e2e", "experiments"}.intersection(item.path.parts))


@pytest.fixture
def flower_process(monkeypatch):
    """Let this process make Flower messages, as one that Flower started can."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def hurried(monkeypatch, flower_process):
    """Let the server's side of Flower wait for no seconds."""
    from tests.server.fake_grid import hurry

    hurry(monkeypatch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sites' volumes, four patients each; many files have data of their own by this name."""
    from tests.small_federation import write_volumes

    folder = tmp_path_factory.mktemp("data")
    return {name: write_volumes(folder / name, 4, seed) for seed, name in enumerate("ab", start=1)}


@pytest.fixture(scope="module")
def public():
    """A public model that private studies start from."""
    from tests.small_federation import public_state

    return public_state()
