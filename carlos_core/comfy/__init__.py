"""Everything that knows ComfyUI: its models, its memory, its conditionings."""
