"""Signatures of queries: the shortcuts give what the plain definition gives, and nothing that was kept wrongly is used."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from carlos_core.clip.encoder import OpenClipEncoder
from carlos_core.clip.loading import load_encoder_parts
from carlos_core.clip.signatures import SignatureCache
from carlos_core.prompts.prompt_set import Prompt, PromptSet, default_signature_prompts
from tests.support import miniworld

QUERIES = {
    "a word": "snow",
    "a phrase": "snowfall, cold winter scene, visible breath",
    "punctuation": "'s !!! ... don't (cold:1.3) [x] -- #1",
    "upper case": "HEAVY Snowfall In NEW YORK",
    "other alphabets": "naïve café, Straße, 雪景色, снег ❄️",
    "HTML entities": "salt &amp; pepper &lt;b&gt; &amp;amp; rock&nbsp;roll",
    "spaces inside": "snow \t  and \n\n  ice",
    "one sign": "!",
    "digits": "1980s 35mm f/1.8",
    "nothing visible": "\u200b",
    "overflows the context of some prompts": "very " * 58 + "cold",
    "overflows the context of all prompts": "a painting of snow on the hills, " * 30,
}


class LetterCounter:
    """Implements `embedding.Encoder` without CLIP: a text's features are how often it has each letter."""

    encoder_id = "letters"
    dimension = 26

    def encode_images(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(text.count(chr(97 + k))) for k in range(26)] for text in texts])


def prompt_set(*texts: str) -> PromptSet:
    return PromptSet("made up", tuple(Prompt(text, "t", "s") for text in texts))


@torch.inference_mode()
def naive_signature(model: Any, tokenizer: Any, prompts: PromptSet, query: str) -> Tensor:
    """Mean over prompts of t(p + " " + query) - t(p), each text run whole, at the full context. [D] float64."""
    with_query = model.encode_text(tokenizer([f"{prompt} {query}" for prompt in prompts.texts])).double()
    return (with_query - model.encode_text(tokenizer(list(prompts.texts))).double()).mean(0)


def assert_near(signature: Tensor, expected: Tensor) -> None:
    assert signature.dtype == torch.float32
    assert float((signature.double() - expected).norm()) < 1e-5 * max(1.0, float(expected.norm()))


@pytest.mark.parametrize("kind", QUERIES)
def test_a_signature_is_the_one_of_the_plain_definition(
    encoder: OpenClipEncoder, open_clip_model: Any, tokenizer: Any, signature_prompts: PromptSet, kind: str
) -> None:
    signature = SignatureCache().signature(encoder, signature_prompts, QUERIES[kind])
    assert_near(signature, naive_signature(open_clip_model, tokenizer, signature_prompts, QUERIES[kind]))


def test_awkward_prompts_have_the_signature_of_the_plain_definition_too(
    encoder: OpenClipEncoder, open_clip_model: Any, tokenizer: Any
) -> None:
    prompts = prompt_set(
        *("a cat", "!", "it's", "an open &", "rock &amp;", "a dog  with   spaces", "東京 ❄"),
        *("word " * 74, "word " * 75, "word " * 200),
        # Wrongly decoded texts, which CLIP's cleaning mends in the light of what follows.
        *("voilÃ", "â€", "cafÃ©"),
    )
    for query in ("snow", "amp; roll", "'s"):
        signature = SignatureCache().signature(encoder, prompts, query)
        assert_near(signature, naive_signature(open_clip_model, tokenizer, prompts, query))


def test_the_built_in_prompts_have_the_signature_of_the_plain_definition(
    encoder: OpenClipEncoder, open_clip_model: Any, tokenizer: Any
) -> None:
    prompts = default_signature_prompts()
    signature = SignatureCache().signature(encoder, prompts, "oil painting style")
    assert_near(signature, naive_signature(open_clip_model, tokenizer, prompts, "oil painting style"))


def test_the_published_encoders_architecture_has_the_signature_of_the_plain_definition(
    published: tuple[Any, OpenClipEncoder], tokenizer: Any
) -> None:
    prompts = PromptSet("some", default_signature_prompts().prompts[::40])
    signature = SignatureCache().signature(published[1], prompts, "Snowfall, cold winter scene")
    assert_near(signature, naive_signature(published[0], tokenizer, prompts, "Snowfall, cold winter scene"))


