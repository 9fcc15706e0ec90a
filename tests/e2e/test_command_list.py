"""The list of commands: it comes at once, and says of each what the command says of itself."""

import subprocess
import sys

import pytest
from command_line import fedvox

from cli.main import COMMANDS
from common.release import release

_LISTS = """
import sys
from cli.main import app

try:
    app(["--help"])
except SystemExit as stop:
    assert not stop.code
print("imported:", *{"torch", "monai", "flwr", "numpy", "scipy", "nibabel", "opacus"} & sys.modules.keys())
"""


def test_listing_the_commands_imports_nothing_that_takes_seconds():
    said = subprocess.run([sys.executable, "-c", _LISTS], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1].strip() == "imported:"
    assert all(f" {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_it_says_of_itself(name):
    command = COMMANDS[name].load(name)
    assert command.name == name
    assert " ".join(command.help.partition("\n\n")[0].split()) == COMMANDS[name].help
    assert not {option for param in command.params for option in param.opts} & {"--install-completion"}


def test_a_word_that_is_no_command_is_refused_with_the_one_that_was_meant(tmp_path):
    for words, meant in ((["stdy"], "study"), (["site", "chek"], "check")):
        found = fedvox(*words, cwd=tmp_path)
        assert found.returncode == 2
        assert found.stderr.count(f"Did you mean '{meant}'?") == 1


def test_the_release_is_said(tmp_path):
    found = fedvox("--version", cwd=tmp_path)
    assert found.returncode == 0
    assert found.stdout.strip() == f"fedvox {release()}"
