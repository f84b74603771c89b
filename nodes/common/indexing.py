"""What the indexing nodes share: their settings as widgets, and from widgets to a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.samplers
import comfy.utils
from comfy_api.latest import io

from ...carlos_core.errors import GenerationError
from ...carlos_core.foreign import printable
from ...carlos_core.prompts.prompt_set import default_index_prompts
from ..host import folders
from ..host import runtime as encoding
from ..host import server as prompt_server
from .report import number, table
from .sockets import CarlosDb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...carlos_core.loras.lora_file import LoraFile
    from ...carlos_core.measuring.indexer import Outcome, Session
    from ...carlos_core.measuring.studio import Progress

CUSTOM = "custom"
PRESETS = ("quick", "standard", "paper", CUSTOM)
TRIGGER_RULES = ("lora side", "both sides")
_PREVIEW_SIDE = 512


def model_inputs() -> list[io.Input]:
    """What is measured with, and where the rows go."""
    return [
        io.Model.Input("model", tooltip="Of the LoRA's family, with no LoRA on it: its effect is measured against this."),
        io.Clip.Input("clip", tooltip="As the checkpoint loader gives it."),
        io.Vae.Input("vae"),
        CarlosDb.Input("database", tooltip="A database of your own: Metrics DB Loader with create_as."),
    ]


def settings_inputs(default_preset: str) -> list[io.Input]:
    """The settings of a measurement, in the order of the widgets."""
    samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    return [
        io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default=default_preset,
            tooltip="quick: at most 900 model evaluations a LoRA. standard: until the direction is known. "
            "paper: the published protocol, 224,000. custom: all prompts x seeds with the settings below.",
        ),
        io.Combo.Input(
            "prompts",
            options=[folders.DEFAULT_PROMPTS, *folders.prompt_set_names()],
            default=folders.DEFAULT_PROMPTS,
            tooltip="Prompts to measure on: built in (280), or a file in models/carlos/prompts.",
        ),
        io.Int.Input("seeds", default=1, min=1, max=1024, tooltip="custom: pictures for each prompt."),
        io.Int.Input("first_seed", default=0, min=0, max=2**53, tooltip="custom: seed of the first; the next ones count up."),
        io.Int.Input(
            "max_prompts", default=0, min=0, max=100_000, tooltip="custom: only so many prompts, spread over all topics. 0: all."
        ),
        io.Int.Input("steps", default=25, min=1, max=1000, tooltip="custom: sampler steps."),
        io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="custom: guidance."),
        io.Combo.Input("sampler_name", options=list(samplers), default="euler", tooltip="custom: sampler."),
        io.Combo.Input("scheduler", options=list(schedulers), default="normal", tooltip="custom: scheduler."),
        io.Int.Input("width", default=0, min=0, max=8192, step=8, tooltip="0: native size of the model."),
        io.Int.Input("height", default=0, min=0, max=8192, step=8, tooltip="0: native size of the model."),
        io.Int.Input("batch_size", default=0, min=0, max=256, tooltip="Pictures at a time. 0: what memory allows."),
        io.Float.Input("lora_weight", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="Weight the LoRA is measured at."),
        io.Boolean.Input("overwrite", default=False, tooltip="Measure again what is in the database already."),
        io.Combo.Input(
            "triggers",
            options=list(TRIGGER_RULES),
            default=TRIGGER_RULES[0],
            optional=True,
            tooltip="Where trigger words stand. lora side: as published, their own effect counts as the LoRA's. "
            "both sides: only the LoRA's own effect is left.",
        ),
        io.Boolean.Input(
            "scale_sweep",
            default=False,
            optional=True,
            tooltip="Also measure 12 prompts at other weights, for a weight that Apply Retrieved LoRAs can use.",
        ),
    ]


def session_of(
    *,
    model: Any,
    clip: Any,
    vae: Any,
    database: Any,
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
    triggers: str = TRIGGER_RULES[0],
    scale_sweep: bool = False,
) -> Session:
    """A session for the settings of an indexing node. Raises CarlosError for values that its widgets do not offer."""
    from ...carlos_core.comfy.families import class_of_model, is_guidance_distilled
    from ...carlos_core.comfy.generator import ComfyGenerator
    from ...carlos_core.measuring import plan, presets, protocol
    from ...carlos_core.measuring.indexer import Session, check_writable
    from ...carlos_core.measuring.stopping import StoppingRule

    folders.check_choice(preset, PRESETS, "preset")
    folders.check_choice(sampler_name, comfy.samplers.KSampler.SAMPLERS, "sampler")
    folders.check_choice(scheduler, comfy.samplers.KSampler.SCHEDULERS, "scheduler")
    folders.check_choice(triggers, TRIGGER_RULES, "trigger rule")
    _check_whole(clip, vae)
    path = check_writable(database)
    prompt_set = folders.prompt_set(prompts, default_index_prompts())
    chosen = presets.PRESETS.get(preset)
    zero_negative = False
    if chosen is not None:
        steps, sampler_name, scheduler = chosen.steps, chosen.sampler_name, chosen.scheduler
        cfg = 1.0 if is_guidance_distilled(model) else chosen.cfg
        if preset == "paper":
            width = height = 0
            if class_of_model(model) != "SDXL":
                raise GenerationError("The published protocol is one for SDXL.", "Load an SDXL checkpoint, or choose 'standard'.")
        zero_negative = chosen.zero_negative
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
        zero_negative=zero_negative,
    )
    if chosen is None:
        shots = plan.all_shots(prompt_set, seeds=seeds, first_seed=first_seed, max_prompts=max_prompts)
        seed_rule = protocol.shared_seed_rule(first_seed)
    else:
        shots = presets.preset_shots(chosen, prompt_set, generator.evaluations_per_image)
        seed_rule = presets.OWN_SEED_RULE
    return Session(
        database_path=path,
        generator=generator,
        protocol=protocol.Protocol(
            preset=preset,
            prompts_hash=prompt_set.content_hash,
            seed_rule=seed_rule,
            lora_weight=lora_weight,
            trigger_rule=triggers,
            generator=generator.settings,
        ),
        shots=shots,
        load_encoder=encoding.load_encoder,
        working_directory=folders.cache_folder(),
        rule=StoppingRule() if chosen is not None and chosen.is_adaptive else None,
        n_full=presets.PAPER_IMAGES,
        expected=presets.TYPICAL_IMAGES if chosen is not None and chosen.is_adaptive else 0,
        batch_size=batch_size,
        overwrite=overwrite,
        scale_sweep=scale_sweep,
        read=folders.read_lora,
        at_hand=folders.lora_at_hand,
    )


def _check_whole(clip: Any, vae: Any) -> None:
    """Load Checkpoint gives nothing, or a VAE without a model, for a part that its file lacks. Raises GenerationError then."""
    vae = getattr(vae, "first_stage_model", vae)
    for name, value, what, loader in (("clip", clip, "text encoder", "Load CLIP"), ("vae", vae, "VAE", "Load VAE")):
        if value is None:
            raise GenerationError(
                f"The input {name} of this indexing node is empty: the checkpoint that it comes from has no {what}.",
                f"Wire in one that belongs to the model, from {loader}.",
            )


def plan_lines(session: Session) -> list[str]:
    """What a session will do at most, in words."""
    from ...carlos_core.measuring.strength_curve import most_pictures

    images = len(session.shots)
    evaluations = images * session.generator.evaluations_per_image
    words = "at most" if session.rule is not None else "in all"
    settings = session.generator.settings
    sweep = most_pictures(session.shots)
    return [
        f"preset {session.protocol.preset}: {words} {images} pairs of pictures, {evaluations:,} model evaluations a LoRA",
        f"{settings['width']} x {settings['height']}, {settings['steps']} steps, cfg {settings['cfg']:g}, "
        f"{settings['sampler']} / {settings['scheduler']}, seeds {session.protocol.seed_rule}",
        *([f"scale sweep: at most {sweep} pictures more a LoRA"] if session.scale_sweep else []),
    ]


def index(session: Session, lora: LoraFile, progress: NodeProgress) -> Outcome:
    """Say what it will take, then measure a LoRA."""
    from ...carlos_core.measuring.estimate import estimate_lora

    progress.say(f"{plan_lines(session)[0]}; {estimate_lora(session, lora)}")
    return session.index(lora, progress)


class NodeProgress:
    """A node's progress bar with the newest picture, and its line of text. Moving it raises when the user cancels."""

    def __init__(self, node_id: str | None, title: Callable[[], str] = str) -> None:
        self._bar = comfy.utils.ProgressBar(1)
        self._node_id = node_id
        self._title = title

    def say(self, text: str) -> None:
        """Show a line of text on the node, where somebody looks at it."""
        server = prompt_server.running()
        if server is not None and self._node_id and hasattr(server, "send_progress_text"):
            server.send_progress_text(printable(f"{self._title()}{text}"), self._node_id)

    def count(self, done: int, total: int) -> None:
        """Move the bar without a picture."""
        self._bar.update_absolute(done, max(total, 1))

    def __call__(self, progress: Progress) -> None:
        from ...carlos_core.measuring.contact_sheet import picture_of

        preview = None if progress.image is None else ("JPEG", picture_of(progress.image), _PREVIEW_SIDE)
        self._bar.update_absolute(progress.done, max(progress.total, 1), preview)
        if progress.note:
            self.say(progress.note)