def test_signatures_made_together_are_those_made_alone(encoder: OpenClipEncoder, signature_prompts: PromptSet) -> None:
    # Texts that begin alike, awkward ones, and some twice.
    words = ["soft", "light", "at", "dawn", "over", "old", "wooden", "boats"]
    runs = [" ".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
    queries = [*runs, *QUERIES.values(), *runs[:5]]
    together = SignatureCache().signatures(encoder, signature_prompts, queries)
    assert len(together) == len(queries)
    for query, signature in zip(queries, together, strict=True):
        alone = SignatureCache().signature(encoder, signature_prompts, query)
        assert float((signature - alone).abs().max()) < 1e-6 * max(1.0, float(alone.norm())), query


def test_signatures_made_together_are_those_of_the_plain_definition(
    encoder: OpenClipEncoder, open_clip_model: Any, tokenizer: Any, signature_prompts: PromptSet
) -> None:
    queries = [
        "soft light",
        "soft light at dawn",
        "Soft rain, at night",
        "naïve café",
        "salt &amp; pepper",
        "very " * 58 + "cold",
    ]
    for query, signature in zip(queries, SignatureCache().signatures(encoder, signature_prompts, queries), strict=True):
        assert_near(signature, naive_signature(open_clip_model, tokenizer, signature_prompts, query))


class KeepsNothing(OpenClipEncoder):
    """The mini CLIP as it is used on a GPU, where the prompts' keys and values are not kept."""

    keeps_prefixes = False


def mini_encoder(kind: type[OpenClipEncoder]) -> OpenClipEncoder:
    parts = load_encoder_parts(miniworld.encoder_id(), [miniworld.MINIWORLD])
    return kind(parts.model, parts.tokenizer, parts.encoder_id, parts.pixel_format, parts.dimension)


def test_a_signature_does_not_depend_on_whether_the_prompts_are_kept(
    encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    queries = list(QUERIES.values())
    kept = SignatureCache().signatures(encoder, signature_prompts, queries)
    made_again = SignatureCache().signatures(mini_encoder(KeepsNothing), signature_prompts, queries)
    for one, other in zip(kept, made_again, strict=True):
        assert float((one - other).abs().max()) < 1e-6 * max(1.0, float(one.norm()))


def test_many_queries_take_few_large_runs_of_the_tower_and_each_is_bounded(signature_prompts: PromptSet) -> None:
    sizes: list[int] = []
    parts = load_encoder_parts(miniworld.encoder_id(), [miniworld.MINIWORLD])
    model: Any = parts.model
    model.transformer.resblocks[0].ln_1.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0][..., 0].numel()))
    encoder = OpenClipEncoder(model, parts.tokenizer, parts.encoder_id, parts.pixel_format, parts.dimension)
    cache = SignatureCache()
    cache.signature(encoder, signature_prompts, "anything")
    sizes.clear()
    cache.signature(encoder, signature_prompts, "old snow")
    alone = sum(sizes)
    sizes.clear()
    cache.signatures(
        encoder, signature_prompts, [f"{a} {b}" for a in ("snow", "rain", "fog", "mist") for b in "cdefghijklmnopqr"]
    )
    assert max(sizes) <= 4096
    assert len(sizes) < 64 / 8
    # The first words are run once for each prompt.
    assert sum(sizes) < 0.75 * 64 * alone


def test_any_encoder_will_do_for_the_definition() -> None:
    # " zebra" adds the same letters to every prompt.
    signature = SignatureCache().signature(LetterCounter(), prompt_set("a cat", "some dogs"), "zebra")
    assert {chr(97 + k): count for k, count in enumerate(signature.tolist()) if count} == dict.fromkeys("zebra", 1.0)


def test_any_encoder_makes_signatures_together() -> None:
    found = SignatureCache().signatures(LetterCounter(), prompt_set("a cat", "some dogs"), ["zebra", "ant", "zebra"])
    assert [int(signature.sum()) for signature in found] == [5, 3, 5]
    assert SignatureCache().signatures(LetterCounter(), prompt_set("a cat"), []) == []


