"""The mini-world that `carlos demo` measures: a tiny world of pictures where it is known what each LoRA does."""
