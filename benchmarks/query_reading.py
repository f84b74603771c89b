"""Times how Auto LoRA reads a query: prompts of 5 to 60 words, new, with one word changed, and unchanged.

usage: python -m benchmarks.query_reading [--device cuda] [--threads N] [--kept FOLDER] [--phrases N]

The encoder has CLIP ViT-B/32's size and random weights: speed does not depend on them. The library are the bundled rows, and one
row for each effect that the prompts name, with the direction of its signature, so that just these are found. How many phrases
are judged with all prompts does depend on what an encoder makes of them: see the counts. "runs" are passes of the text tower,
"texts" the features that these gave, "tokens" what went through them, with padding.

The banks of phrases are encoded first and reported apart; --kept is a folder where they stay for the next time. --phrases: only
so many of each, at least 100, which are sooner there and tell effects from content less surely.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import open_clip
import torch

from carlos_core.clip.encoder import DEFAULT_ENCODER_ID, OpenClipEncoder
from carlos_core.clip.pixels import PixelFormat
from carlos_core.clip.signatures import SignatureCache
from carlos_core.database.database import MetricsDatabase
from carlos_core.database.published import load_bundled_database
from carlos_core.prompts.prompt_set import PromptSet, default_content_bank, default_effect_bank, default_signature_prompts
from carlos_core.records import LoraRecord
from carlos_core.search.limits import COMPOSED, ChoiceRules
from carlos_core.search.searcher import Searcher

EFFECTS = ("heavy snowfall", "graphite pencil drawing", "thick oil paint", "film grain", "neon reflections", "rain streaks")
PROMPTS = {
    "5 words, one effect": (
        "film grain, an old boat",
        "old",
        "red",
    ),
    "20 words, one effect": (
        "a woman reading a newspaper, brown leather sofa, tall window behind her, neon reflections, cup of tea, two "
        "sleeping cats",
        "newspaper",
        "letter",
    ),
    "40 words, two effects": (
        "an old fisherman with a grey beard on a small boat, heavy snowfall, wooden pier behind him, distant hills, calm "
        "water, he holds a brass lantern, two gulls sitting on the railing, graphite pencil drawing, an empty village "
        "street below",
        "lantern",
        "bottle",
    ),
    "60 words, two effects": (
        "a young violinist in a long green dress, standing on a balcony above the market, thick oil paint, red curtains "
        "moving in the wind, three pigeons on the roof, a narrow alley with laundry lines, rain streaks, stone stairs "
        "leading down to the river, merchants with straw hats, baskets full of oranges, a sleeping donkey, church towers "
        "far away, morning",
        "oranges",
        "lemons",
    ),
    "40 words, no effect": (
        "a mechanic in blue overalls under a yellow truck, toolbox next to him, concrete floor, open garage door, bicycle"
        " on the wall, radio on a shelf, dog waiting outside, gravel road, telephone poles, dry grass, mountains in the "
        "background, noon",
        "bicycle",
        "ladder",
    ),
    "40 words, no comma, one effect": (
        "a tall knight who has lost his helmet walks beside a tired white horse along the muddy forest path in heavy "
        "snowfall while two crows sit on a broken wagon wheel behind him and smoke rises from distant chimneys now",
        "wagon",
        "mill",
    ),
}
"""Name -> the prompt, a word of it, and another word for it. They have no phrase in common."""


class Tally:
    """What went through the text tower."""

    def __init__(self, model: Any) -> None:
        self.runs = self.texts = self.tokens = 0
        model.ln_final.register_forward_hook(self._features)
        model.transformer.resblocks[0].ln_1.register_forward_hook(self._tokens)

    def reset(self) -> None:
        self.runs = self.texts = self.tokens = 0

    def _features(self, _module: Any, inputs: tuple[torch.Tensor], _output: Any) -> None:
        self.runs += 1
        self.texts += inputs[0].shape[:-1].numel()

    def _tokens(self, _module: Any, inputs: tuple[torch.Tensor], _output: Any) -> None:
        self.tokens += inputs[0].shape[:-1].numel()


def make_encoder(device: str) -> tuple[OpenClipEncoder, Tally]:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).to(device)
    pixel_format = PixelFormat(224, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    tokenizer = open_clip.get_tokenizer("ViT-B-32-quickgelu")
    return OpenClipEncoder(model, tokenizer, DEFAULT_ENCODER_ID, pixel_format, 512), Tally(model)


def first(bank: PromptSet, n: int) -> PromptSet:
    return PromptSet(f"{bank.name}, {n} of them", bank.prompts[:n])


def library(encoder: OpenClipEncoder) -> MetricsDatabase:
    """The bundled rows, and those of the effects."""
    database = load_bundled_database().copy()
    signatures = SignatureCache().signatures(encoder, default_signature_prompts(), EFFECTS)
    for effect, signature in zip(EFFECTS, signatures, strict=True):
        database.upsert(LoraRecord(lora_id=effect, direction=signature.numpy(), strength=5.0, consistency=0.2))
    return database


def encode_banks(searcher: Searcher, tally: Tally) -> None:
    """Make what queries are compared with, and say what that took, if it took anything."""
    tally.reset()
    start = time.perf_counter()
    searcher.content_tails(searcher.background(), torch.ones(len(searcher.db.ranking_arrays.norms), dtype=torch.bool))
    if tally.runs:
        seconds = time.perf_counter() - start
        print(f"The banks: {seconds:.0f} s, {tally.texts:,} texts, {tally.runs:,} runs, {tally.tokens:,} tokens.")


def report(name: str, searcher: Searcher, query: str, tally: Tally) -> None:
    """One line of the table."""
    tally.reset()
    start = time.perf_counter()
    selection = searcher.choose(query, rules=ChoiceRules(COMPOSED))
    seconds = time.perf_counter() - start
    chosen = " + ".join(pick.match.lora_id for pick in selection.picks) or "nothing"
    print(f"| {name} | {seconds:.2f} | {tally.texts:,} | {tally.runs} | {tally.tokens:,} | {chosen} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--phrases", type=int, default=1000)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    encoder, tally = make_encoder(options.device)
    database = library(encoder)
    print(f"{platform.machine()}, {options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as folder:
        kept = options.kept or Path(folder) / "banks"
        effects, content = first(default_effect_bank(), options.phrases), first(default_content_bank(), options.phrases)

        def searcher_with(folder: Path) -> Searcher:
            return Searcher(database, encoder=encoder, signatures=SignatureCache(folder), bank=effects, content=content)

        encode_banks(searcher_with(kept), tally)
        # Queries are not kept for the next time.
        shutil.copytree(kept, Path(folder) / "queries")
        searcher = searcher_with(Path(folder) / "queries")
        encode_banks(searcher, tally)
        start = time.perf_counter()
        searcher.signature("anything"), searcher.looks(["anything"])
        print(f"The first query of a process: {time.perf_counter() - start:.1f} s for the prompts.\n")
        print("| prompt | seconds | texts | runs | tokens | chosen |\n|---|---|---|---|---|---|")
        for name, (query, word, other) in PROMPTS.items():
            report(f"{name}, new", searcher, query, tally)
            report("one word changed", searcher, query.replace(word, other), tally)
            report("unchanged", searcher, query, tally)


if __name__ == "__main__":
    main()
