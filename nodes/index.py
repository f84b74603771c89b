"""Nodes that measure LoRAs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.samplers
import comfy.utils
from comfy_api.latest import io, ui

from ..carlos_core import database as databases
from ..carlos_core.errors import DatabaseError, IndexingError
from ..carlos_core.prompts import default_index_prompts
from . import encoding, folders
from .report import number, report
from .sockets import CarlosDb

if TYPE_CHECKING:
    from ..carlos_core.indexing import Progress

CIVITAI = "CivitAI"
PRESETS = ("quick", "standard", "paper", "custom")
_PREVIEW_SIDE = 512


class CarlosLoraIndexer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
        return io.Schema(
            node_id="CarlosLoraIndexer",
            display_name="LoRA Indexer (CARLoS)",
            category="CARLoS",
            description="Measures what a LoRA does: compares pictures with and without it through CLIP, and keeps the row.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("vae"),
                CarlosDb.Input("database", tooltip="A database of your own: Metrics DB Loader with create_as."),
                io.Combo.Input("lora_name", options=[CIVITAI, *folders.lora_names()], tooltip="The LoRA to measure."),
                io.String.Input("civitai_model_id", default="", tooltip="With lora_name = CivitAI."),
                io.String.Input("civitai_version_id", default="", tooltip="With lora_name = CivitAI."),
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default="standard",
                    tooltip="custom: all prompts x seeds with the settings below.",
                ),
                io.Combo.Input(
                    "prompts",
                    options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
                    default=folders.DEFAULT_PROMPTS,
                    tooltip="Prompts to measure on: built in (280), or a file in models/carlos/prompts.",
                ),
                io.Int.Input("seeds", default=1, min=1, max=1024, tooltip="Pictures for each prompt."),
                io.Int.Input("first_seed", default=0, min=0, max=2**53, tooltip="Seed of the first; the next ones count up."),
                io.Int.Input(
                    "max_prompts", default=0, min=0, max=100_000, tooltip="Only so many prompts, spread over all topics. 0: all."
                ),
                io.Int.Input("steps", default=25, min=1, max=1000),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1),
                io.Combo.Input("sampler_name", options=list(samplers), default="euler"),
                io.Combo.Input("scheduler", options=list(schedulers), default="normal"),
                io.Int.Input("width", default=0, min=0, max=8192, step=8, tooltip="0: native size of the model."),
                io.Int.Input("height", default=0, min=0, max=8192, step=8, tooltip="0: native size of the model."),
                io.Int.Input("batch_size", default=0, min=0, max=256, tooltip="Pictures at a time. 0: what memory allows."),
                io.Float.Input("lora_weight", default=1.0, min=-10.0, max=10.0, step=0.05),
                io.Boolean.Input("overwrite", default=False, tooltip="Measure again what is in the database already."),
            ],
            outputs=[
                CarlosDb.Output(display_name="database"),
                io.String.Output(display_name="report"),
                io.Image.Output(display_name="contact_sheet", tooltip="Above without, below with the LoRA."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        database,
        lora_name: str,
        civitai_model_id: str,
        civitai_version_id: str,
        preset: str,
        prompts: str,
        seeds: int,
        first_seed: int,
        max_prompts: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        width: int,
        height: int,
        batch_size: int,
        lora_weight: float,
        overwrite: bool,
    ) -> io.NodeOutput:
        from ..carlos_core.generation.comfy import ComfyGenerator
        from ..carlos_core.indexing import plan, protocol, runner
        from ..carlos_core.loras import read_lora_file

        folders.check_choice(preset, PRESETS, "preset")
        folders.check_choice(sampler_name, comfy.samplers.KSampler.SAMPLERS, "sampler")
        folders.check_choice(scheduler, comfy.samplers.KSampler.SCHEDULERS, "scheduler")
        if preset != "custom":
            raise IndexingError(
                f"The preset {preset!r} is not available yet.",
                "Choose the preset 'custom', which takes the settings below it as they are.",
            )
        if lora_name == CIVITAI:
            raise IndexingError(
                "LoRAs cannot be fetched from CivitAI yet.", "Put the file into models/loras and choose it in lora_name."
            )
        _check_writable(database)
        lora = read_lora_file(folders.lora_path(lora_name), lora_name)
        prompt_set = folders.prompt_set(prompts, default_index_prompts())
        shots = plan.all_shots(prompt_set, seeds=seeds, first_seed=first_seed, max_prompts=max_prompts)
        generator = ComfyGenerator(
            model,
            clip,
            vae,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler_name,
            scheduler=scheduler,
            width=width,
            height=height,
        )
        wanted = protocol.Protocol(
            preset=preset,
            prompts_hash=prompt_set.content_hash,
            seed_rule=protocol.shared_seed_rule(first_seed),
            lora_weight=lora_weight,
            trigger_rule=protocol.TRIGGERS_ON_LORA_SIDE,
            generator=generator.settings,
        )
        # The file as it is now: another run may have written it since the loader read it.
        database = databases.load_database(database.path)
        row = database.row(lora.lora_id)
        covering = None if row is None or overwrite else protocol.protocol_covers(row, database.protocols, wanted, len(shots))
        if row is not None and covering is not None:
            if row["file_name"] != lora.name:
                database = databases.change_database(database.path, lambda db: db.set_value(lora.lora_id, "file_name", lora.name))
            sheet = runner.kept_contact_sheet(
                lora,
                generator=generator,
                encoder_id=database.encoder_id,
                dimension=database.dimension,
                protocol=wanted,
                shots=shots,
                working_directory=folders.cache_folder(),
            )
            facts = _facts(lora, row, "already indexed", 0, 0, [f"measured with the preset {covering!r} on {row['indexed_at']}"])
            return _output(database, facts, sheet)
        measurement = runner.measure_lora(
            lora,
            generator=generator,
            encoder=encoding.load_encoder(str(database.encoder_id)),
            protocol=wanted,
            shots=shots,
            working_directory=folders.cache_folder(),
            batch_size=batch_size,
            afresh=overwrite,
            on_progress=_progress_bar(),
        )
        database = databases.upsert_into_file(database.path, measurement.record, wanted.described())
        facts = _facts(
            lora,
            vars(measurement.record),
            "indexed",
            measurement.model_evaluations,
            measurement.base_model_evaluations,
            [],
        )
        return _output(database, facts, measurement.contact_sheet)


def _check_writable(database) -> None:
    """Refuse before anything is generated. Raises DatabaseError."""
    if database.read_only:
        raise DatabaseError("The bundled database is read-only.", "Type a name into create_as of Metrics DB Loader.")
    if database.path is None:
        raise DatabaseError("This database has no file to save to.", "Type a name into create_as of Metrics DB Loader.")


def _progress_bar():
    """A callback for the runner that moves the node's bar and shows the newest picture. It raises when the user cancels."""
    from ..carlos_core.indexing.contact_sheet import picture_of

    bar = comfy.utils.ProgressBar(1)

    def show(progress: Progress) -> None:
        preview = None if progress.image is None else ("JPEG", picture_of(progress.image), _PREVIEW_SIDE)
        bar.update_absolute(progress.done, max(progress.total, 1), preview)

    return show