class LibraryProgress:
    """Progress of a library run: each LoRA's, with its place among `names` and the time that is left for all of them."""

    def __init__(self, node_id: str | None, session: Session, names: list[str]) -> None:
        from ...carlos_core.measuring.estimate import UNKNOWN, LibraryEstimate

        self._node_id, self._names = node_id, names
        self._estimate = LibraryEstimate(session, names)
        NodeProgress(node_id).say(f"{plan_lines(session)[0]}; {len(names)} LoRAs, {str(self._estimate) or UNKNOWN}")

    def __call__(self, name: str) -> NodeProgress:
        self._estimate.begin(name)
        place = f"{self._names.index(name) + 1} of {len(self._names)}"
        return NodeProgress(self._node_id, lambda: ", ".join(filter(None, [place, str(self._estimate), f"{name}: "])))


def curve_lines(row: Mapping[str, Any]) -> list[str]:
    """A row's strength curve as a table, and what weight it suggests; nothing if it was not measured."""
    cells = [(number(weight, 2), number(strength, 2), number(alignment)) for weight, strength, alignment in _curve(row)]
    if not cells:
        return []
    suggested = f"suggested weight: {number(row['suggested_weight'], 2)}"
    return ["scale sweep:", *table(("weight", "strength", "alignment"), cells), suggested]


