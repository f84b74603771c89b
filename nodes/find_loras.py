"""Nodes that find LoRAs: for a sentence, like a LoRA, like a picture, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..carlos_core.drawing.card import short_name
from ..carlos_core.errors import RetrievalError
from ..carlos_core.measuring.feature_store import journal_sizes, mean_features
from ..carlos_core.prompts.prompt_set import default_signature_prompts
from ..carlos_core.search import limits, queries
from ..carlos_core.search.by_name import find_named
from ..carlos_core.search.names_in_queries import doubted
from .common import matches, names, next_step, search_widgets, start
from .common.one_lora import BY_ID, id_of_file, lora_name_input
from .common.schema import advanced, keeps_report, search_aliases
from .common.sockets import CarlosDb
from .host import folders, lora_folder, runtime
from .host.progress import bar

if TYPE_CHECKING:
    from ..carlos_core.database.database import MetricsDatabase
    from ..carlos_core.measuring.start import Start
    from ..carlos_core.search.matches import Matches
    from ..carlos_core.search.selection import Selection
    from ..carlos_core.search.understanding import Understanding
    from .common.model_fit import ForModel

_AMONG_INSTALLED = (
    "Switch installed_only on to compare installed LoRAs alone, as Auto LoRA does unless allow_download is on: the list then "
    "holds no other, and one may be sure enough."
)
_OTHERS = ("is another LoRA", "are other LoRAs")
_MUCH_ALIKE = 0.5
"""Cosine with a LoRA from which on another one is not said to do something else."""


class CarlosLoraRetriever(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLoraRetriever",
            display_name="LoRA Retriever (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs for a sentence by what they do to pictures.",
            hidden=list(search_widgets.HIDDEN),
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "query",
                    multiline=True,
                    tooltip='What the LoRA should do, e.g. "snowfall".',
                ),
                search_widgets.top_k_input(),
                *search_widgets.effect_inputs(optional=False),
                *search_widgets.file_inputs(optional=False),
                search_widgets.prompts_input(),
                io.Float.Input(
                    "min_alignment",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Leaves out LoRAs whose alignment in LoRA Indexer's report is lower than this. 0: no limit.",
                    **advanced(),
                ),
                search_widgets.ranking_input(
                    limits.PUBLISHED,
                    "published: by the score of the published method. calibrated: by how much better a LoRA fits the sentence "
                    "than it fits unrelated effects, with a word for how sure each match is.",
                ),
                *search_widgets.civitai_inputs(),
                search_widgets.model_input(),
                search_widgets.min_confidence_input(),
            ],
            outputs=matches.outputs(),
            **search_aliases("find lora", "which lora", "search lora", "lora search", "lora from text", "semantic lora search"),
            **keeps_report(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return matches.fingerprint()

    @classmethod
    def execute(
        cls,
        database: MetricsDatabase,
        query: str,
        prompts: str,
        top_k: int,
        ranking: str = limits.PUBLISHED,
        min_confidence: str = limits.ANY,
        **settings: Any,
    ) -> io.NodeOutput:
        folders.check_choice(ranking, limits.RANKINGS, "ranking")
        folders.check_choice(min_confidence, limits.CONFIDENCES, "confidence")
        takes_all = min_confidence == limits.ANY
        searcher = runtime.searcher(database, folders.prompt_set(prompts, default_signature_prompts()))
        progress = bar()
        chosen: Selection | None = None
        first: Start | None = None

        def find(installed: dict[str, str], allowed: ForModel) -> Matches:
            nonlocal chosen, first
            among, within = searcher.among(installed, allowed.preference), allowed.limits
            first = start.start_of(database, installed, cls.hidden, settings.get("model"))
            if not runtime.is_encoder_at_hand(database) and (nothing := among.nothing(query, within)) is not None:
                return nothing
            with start.told_before_fetching(first, database, cls.hidden):
                signature = searcher.signature(query)
            background = None if takes_all and ranking == limits.PUBLISHED else searcher.background(progress)
            listed = among.find(signature, within, top_k, query=query, ranking=ranking, background=background)
            if not takes_all:
                listed, chosen = among.mark_sure(listed, min_confidence, limits=within, ranking=ranking, on_progress=progress)
                listed = doubted(query, listed, names.in_query(query, database, allowed))
            return listed

        found = matches.searched(database, find, cls.hidden, **settings)
        understanding: Understanding | None
        if chosen is None:
            among = searcher.among(lora_folder.installed(found.files), found.allowed.preference)
            understanding = among.understand(query, limits=found.allowed.limits, may_skip_effects=True, on_progress=progress)
            is_lost = not understanding.effects and not _fits(found.matches)
        else:
            understanding, is_lost = chosen.understanding, not chosen.picks
        sure = {match.lora_id for match in found.matches.items if match.is_sure} if found.matches.is_judged else set()
        further = names.notes_of(query, database, found.allowed, is_lost=is_lost, chosen=sure)
        is_blocked = bool(found.matches.items) and not found.matches.installed
        if is_blocked and not settings["installed_only"] and 0 < len(found.allowed.installed) < len(database):
            further.append(_AMONG_INSTALLED)
        is_unfit = is_lost if chosen is None else chosen.is_unfit
        is_name = is_unfit and names.is_only_name(query, database, found.allowed)
        then = (
            next_step.SAY_EFFECT if is_name else next_step.after_search(database, found.allowed, found.files) if is_unfit else ""
        )
        return matches.output_of(database, found, understanding=understanding, further=further, then=then, first=first)


class CarlosSimilarLoras(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosSimilarLoras",
            display_name="Similar LoRAs (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs that change pictures the same way as one you know.",
            hidden=list(search_widgets.HIDDEN),
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input("lora_id", default="", tooltip="Id of the LoRA to compare with, as in a report."),
                search_widgets.top_k_input(),
                lora_name_input("The LoRA to compare with, from your list, instead of its id."),
                *search_widgets.optional_limits(),
                search_widgets.model_input(),
                io.Float.Input(
                    "min_cosine",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="How like it a LoRA must be for lora_name and Apply Retrieved LoRAs: 1 does the same, 0.5 is a fair "
                    "limit. Others are only listed. 0: the most alike is taken, however unlike it is.",
                ),
            ],
            outputs=matches.outputs(),
            **search_aliases("lora like lora", "find similar lora", "related loras", "lora alternative"),
            **keeps_report(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return matches.fingerprint()

    @classmethod
    def execute(
        cls, database: MetricsDatabase, lora_id: str, lora_name: str = BY_ID, min_cosine: float = 0.0, **settings: Any
    ) -> io.NodeOutput:
        lora_id = lora_id.strip() if lora_name == BY_ID else id_of_file(database, lora_name, settings.get("model"))
        if not lora_id:
            raise RetrievalError(
                "No LoRA is chosen.", "Choose the LoRA to compare with in lora_name, or type its id into lora_id."
            )
        signature = queries.like_lora(database, lora_id)
        row = database.row(lora_id)
        name = row.name if row is not None else lora_id
        # The LoRA itself is not an answer.
        others: dict[str, Any] = {"exclude": frozenset({lora_id}), "others_are": _OTHERS, "about": _how_alike}
        others |= {"title": f"LoRAs like {short_name(name)}", "min_cosine": min_cosine}
        return matches.found(database, f"like {name}", signature, hidden=cls.hidden, **others, **settings)


def _how_alike(found: Matches) -> list[str]:
    """That no LoRA is much like the one that was asked for, where that is so."""
    nearest = found.items[0].score if found.items else 1.0
    if nearest >= _MUCH_ALIKE or found.doubt:
        return []
    return [f"No LoRA is much like it: the nearest has a cosine of {nearest:.2f} (1: it does the same, 0: nothing in common)."]


class CarlosLorasLikeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLorasLikeImage",
            display_name="LoRAs Like Image (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs that make pictures look like yours.",
            hidden=list(search_widgets.HIDDEN),
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.Image.Input("image", tooltip="A picture with the look you want. Several count as one, by their mean."),
                search_widgets.top_k_input(),
                io.Image.Input(
                    "image_without", optional=True, tooltip="The same picture without that look. Then only the difference counts."
                ),
                *search_widgets.optional_limits(),
                search_widgets.model_input(),
            ],
            outputs=matches.outputs(),
            **search_aliases(
                "find lora by image", "lora from picture", "image to lora", "reverse lora search", "style match", "which lora"
            ),
            **keeps_report(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        # A single picture is compared with the pictures without a LoRA, and indexing may have added some since.
        sizes = journal_sizes(_base_folder())
        return f"{matches.fingerprint()}|{sizes}"

    @classmethod
    def execute(
        cls, database: MetricsDatabase, image: torch.Tensor, image_without: torch.Tensor | None = None, **settings: Any
    ) -> io.NodeOutput:
        encoder = runtime.encoder(database)
        mean = None if image_without is not None else mean_features(_base_folder(), encoder.encoder_id)
        signature = queries.like_images(
            encoder,
            image,
            without=image_without,
            base_mean=None if mean is None else torch.from_numpy(mean),
        )
        if image_without is not None:
            query, note = "the difference of the pictures", "Compared with image_without."
        elif mean is not None:
            query, note = "the picture", "Compared with the pictures without a LoRA that indexing has kept."
        else:
            query = "the picture"
            note = "Compared with nothing: what the picture shows counts too. Index a LoRA, or give image_without."
        return matches.found(database, query, signature, note, hidden=cls.hidden, title=f"LoRAs like {query}", **settings)


class CarlosLorasByName(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CarlosLorasByName",
            display_name="LoRAs by Name (CARLoS)",
            category="CARLoS",
            description="Finds LoRAs by their names, files, ids and trigger words.",
            hidden=list(search_widgets.HIDDEN),
            inputs=[
                CarlosDb.Input("database", tooltip="From Metrics DB Loader."),
                io.String.Input(
                    "name", default="", tooltip="Words or parts of words, in any order. A LoRA must have all of them."
                ),
                search_widgets.top_k_input(),
                *search_widgets.file_inputs(optional=True),
                search_widgets.model_input(),
            ],
            outputs=matches.outputs(),
            **search_aliases("lora list", "search lora name", "find lora by filename", "trigger words", "find lora"),
            **keeps_report(),
        )

    @classmethod
    def fingerprint_inputs(cls, **_inputs: object) -> str:
        return matches.fingerprint()

    @classmethod
    def execute(cls, database: MetricsDatabase, name: str, top_k: int, **settings: Any) -> io.NodeOutput:
        def find(installed: dict[str, str], allowed: ForModel) -> Matches:
            return find_named(database, name, top_k=top_k, limits=allowed.limits, installed=installed)

        return matches.output_of(database, matches.searched(database, find, cls.hidden, **settings), by_effect=False)


def _fits(found: Matches) -> bool:
    """Whether something fits, as far as it is known: without confidences the best is taken for fitting."""
    return bool(found.items) and (found.surest is None or found.surest.fits)


def _base_folder() -> Path:
    """Where indexing keeps features of pictures without a LoRA."""
    return folders.cache_folder() / "base"


NODES = [CarlosLoraRetriever, CarlosSimilarLoras, CarlosLorasLikeImage, CarlosLorasByName]