def _facts(lora, row, status: str, model_evaluations: int, base_model_evaluations: int, notes: list[str]) -> dict[str, Any]:
    return {
        "lora_id": lora.lora_id,
        "file": lora.name,
        "status": status,
        "strength": row["strength"],
        "consistency": row["consistency"],
        "n_images": row["n_images"],
        "n_prompts": row["n_prompts"],
        "alignment": row["alignment"],
        "protocol_id": row["protocol_id"],
        "encoder_id": row["encoder_id"],
        "model_evaluations": model_evaluations,
        "base_model_evaluations": base_model_evaluations,
        "notes": [*notes, *(row["notes"] or ())],
    }


def _output(database, facts: dict[str, Any], contact_sheet) -> io.NodeOutput:
    lines = [
        f"{facts['file']}: {facts['status']} as {facts['lora_id']}",
        f"strength {number(facts['strength'], 2)}, consistency {number(facts['consistency'])}, "
        f"from {facts['n_images']} pairs of pictures of {facts['n_prompts']} prompts",
        f"direction known to a cosine of about {number(facts['alignment'])}",
        *facts["notes"],
    ]
    text = report(lines, facts)
    return io.NodeOutput(database, text, contact_sheet, ui=ui.PreviewText(text))


NODES = [CarlosLoraIndexer]
