"""The flat parameters of the flows: types that carry their limits and the text that the Prefect UI shows.

Limits and descriptions are those of the recipe's own models, so that a flow refuses what a recipe would refuse.
None always means 'as the recipe says'.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict, TypeVar

from annotated_types import Ge, Le
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from model.errors import ConfigError
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.recipe import Recipe, load_recipe
from pipeline.training.config import Variant


def _like(model: type[BaseModel], name: str) -> Any:
    """A field with the description and limits of a field of a recipe's model."""
    field = model.model_fields[name]
    limits: dict[str, Any] = {}
    for item in field.metadata:
        if isinstance(item, Ge):
            limits["ge"] = item.ge
        elif isinstance(item, Le):
            limits["le"] = item.le
    return Field(description=f"{field.description}. None: as the recipe says", **limits)


RecipeName = Annotated[str, Field(description="name of a recipe that ships with the project, or path of a YAML file")]
Variants = Annotated[
    list[Variant] | None, Field(min_length=1, description="which models to make. None: as the recipe says")
]
Until = Annotated[
    str | None, Field(description="stop after this step: a key ('masks-pretrain') or a name ('masks'). None: all steps")
]
Limit = Annotated[
    int | None,
    Field(
        ge=1, description="use only the first N records (in seeded hash order) of each data set. None: as the recipe"
    ),
]
ForceSteps = Annotated[
    list[str] | None,
    Field(description="keys of steps to make anew although they are there; what follows from them is made anew too"),
]
Force = Annotated[bool, Field(description="segment anew although the masks are there; the old attempt stays")]
DatasetParameter = Annotated[Literal["pretrain", "instruct"], Field(description="the data set whose masks are made")]
LastStage = Annotated[
    Literal["stage1", "stage2", "stage3", "stage4"], Field(description="the last stage that is trained")
]

MinPolygonScore = Annotated[float | None, _like(MaskGates, "min_polygon_score")]
MinSamIou = Annotated[float | None, _like(MaskGates, "min_sam_iou")]
MinAgreementIou = Annotated[float | None, _like(MaskGates, "min_agreement_iou")]
MinArea = Annotated[float | None, _like(MaskGates, "min_area")]
MaxArea = Annotated[float | None, _like(MaskGates, "max_area")]
Prompt = Annotated[str | None, _like(TeacherConfig, "prompt")]
SamPrompt = Annotated[Literal["box", "box_and_mask", "points"] | None, _like(TeacherConfig, "sam_prompt")]
Beams = Annotated[int | None, _like(TeacherConfig, "beams")]
MaxNewTokens = Annotated[int | None, _like(TeacherConfig, "max_new_tokens")]


class MaskParameters(TypedDict, total=False):
    """The flat parameters of mask generation, as one mapping."""

    min_polygon_score: float | None
    min_sam_iou: float | None
    min_agreement_iou: float | None
    min_area: float | None
    max_area: float | None
    prompt: str | None
    sam_prompt: str | None
    beams: int | None
    max_new_tokens: int | None


Function = TypeVar("Function", bound=Callable[..., Any])


def documented(function: Function) -> Function:
    """Add the parameters' descriptions to a flow's docstring: that is where Prefect looks for them, not in their types.

    Raises TypeError if a parameter has none.
    """
    lines = []
    for name, parameter in inspect.signature(function).parameters.items():
        texts = [
            item.description
            for item in getattr(parameter.annotation, "__metadata__", ())
            if isinstance(item, FieldInfo)
        ]
        if len(texts) != 1 or not texts[0]:
            raise TypeError(f"{function.__name__}: parameter '{name}' needs a type with one description")
        lines.append(f"    {name}: {texts[0]}")
    function.__doc__ = inspect.cleandoc(function.__doc__ or "") + "\n\nArgs:\n" + "\n".join(lines) + "\n"
    return function


def resolve(
    recipe: str,
    *,
    variants: list[Variant] | None = None,
    limit: int | None = None,
    masks: MaskParameters | None = None,
) -> Recipe:
    """The recipe with the given parameters in place of its own. Raises ConfigError naming what is wrong."""
    given: dict[str, Any] = dict(masks or {})
    unknown = sorted(set(given) - set(MaskGates.model_fields) - set(TeacherConfig.model_fields))
    if unknown:
        raise ConfigError(f"'{unknown[0]}' is not a parameter of mask generation")
    return load_recipe(recipe).override(
        variants=None if variants is None else [str(variant) for variant in variants],
        limit=limit,
        gates={name: value for name, value in given.items() if name in MaskGates.model_fields},
        teacher={name: value for name, value in given.items() if name in TeacherConfig.model_fields},
    )
