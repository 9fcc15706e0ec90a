"""Two users at a site: the connection's cannot read what the agent's holds, and nobody else the socket."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from shlex import quote

import pytest
import yaml

from client.installation import SITE_FILE, install
from common.errors import ConfigError
from common.kit import Kit
from common.seal import SealKey
from deploy.site_users import SiteUsers, divide
from tests.small_federation import small_study, write_volumes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")

AGENT, COURIER, STRANGER, GROUP = "daemon", "nobody", "bin", "games"  # whom every Debian has
PROJECT = Path(__file__).parents[2]
USERS = SiteUsers(AGENT, COURIER, GROUP)
ENVIRONMENT = os.environ | {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def site():
    """An installed site with data, state and ledger, divided between its users."""
    folder = Path(tempfile.mkdtemp(prefix="fedvox-users-"))
    folder.chmod(0o755)
    made = folder / "north"
    key = SealKey.generate().public.text
    kit = Kit(site="north", address="localhost:1", authority="x", coordinator=key, token="0" * 64,
              study=small_study(("north", "south")))  # fmt: skip
    install(made, kit, {}, folder / "data")
    write_volumes(folder / "data", 2, 1)
    for path in ((folder / "data"), *(folder / "data").iterdir()):
        shutil.chown(path, AGENT, AGENT)
        path.chmod(0o700 if path.is_dir() else 0o600)
    config = yaml.safe_load((made / SITE_FILE).read_text())
    config["agent"]["group"] = GROUP
    config["policy"] |= {"epsilon": 8, "ledger": "ledger"}
    (made / SITE_FILE).write_text(yaml.safe_dump(config))
    for name in ("state", "ledger"):
        (made / name).mkdir(exist_ok=True)
        (made / name / "something").write_text("of patients")
    divide(made, USERS)
    yield made
    shutil.rmtree(folder)


TRY = """
import json, sys
found = {}
for path in sys.argv[1:]:
    try:
        open(path, "rb").read()
        found[path] = "read"
    except PermissionError:
        found[path] = "refused"
print(json.dumps(found))
"""


def command_of(user, group, *words):
    """Return the command line that runs a program as a user.

    Where Python or the project lie in a folder that is closed to others, the program gets a view of the file
    system in which that folder is open and holds nothing else.
    """
    needed = [Path(sys.base_prefix), Path(sys.prefix), PROJECT]
    closed = [up for path in needed for up in path.parents if not up.stat().st_mode & stat.S_IXOTH]
    who = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", *map(str, words)]
    if not closed:
        return who
    kept = [path for path in needed if path.is_relative_to(closed[0])]
    steps = [f"hold{n}=$(mktemp -d) && mount --bind {quote(str(p))} $hold{n}" for n, p in enumerate(kept)]
    steps.append(f"mount -t tmpfs -o mode=755 none {quote(str(closed[0]))}")
    steps += [f"mkdir -p {quote(str(p))}" for p in kept]
    steps += [f"mount --move $hold{n} {quote(str(p))} && rmdir $hold{n}" for n, p in enumerate(kept)]
    return ["unshare", "-m", "sh", "-c", " && ".join([*steps, 'exec "$@"']), "sh", *who]


def as_user(user, code, *words, group=GROUP):
    """Run Python code as a user; return what it printed."""
    done = subprocess.run(
        command_of(user, group, sys.executable, "-c", code, *words),
        cwd=PROJECT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_courier_can_read_what_it_needs_and_nothing_that_is_the_agent_s(site):
    volume = next((site.parent / "data").iterdir())
    own = [site / "courier/node.key", site / "site.yaml", site / "coordinator.json", site / "ca.crt"]
    others = [site / "keys/sign.key", site / "state/something", site / "ledger/something", volume]
    found = json.loads(as_user(COURIER, TRY, *own, *others))
    assert found == {str(p): "read" for p in own} | {str(p): "refused" for p in others}


def test_the_agent_can_read_all_but_the_node_key(site):
    volume = next((site.parent / "data").iterdir())
    own = [site / n for n in ("keys/sign.key", "state/something", "ledger/something", "site.yaml")] + [volume]
    found = json.loads(as_user(AGENT, TRY, *own, site / "courier/node.key"))
    assert found == {str(p): "read" for p in own} | {str(site / "courier/node.key"): "refused"}


GREET = """
import sys
from pathlib import Path
from client.agent_link import AgentLink
from common.errors import RunError
try:
    AgentLink(Path(sys.argv[1])).greet()
    print("greeted")
except RunError:
    print("refused")
"""


def test_the_socket_is_open_to_the_courier_and_to_nobody_else(site):
    fedvox = (sys.executable, "-c", "from cli.main import run; run()")  # of this very folder
    with subprocess.Popen(
        command_of(AGENT, GROUP, *fedvox, "site", "start", site / SITE_FILE),
        cwd=PROJECT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True,
    ) as agent:  # fmt: skip
        try:
            assert "listens" in agent.stdout.readline()
            socket = site / "run" / "agent.sock"
            assert stat.S_IMODE(socket.stat().st_mode) == 0o660
            assert as_user(COURIER, GREET, socket) == "greeted\n"
            assert as_user(STRANGER, GREET, socket, group=STRANGER) == "refused\n"
        finally:
            agent.terminate()


def test_a_group_that_the_agent_does_not_let_in_is_named(site):
    with pytest.raises(ConfigError, match="does not let the group users in"):
        divide(site, SiteUsers(AGENT, COURIER, "users"))


def test_a_user_who_does_not_exist_is_named(site):
    with pytest.raises(ConfigError, match="there is no user somebody"):
        divide(site, SiteUsers(AGENT, "somebody", GROUP))


def test_nothing_is_given_that_the_courier_linked_into_its_folder(site):
    secret = site.parent / "secret"
    secret.write_text("root's own")
    secret.chmod(0o600)
    own = site / "courier"
    (own / "link").symlink_to(secret)
    (own / "folder").symlink_to(site / "keys")
    os.link(secret, own / "second-name")
    divide(site, USERS)
    assert (secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == (0, 0o600)
    assert (site / "keys" / "sign.key").owner() == AGENT
    assert (site / "courier" / "node.key").owner() == COURIER


def test_places_outside_the_folder_are_told_and_left(site, tmp_path):
    ledger = site.parent / "ledger-elsewhere"
    ledger.mkdir()
    config = yaml.safe_load((site / SITE_FILE).read_text())
    config["policy"]["ledger"] = str(ledger)
    (site / SITE_FILE).write_text(yaml.safe_dump(config))
    assert divide(site, USERS) == [ledger]
    assert ledger.owner() == "root"


def test_a_group_that_does_not_exist_is_named(site):
    with pytest.raises(ConfigError, match="there is no group nowhere"):
        divide(site, SiteUsers(AGENT, COURIER, "nowhere"))