def _curve(row: Mapping[str, Any]) -> list[tuple[float, float, float | None]]:
    """(weight, strength, alignment) of each point of a row's strength curve."""
    return list(zip(*(row[f"curve_{name}"] or () for name in ("weights", "strengths", "alignments")), strict=True))


def facts_of(outcome: Outcome) -> dict[str, Any]:
    """The facts of one LoRA, as scripts read them."""
    row = outcome.row
    curve = [dict(zip(("weight", "strength", "alignment"), point, strict=True)) for point in _curve(row)]
    sweep = {
        "suggested_weight": row["suggested_weight"],
        "strength_curve": curve,
        "sweep_evaluations": outcome.sweep_evaluations,
    }
    return {
        "lora_id": outcome.lora.lora_id,
        "file": outcome.lora.name,
        "status": outcome.status,
        "strength": row["strength"],
        "consistency": row["consistency"],
        "n_images": row["n_images"],
        "n_prompts": row["n_prompts"],
        "alignment": row["alignment"],
        "strength_se": row["strength_se"],
        "consistency_se": row["consistency_se"],
        "topics": dict(zip(row["topic_names"] or (), row["topic_strengths"] or (), strict=True)),
        "protocol_id": row["protocol_id"],
        "encoder_id": row["encoder_id"],
        "model_evaluations": outcome.model_evaluations,
        "base_model_evaluations": outcome.base_model_evaluations,
        "notes": list(outcome.notes),
        **(sweep if curve else {}),
    }
