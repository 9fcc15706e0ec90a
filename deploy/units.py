"""systemd units: the agent without a network, the connection without the agent's files, the server in three.

Two users at a site, made once: `fedvox-agent` owns the site's folder; `fedvox-courier` owns the node key, and
may open the socket through the group `fedvox`. See `fedvox site users`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from client.installation import COURIER_FOLDER
from client.site_config import SiteConfig

AGENT_USER, COURIER_USER, GROUP, SERVER_USER = "fedvox-agent", "fedvox-courier", "fedvox", "fedvox-server"
RESTART_S = 5

SANDBOX = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "ProtectProc": "invisible",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}
NO_DEVICES = {"PrivateDevices": "yes", "DevicePolicy": "closed"}
GPU = (
    *("/dev/nvidiactl rw", "/dev/nvidia-uvm rw", "/dev/nvidia-uvm-tools rw"),
    *("char-nvidia-frontend rw", "char-nvidia rw"),
)


def site_units(program: str, folder: Path, config: SiteConfig) -> dict[str, str]:
    """Return the two units of a site, by file name.

    Args:
        program: The installed `fedvox`.
        folder: The site's folder.
        config: Its settings, paths made absolute.
    """
    data = [config.data, *([config.patients] if config.patients is not None else [])]
    own = [config.state, config.cache_folder]
    own += [config.policy.ledger] if config.policy.ledger is not None else []
    outside = [path for path in dict.fromkeys(own) if not path.is_relative_to(folder)]
    gpu = config.compute.device.startswith("cuda")
    devices: dict[str, str | Sequence[str]] = (
        {"DevicePolicy": "closed", "DeviceAllow": GPU} if gpu else dict(NO_DEVICES)
    )
    agent: dict[str, str | Sequence[str]] = {
        "User": AGENT_USER,
        "Group": GROUP,
        "WorkingDirectory": str(folder),
        "ExecStart": f"{program} site start {folder / 'site.yaml'}",
        "PrivateNetwork": "yes",
        "RestrictAddressFamilies": "AF_UNIX",
        "ReadOnlyPaths": [str(path) for path in data],
        "ReadWritePaths": [str(folder), *(f"-{path}" for path in outside)],
        **devices,
    }
    connection: dict[str, str | Sequence[str]] = {
        "User": COURIER_USER,
        "Group": GROUP,
        "WorkingDirectory": str(folder),
        "ExecStart": f"{program} site connect {folder / 'site.yaml'}",
        "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
        "EnvironmentFile": "-/etc/fedvox/proxy.env",  # HTTPS_PROXY=http://proxy:3128, if there is one
        "InaccessiblePaths": [f"-{path}" for path in dict.fromkeys((*own, folder / "keys", *data))],
        "ReadWritePaths": str(folder / COURIER_FOLDER),
        **NO_DEVICES,
    }
    online = ("network-online.target", "fedvox-agent.service")
    return {
        "fedvox-agent.service": _unit("fedvox agent: data, GPU, ledger", agent, ("local-fs.target",)),
        "fedvox-connection.service": _unit("fedvox connection to the coordinator", connection, online),
    }


def server_units(program: str, home: Path, runs: Path) -> dict[str, str]:
    """Return the coordinator's three units, none of which restarts another.

    Args:
        program: The installed `fedvox`.
        home: The coordinator's folder.
        runs: Folder of all runs: the study's driver, which the executor starts, writes there.
    """
    units = {}
    for name in ("superlink", "executor", "proxy"):
        service: dict[str, str | Sequence[str]] = {
            "User": SERVER_USER,
            "Group": SERVER_USER,
            "WorkingDirectory": str(home),
            "ExecStart": f"{program} server start {name} --home {home}",
            "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
            "ReadWritePaths": [str(home), str(runs)] if name == "executor" else str(home),
            **NO_DEVICES,
        }
        if name == "proxy":  # a port below 1024
            service |= {
                "AmbientCapabilities": "CAP_NET_BIND_SERVICE",
                "CapabilityBoundingSet": "CAP_NET_BIND_SERVICE",
            }
        units[f"fedvox-{name}.service"] = _unit(f"fedvox {name}", service, ("network-online.target",))
    return units


def _unit(what: str, service: Mapping[str, str | Sequence[str]], after: Sequence[str]) -> str:
    lines = ["[Unit]", f"Description={what}", f"After={' '.join(after)}"]
    lines += ["Wants=network-online.target"] if "network-online.target" in after else []
    lines += ["", "[Service]", "Type=exec", "Restart=always", f"RestartSec={RESTART_S}"]
    for key, value in {**SANDBOX, **service}.items():
        lines += [f"{key}={one}" for one in ([value] if isinstance(value, str) else value)]
    return "\n".join([*lines, "", "[Install]", "WantedBy=multi-user.target", ""])
