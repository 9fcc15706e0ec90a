"""The driver: sends the same bytes to all nodes, waits for them back, notes how long that took."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

POLL_S = 0.2
PIECE = 1 << 20

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Do some rounds, after one message that is not counted: it fetches the app."""
    settings = context.run_config
    while len(nodes := list(grid.get_node_ids())) < int(settings["sites"]):
        time.sleep(POLL_S)
    exchange(grid, nodes, 0, 1)
    seconds = []
    for index in range(int(settings["rounds"])):
        started = time.monotonic()
        exchange(grid, nodes, index + 1, int(settings["bytes"]))
        seconds.append(time.monotonic() - started)
    with Path(str(settings["out"])).open("a") as file:
        file.write(json.dumps(seconds) + "\n")


def exchange(grid: Grid, nodes: list[int], seed: int, size: int) -> None:
    """Send and receive ``size`` bytes with every node."""
    content = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    pieces = {f"{start:012d}": Array(content[start : start + PIECE]) for start in range(0, size, PIECE)}
    records = RecordDict({"arrays": ArrayRecord(pieces), "config": ConfigRecord({"seed": seed})})
    messages = [Message(records, dst_node_id=node, message_type=MessageType.TRAIN) for node in nodes]
    waiting = {name for message in messages for name in grid.push_messages([message])}
    while waiting:
        for name in sorted(waiting):
            for reply in grid.pull_messages([name]):
                assert not reply.has_error(), reply.error
                waiting.discard(name)
        time.sleep(POLL_S)
