"""The sockets that CARLoS's nodes share with each other and with other packs."""

from comfy_api.latest import io

CarlosDb = io.Custom("CARLOS_DB")
"""A `carlos_core.database.database.MetricsDatabase`."""

CarlosMatches = io.Custom("CARLOS_MATCHES")
"""A `carlos_core.search.matches.Matches`."""

LoraStack = io.Custom("LORA_STACK")
"""A list of (LoRA name as in ComfyUI's list, weight for the model, weight for CLIP)."""


def facts_output() -> io.Output:
    """An output of a node with a report: its facts, from `report.facts_text`."""
    return io.String.Output(display_name="facts", tooltip="The report's last line alone: JSON, for scripts and other nodes.")


def picture_output() -> io.Output:
    """The last output of a node that shows its result as a picture, from `pictures.drawn`."""
    return io.Image.Output(display_name="picture", tooltip="The list as a picture, as the node shows it.")
