"""LoRA files: what they say about themselves, and which of them are on this machine."""
