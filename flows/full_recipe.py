"""`agevlm/full-recipe`: from raw data to the report, every step that a recipe's variants need."""

from typing import Any

from prefect import State, flow

from flows.cancellation import note_crash, stop_jobs
from flows.parameters import (
    Beams,
    ForceSteps,
    Limit,
    MaskParameters,
    MaxArea,
    MaxNewTokens,
    MinAgreementIou,
    MinArea,
    MinPolygonScore,
    MinSamIou,
    Prompt,
    RecipeName,
    SamPrompt,
    Until,
    Variants,
    documented,
    resolve,
)
from flows.run_recipe import run_recipe


@flow(
    name="agevlm",
    on_cancellation=[stop_jobs],
    on_crashed=[note_crash],
    persist_result=False,
)
@documented
def full_recipe(
    recipe: RecipeName = "miniature",
    variants: Variants = None,
    until: Until = None,
    limit: Limit = None,
    force: ForceSteps = None,
    min_polygon_score: MinPolygonScore = None,
    min_sam_iou: MinSamIou = None,
    min_agreement_iou: MinAgreementIou = None,
    min_area: MinArea = None,
    max_area: MaxArea = None,
    prompt: Prompt = None,
    sam_prompt: SamPrompt = None,
    beams: Beams = None,
    max_new_tokens: MaxNewTokens = None,
) -> State[Any]:
    """Make every artifact of a recipe: inventory, subset, segment, masks, pack, stages 1-4, evaluate, report.

    What exists is not made again. Running it again continues what was interrupted.
    """
    masks: MaskParameters = {
        "min_polygon_score": min_polygon_score,
        "min_sam_iou": min_sam_iou,
        "min_agreement_iou": min_agreement_iou,
        "min_area": min_area,
        "max_area": max_area,
        "prompt": prompt,
        "sam_prompt": sam_prompt,
        "beams": beams,
        "max_new_tokens": max_new_tokens,
    }
    return run_recipe(
        lambda: resolve(recipe, variants=variants, limit=limit, masks=masks), until=until, force=force or ()
    )
