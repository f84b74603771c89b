"""ComfyUI nodes: they translate between sockets and widgets and `carlos_core`, and hold no maths."""
