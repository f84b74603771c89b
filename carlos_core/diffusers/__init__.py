"""The Generator on diffusers: indexing without ComfyUI (extra `headless`)."""
