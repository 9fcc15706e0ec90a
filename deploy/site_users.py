"""A site's files, divided between two users: what the one holds, the other cannot read.

the agent's      keys/ state/ ledger (nobody else), run/ (the group may open the socket), the folder itself
the courier's    courier/ (nobody else)
both read        site.yaml, coordinator.json, ca.crt
"""

import os
import pwd
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.installation import AUTHORITY_FILE, COORDINATOR_FILE, COURIER_FOLDER, SITE_FILE
from client.site_config import SiteConfig, load_site_config
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


def divide(folder: Path, users: SiteUsers) -> None:
    """Give a site's files to its users; everything is as before for whom it was for.

    Raises:
        ConfigError: Not root, a user or group does not exist, or the agent lets no group in.
    """
    _refuse_unknown(users)
    config = load_site_config(folder / SITE_FILE)
    if config.agent is None or config.agent.group != users.group:
        raise ConfigError(
            f"{folder / SITE_FILE} does not let the group {users.group} in", f"set agent.group: {users.group}"
        )
    shared = {folder / name for name in (SITE_FILE, COORDINATOR_FILE, AUTHORITY_FILE)}
    socket_folder = config.agent.socket.parent
    socket_folder.mkdir(exist_ok=True)
    for path in (folder, *_own_paths(folder, config)):
        courier = path.is_relative_to(folder / COURIER_FOLDER)
        shutil.chown(path, users.courier if courier else users.agent, users.group)
        if path.is_dir():
            path.chmod(FOLDER_MODE if path in {folder, socket_folder} else OWN_FOLDER)
        else:
            path.chmod(SHARED_FILE if path in shared else OWN_FILE)


def _own_paths(folder: Path, config: SiteConfig) -> Iterator[Path]:
    """Yield all that is the site's, but not its data."""
    places = [folder, config.state, config.cache_folder]
    if config.policy.ledger is not None:
        places.append(config.policy.ledger)
    for place in dict.fromkeys(places):
        if place.is_dir():
            yield place
            yield from (path for path in place.rglob("*") if not path.is_symlink() and _is_kept(path, config))


def _is_kept(path: Path, config: SiteConfig) -> bool:
    return (path.is_file() or path.is_dir()) and not path.is_relative_to(config.data)


def _refuse_unknown(users: SiteUsers) -> None:
    if os.geteuid() != 0:
        raise ConfigError("only root can give files to others", "sudo fedvox site users ...")
    for name in (users.agent, users.courier):
        try:
            pwd.getpwnam(name)
        except KeyError:
            raise ConfigError(
                f"there is no user {name}", f"useradd --system --gid {users.group} {name}"
            ) from None
