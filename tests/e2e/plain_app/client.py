"""The node's side: sends back what it got, altered by one, as a site sends back a model it has trained."""

# IMPORTS
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer."""
    arrays = message.content["arrays"]
    changed = {name: Array(array.numpy() + context.node_id % 7 + 1) for name, array in arrays.items()}
    return Message(RecordDict({"arrays": ArrayRecord(changed)}), reply_to=message)
