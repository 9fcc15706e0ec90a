"""Every example in a docstring is run."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("common", "client", "server", "experiments", "cli")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples():
    assert len(MODULES) > 5


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_show(name):
    module = importlib.import_module(name)
    known = {"torch": importlib.import_module("torch"), **vars(module)}
    result = doctest.testmod(module, globs=known)
    assert result.attempted > 0
    assert result.failed == 0
