"""The command line. `__main__` needs typer and rich (extra `cli`); nothing else of CARLoS does."""
