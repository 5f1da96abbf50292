"""`mask-generation/pretrain` and `mask-generation/instruct`: the masks of one data set, with settings to try."""

from typing import Any

from prefect import State, flow

from flows.cancellation import note_crash, stop_jobs
from flows.parameters import (
    Beams,
    DatasetParameter,
    Force,
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
    documented,
    resolve,
)
from flows.run_recipe import run_recipe
from pipeline.plan import mask_recipe


@flow(
    name="mask-generation",
    on_cancellation=[stop_jobs],
    on_crashed=[note_crash],
    persist_result=False,
)
@documented
def mask_generation(
    dataset: DatasetParameter = "pretrain",
    recipe: RecipeName = "miniature",
    limit: Limit = None,
    force: Force = False,
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
    """Make the masks of one data set (inventory, subset, segment, masks), with other settings than the recipe's.

    agevlm/full-recipe takes the same parameters; given the same values, it finds these masks.
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
    # A new attempt of segment gives masks a new id by itself; masks is named for the case that only it was finished.
    forced = (f"segment-{dataset}", f"masks-{dataset}") if force else ()
    return run_recipe(
        lambda: mask_recipe(resolve(recipe, limit=limit, masks=masks), dataset), until=f"masks-{dataset}", force=forced
    )
