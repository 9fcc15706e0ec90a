"""Flower's ClientApp: `client.app:app`.

The site's file comes from the node's configuration (`site-config`); in simulation, where a node
knows only its number, from the run folder: node i plays the i-th site of the study. Sites are kept
for the life of the process, so that a simulation loads volumes once.
"""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import ErrorCode, FedvoxError, RunError, WireError
from common.federation.messages import FailureReport, Report
from common.federation.wire import order_from_records, report_to_records

if TYPE_CHECKING:  # importing it for real would load torch before the first order
    from client.site import Site

STUDY_VARIABLE = "FEDVOX_STUDY"
SIMULATED_SITES_VARIABLE = "FEDVOX_SIMULATED_SITES"

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which site this node is."""
    name = _site_file(context).parent.name if _is_simulated(context) else _site(context).name
    return Message(RecordDict({"site": ConfigRecord({"name": name})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do one order. Exception text never leaves: the coordinator sees a code."""
    report: Report
    try:
        order = order_from_records(message.content)
    except WireError:
        return Message(report_to_records(FailureReport("unknown", ErrorCode.CONFIG)), reply_to=message)
    try:
        report = _site(context).execute(order)
    except FedvoxError as error:
        report = FailureReport(order.site, error.code)
    return Message(report_to_records(report), reply_to=message)


def _site(context: Context) -> "Site":
    site_file = _site_file(context)
    study_file = context.run_config.get("study") or os.environ.get(STUDY_VARIABLE)
    if not study_file:
        raise RunError("no study given to the site", f"set {STUDY_VARIABLE}")
    return _open_site(site_file, Path(str(study_file)))


@functools.cache
def _open_site(site_file: Path, study_file: Path) -> "Site":
    from client.site import Site
    from client.site_config import load_site_config
    from common.study import load_study

    return Site(load_site_config(site_file), load_study(study_file))


def _is_simulated(context: Context) -> bool:
    return "site-config" not in context.node_config


def _site_file(context: Context) -> Path:
    """Return the site's file of this node."""
    if not _is_simulated(context):
        return Path(str(context.node_config["site-config"]))
    folder = os.environ.get(SIMULATED_SITES_VARIABLE)
    if not folder:
        raise RunError("the node has no site-config", "start it with --node-config 'site-config=\"...\"'")
    files = sorted(Path(folder).glob("*/site.yaml"))
    return files[int(context.node_config["partition-id"])]
