"""One family of errors: each says in one sentence what happened and in one what to do."""


class CarlosError(Exception):
    """Base of all errors raised on purpose by CARLoS.

    what: one sentence, what happened. hint: one sentence, what to do about it. `str()` gives both.
    """

    ends_run: bool = False
    """Whether every LoRA of a run would meet it: then the run ends and says it once. Set for a kind of error or a single one."""

    def __init__(self, what: str, hint: str = "", *, ends_run: bool | None = None) -> None:
        super().__init__(f"{what} {hint}".strip())
        self.what = what
        self.hint = hint
        if ends_run is not None:
            self.ends_run = ends_run


OF_A_FILE: tuple[type[Exception], ...] = (
    CarlosError,
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
)
"""What readers and models raise over a bad file, or one that they do not know. A cancel is not one of these."""


class DatabaseError(CarlosError):
    """A metrics database cannot be read, written or changed as asked."""

    ends_run = True


class EncoderError(CarlosError):
    """A CLIP encoder is missing, broken, or not the one that the rows were measured with."""

    ends_run = True


class PromptSetError(CarlosError):
    """A prompt set cannot be found or read."""


class RetrievalError(CarlosError):
    """A query or its limits make no sense."""


class MetricsError(CarlosError):
    """Metrics are undefined for what was given."""


class LoraError(CarlosError):
    """A LoRA file is missing, is not a safetensors file, or does not fit the model."""


class UnreadableLoraError(LoraError):
    """A LoRA file cannot be read now. This says nothing about other files like it."""


class GenerationError(CarlosError):
    """Pictures could not be made."""


class BrokenPictureError(GenerationError):
    """A picture was made, but its values are not finite."""


class UnsuitableSamplingError(GenerationError):
    """Pictures can be made, but with the chosen sampling they do not show what they were asked for."""

    ends_run = True


class IndexingError(CarlosError):
    """A LoRA could not be indexed or its results could not be kept."""


class GalleryError(CarlosError):
    """Pictures that were kept of a LoRA cannot be read."""


class CivitaiError(CarlosError):
    """CivitAI cannot be reached, refuses, or sends something other than what was asked for."""


class CivitaiOddAnswer(CivitaiError):
    """CivitAI answered, but not as documented. This says nothing about its other answers."""


class CivitaiNotFound(CivitaiError):
    """CivitAI does not have what was asked for, or no longer has it."""
