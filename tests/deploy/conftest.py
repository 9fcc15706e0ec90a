"""Fixtures of the server's tests."""

import importlib

import pytest
from upload_federation import Federation


@pytest.fixture(params=["small", "large"])
def federation(tmp_path, flower_process, monkeypatch, request):
    """Flower's names of nodes are drawn from 64 bits, and its database has 63 and a sign."""
    drawn = {"small": 7, "large": 2**63 + 7}[request.param]
    place = importlib.import_module("flwr.server.superlink.linkstate.sql_linkstate")
    draw = place.generate_rand_int_from_bytes

    def chosen(*words, **options):
        return drawn if "exclude" in options else draw(*words, **options)

    monkeypatch.setattr(place, "generate_rand_int_from_bytes", chosen)
    return Federation(tmp_path)
