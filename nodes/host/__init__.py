"""ComfyUI's side of things: its folders, its models in memory, its server."""
