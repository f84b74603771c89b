"""`carlos`: its commands, and what an error is at the command line."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import CarlosError
from .codes import DONE, FAILED, INTERRUPTED, USAGE
from .output import Answer, show, show_error

app = typer.Typer(
    name="carlos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 cannot be done, 2 wrong use, 3 nothing fits, 4 some LoRAs failed, 130 interrupted.",
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"carlos {__version__}\n")
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[bool, typer.Option("--version", help="Say the version.", is_eager=True, callback=_say_version)] = False,
) -> None:
    """LoRAs by what they do: finds them for a sentence, measures them, and looks after what was measured."""


TRYING, FINDING, MEASURING, KEEPING = "Try it", "Find LoRAs", "Measure LoRAs", "Look after databases and caches"


class Usage(CarlosError):
    """The command line makes no sense."""


class Interrupted(CarlosError):
    """Ctrl-C."""


GO_ON = "What was finished is kept: run again to go on."

_CODES: dict[type[CarlosError], int] = {Usage: USAGE, Interrupted: INTERRUPTED}


def command(name: str, panel: str, *examples: str) -> Callable[[Callable[..., Answer]], Callable[..., None]]:
    """Make a function a command. It takes `as_json`, which is left to this, and returns its answer.

    examples: command lines for its help, without "carlos".
    """

    def decorate(act: Callable[..., Answer]) -> Callable[..., None]:
        @app.command(name, rich_help_panel=panel, epilog="\n\n".join(["Examples:", *(f"carlos {line}" for line in examples)]))
        @functools.wraps(act)
        def run_command(*args: Any, **kwargs: Any) -> None:
            as_json = bool(kwargs.get("as_json"))
            try:
                answer = act(*args, **kwargs)
            except CarlosError as error:
                show_error(name, error, as_json=as_json)
                raise typer.Exit(_CODES.get(type(error), FAILED)) from None
            except KeyboardInterrupt:
                show_error(name, Interrupted("Interrupted.", GO_ON), as_json=as_json)
                raise typer.Exit(INTERRUPTED) from None
            show(name, answer, as_json=as_json)
            raise typer.Exit(answer.code)

        return run_command

    return decorate


def run(arguments: Sequence[str]) -> int:
    """Run a command line. Returns the exit status."""
    as_json = "--json" in arguments
    try:
        status = app(args=list(arguments), prog_name="carlos", standalone_mode=not as_json)
        # Without standalone mode, typer returns the status of an Exit, and raises what is wrong with the command line.
        return status if isinstance(status, int) else DONE
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED
    except BrokenPipeError:
        # Whoever read our answer has read enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        said = getattr(error, "format_message", None)
        if said is None:
            raise
        name = next((part for part in arguments if not part.startswith("-")), "")
        show_error(name, Usage(said(), f"See carlos {name} --help.".replace("  ", " ")), as_json=True)
        return USAGE
