"""A prompt set as data, its loader, its content hash and its stratified order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import zip_longest
from pathlib import Path

from ..errors import PromptSetError
from ..foreign import whole_text
from ..storage import bytes_within, short_hash

_DATA = Path(__file__).parent / "data"
_MOST_BYTES = 16 << 20
_MOST_PROMPTS = 200_000
_LONGEST = 4096
"""Characters of a prompt; CLIP reads some hundred."""

_SHAPE = 'Expected {"name": ..., "prompts": {"<topic>": {"<sub-category>": ["...", ...]}}} or a flat list of strings.'


@dataclass(frozen=True)
class Prompt:
    """One prompt and where it belongs."""

    text: str
    topic: str
    sub_category: str


@dataclass(frozen=True)
class PromptSet:
    """Prompts in file order."""

    name: str
    prompts: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(prompt.text for prompt in self.prompts)

    @cached_property
    def content_hash(self) -> str:
        """16 hex digits that name the content. They do not depend on the set's name."""
        content = [[prompt.topic, prompt.sub_category, prompt.text] for prompt in self.prompts]
        return short_hash(json.dumps(content, ensure_ascii=False), 16)

    def stratified(self) -> tuple[Prompt, ...]:
        """All prompts, in rounds with one prompt of each sub-category: any beginning of this order covers the topics evenly."""
        groups: dict[tuple[str, str], list[Prompt]] = {}
        for prompt in self.prompts:
            groups.setdefault((prompt.topic, prompt.sub_category), []).append(prompt)
        rounds = zip_longest(*groups.values())
        return tuple(prompt for round_ in rounds for prompt in round_ if prompt is not None)


def load_prompt_set(path: str | Path) -> PromptSet:
    """Read a prompt set from a JSON file.

    Raises PromptSetError if the file is missing, is not JSON, has the wrong form, is empty or too large, or holds a prompt twice.
    """
    path = Path(path)
    try:
        content = json.loads(_text_of(path))
    except OSError as error:
        raise PromptSetError(f"Cannot read the prompt set {path.name}: {error.strerror}.", "Check the file.") from error
    except (ValueError, RecursionError) as error:
        raise PromptSetError(f"The prompt set {path.name} is not valid JSON ({error}).", _SHAPE) from error
    if isinstance(content, list):
        content = {"prompts": {"all": {"all": content}}}
    try:
        prompts = tuple(
            Prompt(text=_checked_text(text), topic=whole_text(topic), sub_category=whole_text(sub_category))
            for topic, sub_categories in content["prompts"].items()
            for sub_category, texts in sub_categories.items()
            for text in _checked_list(texts)
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PromptSetError(f"The prompt set {path.name} has the wrong form ({error!r}).", _SHAPE) from error
    if len(prompts) > _MOST_PROMPTS:
        raise PromptSetError(f"The prompt set {path.name} holds {len(prompts):,} prompts.", f"Keep at most {_MOST_PROMPTS:,}.")
    if not prompts:
        raise PromptSetError(f"The prompt set {path.name} holds no prompts.", _SHAPE)
    repeated = [text for text, count in Counter(prompt.text for prompt in prompts).items() if count > 1]
    if repeated:
        raise PromptSetError(
            f"The prompt set {path.name} holds {min(repeated)!r} more than once.", "Each prompt counts once: remove the copies."
        )
    return PromptSet(name=str(content.get("name") or path.stem), prompts=prompts)


def _text_of(path: Path) -> str:
    """The text of a file. Raises OSError, ValueError for what is no text, and PromptSetError for a file that is too large."""
    content = bytes_within(path, _MOST_BYTES)
    if content is None:
        raise PromptSetError(f"The prompt set {path.name} is larger than {_MOST_BYTES >> 20} MB.", "Keep fewer prompts.")
    return content.decode("utf-8")


def _checked_list(texts: object) -> list[object]:
    if not isinstance(texts, list):
        raise TypeError(f"{ascii(texts)[:80]} is not a list of prompts")
    return texts


def _checked_text(text: object) -> str:
    if not isinstance(text, str) or not text.strip() or whole_text(text) != text:
        raise ValueError(f"{ascii(text)[:80]} is not a prompt")
    if len(text) > _LONGEST:
        raise ValueError(f"{text[:40]!a}... is longer than {_LONGEST} characters")
    return text.strip()


@lru_cache(maxsize=1)
def default_index_prompts() -> PromptSet:
    """The 280 prompts that LoRAs are measured on: ten topics, 35 sub-categories of 8 prompts."""
    return load_prompt_set(_DATA / "index.json")


@lru_cache(maxsize=1)
def default_signature_prompts() -> PromptSet:
    """The 280 prompts of query signatures: the same sub-categories, but other prompts."""
    return load_prompt_set(_DATA / "signature.json")


@lru_cache(maxsize=1)
def default_effect_bank() -> PromptSet:
    """561 short phrases for effects of every kind: what unrelated queries look like, for `calibration`.

    It has the form of a prompt set, but its texts are used as queries, not as prompts. The list is fixed: a change of it changes
    every z-score and p-value.
    """
    return load_prompt_set(_DATA / "effects.json")


@lru_cache(maxsize=1)
def default_content_bank() -> PromptSet:
    """585 short phrases that say what a picture shows, or nothing: what a query is when it asks for no effect, for `content`.

    Subjects, scenes, colours, places, tags, names, single words, other languages. As with the bank of effects, a change of the
    list changes what is told from it.
    """
    return load_prompt_set(_DATA / "content.json")
