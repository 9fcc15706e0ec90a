"""Flower's ClientApp: `client.app:app`.

Which files a node plays with is said on the node itself: `site-config` and `study` in its own
configuration (`--node-config`), never by a message or by a run's configuration. In simulation, where a
node knows only its number, both come from the environment: node i plays the i-th site of the study.
Sites are kept for the life of the process, so that a simulation loads volumes once.

Whatever is raised here ends in a code: Flower would send the text of an exception to the coordinator,
and a text may name a file, and a file a patient.
"""

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import ConfigError, ErrorCode, FedvoxError, RunError
from common.federation.messages import FailureReport, Report
from common.federation.wire import order_from_records, report_to_records

if TYPE_CHECKING:  # importing it for real would load torch before the first order
    from client.site import Site

STUDY_VARIABLE = "FEDVOX_STUDY"
SIMULATED_SITES_VARIABLE = "FEDVOX_SIMULATED_SITES"
UNKNOWN_SITE = "unknown"

app = ClientApp()
logger = logging.getLogger("fedvox.site")


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which site this node is."""
    try:
        name = _site_file(context).parent.name if _is_simulated(context) else _site(context).name
        content = RecordDict({"site": ConfigRecord({"name": name})})
    except Exception as error:
        content = _failure(error)
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do one order."""
    try:
        report: Report = _site(context).execute(order_from_records(message.content))
        content = report_to_records(report)
    except Exception as error:
        content = _failure(error)
    return Message(content, reply_to=message)


def _failure(error: Exception) -> RecordDict:
    """Return a report of what failed before the site itself could answer: a file of settings, or anything."""
    logger.error("no site to answer with", exc_info=error)
    code = ErrorCode.CONFIG if isinstance(error, FedvoxError) else ErrorCode.INTERNAL
    return report_to_records(FailureReport(UNKNOWN_SITE, code))


def _site(context: Context) -> "Site":
    return _open_site(_site_file(context), _study_file(context))


@functools.cache
def _open_site(site_file: Path, study_file: Path) -> "Site":
    from client.site import Site
    from client.site_config import load_site_config
    from common.study import load_study

    return Site(load_site_config(site_file), load_study(study_file))


def _is_simulated(context: Context) -> bool:
    return "site-config" not in context.node_config


def _study_file(context: Context) -> Path:
    """Return the file of the study as the site knows it; a coordinator does not choose it."""
    named = context.node_config.get("study") or os.environ.get(STUDY_VARIABLE)
    if not named:
        raise RunError("no study given to the site", "start it with --node-config 'study=\"...\"'")
    return Path(str(named))


def _site_file(context: Context) -> Path:
    """Return the site's file of this node."""
    if not _is_simulated(context):
        return Path(str(context.node_config["site-config"]))
    folder = os.environ.get(SIMULATED_SITES_VARIABLE)
    if not folder:
        raise RunError("the node has no site-config", "start it with --node-config 'site-config=\"...\"'")
    files = sorted(Path(folder).glob("*/site.yaml"))
    try:
        return files[int(context.node_config["partition-id"])]
    except (KeyError, IndexError):
        raise ConfigError(
            f"{folder} holds no site for this node", "let `fedvox study run` write them"
        ) from None
