"""Does a LoRA's direction on one topic find better for a prompt of that topic than its direction on all of them?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carlos_core.prompts.prompt_set import load_prompt_set
from studies.calibration_variants import OURS, head, unit
from studies.stopping_pools import Pool

if TYPE_CHECKING:
    from studies.calibration import Queries, World

TEXT = """
## Fits this prompt

Each prompt of the signature set in turn is the workflow's own; the topics' weights come from its centred cosine with the mean
text feature of each topic's index prompts. On the topic: cosine of the direction made of two seeds with the one that the other
two seeds give on the prompt's own topic.
"""


def report_topics(pools: Sequence[str], worlds: Sequence[World], queries: Queries, miniworld: Path) -> None:
    print(TEXT)
    print(head("CLIP", "direction", "on the topic", "published, top-1", "signature on the topic, too", "calibrated, top-1"))
    index = load_prompt_set(miniworld / "prompts_index.json")
    topics = list(dict.fromkeys(prompt.topic for prompt in index.prompts))
    of_prompt = {prompt.text: prompt.topic for prompt in index.prompts}
    asked = queries.in_library
    for world in worlds:
        pool = Pool(pools, "full", world.name)
        files = [file for row, file in enumerate(world.files) if world.passes[row] and file in pool.diffs]
        place = {topic: [k for k, text in enumerate(pool.prompts) if of_prompt[text] == topic] for topic in topics}
        by_topic = np.array([[pool.diffs[file][:, place[topic]].mean((0, 1)) for topic in topics] for file in files])
        halves = [
            np.array([[pool.diffs[file][half][:, place[topic]].mean((0, 1)) for topic in topics] for file in files])
            for half in (slice(0, 2), slice(2, 4))
        ]
        centres = np.stack(
            [world.encoder.encode_texts([p.text for p in index.prompts if p.topic == topic]).numpy().mean(0) for topic in topics]
        )
        own = world.encoder.encode_texts(world.prompts.texts).numpy()
        likeness = unit(own - centres.mean(0)) @ unit(centres - centres.mean(0)).T
        signatures = world.signatures(asked)
        on_topic = _signatures_by_topic(world, asked, topics)
        right = np.array([[file in query.right for file in files] for query in asked])
        even = np.full((len(own), len(topics)), 1 / len(topics))
        positive = np.clip(likeness, 0, None)
        nearest = np.eye(len(topics))[likeness.argmax(1)]
        for name, weights in (
            ("all topics alike", even),
            ("weighted by likeness", positive / positive.sum(1, keepdims=True)),
            ("nearest topic alone", nearest),
            ("half nearest topic, half all", (nearest + even) / 2),
        ):
            known, published, topical, calibrated = [], [], [], []
            for weight, prompt in zip(weights, world.prompts.prompts, strict=True):
                topic = topics.index(prompt.topic)
                rows = np.einsum("t,rtd->rd", weight, by_topic)
                known.append((unit(np.einsum("t,rtd->rd", weight, halves[0])) * unit(halves[1][:, topic])).sum(1).mean())
                published.append(_first(unit(signatures) @ unit(rows).T, right))
                topical.append(_first(unit(on_topic[topic]) @ unit(rows).T, right))
                calibrated.append(_first(OURS.scores(world.bank, rows)(signatures), right))
            shares = " | ".join(f"{100 * np.mean(part):.1f}" for part in (published, topical, calibrated))
            print(f"| {world.name} | {name} | {np.mean(known):.3f} | {shares} |")


def _signatures_by_topic(world: World, asked: Sequence, topics: Sequence[str]) -> list[np.ndarray]:
    """Signatures over the prompts of each topic alone. [topics] of [Q, D]."""
    found = []
    for topic in topics:
        prompts = [prompt.text for prompt in world.prompts.prompts if prompt.topic == topic]
        base = world.encoder.encode_texts(prompts).numpy()
        found.append(
            np.stack([(world.encoder.encode_texts([f"{p} {q.text}" for p in prompts]).numpy() - base).mean(0) for q in asked])
        )
    return found


def _first(scores: np.ndarray, right: np.ndarray) -> float:
    return float(right[np.arange(len(right)), scores.argmax(1)].mean())
