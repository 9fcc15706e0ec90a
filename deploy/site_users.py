"""A site's files, divided between two users: what the one holds, the other cannot read.

the agent's      keys/ state/ ledger (nobody else), run/ (the group may open the socket), the folder itself
the courier's    courier/ (nobody else)
both read        site.yaml, coordinator.json, ca.crt
"""

import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from client.installation import AUTHORITY_FILE, COORDINATOR_FILE, COURIER_FOLDER, SITE_FILE
from client.site_config import load_site_config
from common.errors import ConfigError

FOLDER_MODE, SHARED_FILE, OWN_FOLDER, OWN_FILE = 0o750, 0o640, 0o700, 0o600


@dataclass(frozen=True)
class SiteUsers:
    """Who is who.

    Attributes:
        agent: User of the agent.
        courier: User of the connection.
        group: Group of both.
    """

    agent: str
    courier: str
    group: str


def divide(folder: Path, users: SiteUsers) -> list[Path]:
    """Give a site's files to its users; return places outside the folder, which somebody must give by hand.

    Nothing is followed that the users could have put there: no link, and no file that has a second name.

    Raises:
        ConfigError: Not root, a user or group does not exist, or the agent lets no group in.
    """
    agent, courier, group = _numbers(users)
    config = load_site_config(folder / SITE_FILE)
    if config.agent is None or config.agent.group != users.group:
        raise ConfigError(
            f"{folder / SITE_FILE} does not let the group {users.group} in", f"set agent.group: {users.group}"
        )
    socket_folder = config.agent.socket.parent
    places = [config.state, config.cache_folder, socket_folder]
    places += [config.policy.ledger] if config.policy.ledger is not None else []
    outside = [path for path in dict.fromkeys(places) if not path.is_relative_to(folder)]
    if socket_folder not in outside:
        socket_folder.mkdir(exist_ok=True)
    shared = {folder / name for name in (SITE_FILE, COORDINATOR_FILE, AUTHORITY_FILE)}
    for place, _, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        here = Path(place)
        if here.is_relative_to(config.data):
            continue
        owner = courier if here.is_relative_to(folder / COURIER_FOLDER) else agent
        os.fchown(descriptor, owner, group)
        os.fchmod(descriptor, FOLDER_MODE if here in {folder, socket_folder} else OWN_FOLDER)
        for name in files:
            _give(name, descriptor, owner, group, SHARED_FILE if here / name in shared else OWN_FILE)
    return outside


def _give(name: str, folder: int, owner: int, group: int, mode: int) -> None:
    """Give one file of an open folder, if it is a file and has no other name."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:  # a link, or a socket: not ours to give
        return
    try:
        facts = os.fstat(opened)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
            os.fchown(opened, owner, group)
            os.fchmod(opened, mode)
    finally:
        os.close(opened)


def _numbers(users: SiteUsers) -> tuple[int, int, int]:
    """Return the numbers of both users and of the group."""
    if os.geteuid() != 0:
        raise ConfigError("only root can give files to others", "sudo fedvox site users ...")
    try:
        group = grp.getgrnam(users.group).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {users.group}", f"groupadd --system {users.group}") from None
    numbers = []
    for name in (users.agent, users.courier):
        try:
            numbers.append(pwd.getpwnam(name).pw_uid)
        except KeyError:
            raise ConfigError(
                f"there is no user {name}", f"useradd --system --gid {users.group} {name}"
            ) from None
    return numbers[0], numbers[1], group