def test_a_signature_depends_on_query_and_prompts_not_on_what_was_asked_before(
    encoder: OpenClipEncoder, signature_prompts: PromptSet
) -> None:
    busy = SignatureCache()
    others = prompt_set("a cat", "a dog")
    for prompts, query in ((signature_prompts, "rain"), (others, "snow"), (signature_prompts, "fog")):
        busy.signature(encoder, prompts, query)
    assert torch.equal(
        busy.signature(encoder, signature_prompts, "snow"), SignatureCache().signature(encoder, signature_prompts, "snow")
    )


def test_a_signature_kept_on_disk_needs_no_encoder(
    encoder: OpenClipEncoder, signature_prompts: PromptSet, tmp_path: Path
) -> None:
    made = SignatureCache(tmp_path / "cache").signature(encoder, signature_prompts, "snow")
    known = SignatureCache(tmp_path / "cache").known(encoder.encoder_id, signature_prompts, "snow")
    assert known is not None
    assert torch.equal(known, made)


def test_what_is_known_is_known_for_one_encoder_prompt_set_and_query_only(
    encoder: OpenClipEncoder, signature_prompts: PromptSet, tmp_path: Path
) -> None:
    cache = SignatureCache(tmp_path)
    cache.signature(encoder, signature_prompts, "snow")
    assert cache.known("another encoder", signature_prompts, "snow") is None
    assert cache.known(encoder.encoder_id, prompt_set("a cat"), "snow") is None
    assert cache.known(encoder.encoder_id, signature_prompts, "Snow") is None
    same_content = PromptSet("another name", signature_prompts.prompts)
    assert cache.known(encoder.encoder_id, same_content, "snow") is not None


def kept_files(encoder: OpenClipEncoder, prompts: PromptSet, folder: Path) -> list[Path]:
    SignatureCache(folder).signature(encoder, prompts, "snow")
    return sorted(folder.iterdir())


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        b"\0" * 500,
        b"PK\x03\x04 the beginning of a ZIP file",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (64,), ",
        saved(np.ones(64, np.float32)).replace(b"v\x00{", b"6\x00{"),
        pickled(),
        saved(np.full(64, np.nan, np.float32)),
        saved(np.ones((2, 32), np.float32)),
    ],
    ids=["empty", "garbage", "zeros", "zip", "cut header", "wrong header", "pickle", "NaN", "matrix"],
)
def test_a_damaged_file_is_ignored_and_made_again(
    encoder: OpenClipEncoder, signature_prompts: PromptSet, tmp_path: Path, content: bytes
) -> None:
    files = kept_files(encoder, signature_prompts, tmp_path)
    expected = SignatureCache().signature(encoder, signature_prompts, "snow")
    for file in files:
        file.write_bytes(content)
    cache = SignatureCache(tmp_path)
    assert cache.known(encoder.encoder_id, signature_prompts, "snow") is None
    assert torch.equal(cache.signature(encoder, signature_prompts, "snow"), expected)
    assert torch.equal(SignatureCache(tmp_path).known(encoder.encoder_id, signature_prompts, "snow"), expected)  # type: ignore[arg-type]


def test_a_file_cut_off_anywhere_gives_no_wrong_signature(
    encoder: OpenClipEncoder, signature_prompts: PromptSet, tmp_path: Path
) -> None:
    (file,) = kept_files(encoder, signature_prompts, tmp_path)
    content = file.read_bytes()
    whole = SignatureCache(tmp_path).known(encoder.encoder_id, signature_prompts, "snow")
    assert whole is not None
    lost = 0
    for length in range(0, len(content), 101):
        file.write_bytes(content[:length])
        known = SignatureCache(tmp_path).known(encoder.encoder_id, signature_prompts, "snow")
        assert known is None or torch.equal(known, whole), length
        lost += known is None
    assert lost > 0
    file.write_bytes(content)
    known = SignatureCache(tmp_path).known(encoder.encoder_id, signature_prompts, "snow")
    assert known is not None
    assert torch.equal(known, whole)


def test_a_cache_that_cannot_be_written_costs_only_a_line_in_the_log(
    encoder: OpenClipEncoder, signature_prompts: PromptSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    signature = SignatureCache(tmp_path / "file" / "cache").signature(encoder, signature_prompts, "snow")
    assert torch.equal(signature, SignatureCache().signature(encoder, signature_prompts, "snow"))
    assert [record.message.count("cannot be used now") for record in caplog.records if record.levelname == "WARNING"] == [1]
