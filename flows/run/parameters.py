"""The flat parameters of the flows: types that carry their limits and the text that the Prefect UI shows.

Limits and descriptions are those of the recipe's own models, so that a flow refuses the values that a recipe refuses.
None always means 'as the recipe says'.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from pydantic.fields import FieldInfo

from model.errors import ConfigError
from model.stage_table import StageStep, Variant
from pipeline.config import Config
from pipeline.masks.config import MaskGates, TeacherConfig
from pipeline.plan.recipe import Recipe, load_recipe

RecipeName = Annotated[str, Field(description="name of a recipe that ships with the project, or path of a YAML file")]
Variants = Annotated[
    list[Variant] | None, Field(min_length=1, description="which models to make. None: as the recipe says")
]
Until = Annotated[
    str | None, Field(description="stop after this step: a key ('masks-pretrain') or a name ('masks'). None: all steps")
]
Limit = Annotated[
    int | None,
    Field(ge=1, description="use only the first N records of each data set, in file order. None: as the recipe says"),
]
ForceSteps = Annotated[
    list[str] | None,
    Field(description="keys of steps to make anew although they are there; what follows from them is made anew too"),
]
Force = Annotated[bool, Field(description="segment anew although the masks are there; the old attempt stays")]
DatasetParameter = Annotated[Literal["pretrain", "instruct"], Field(description="the data set whose masks are made")]
LastStage = Annotated[StageStep, Field(description="the last stage that is trained")]

MASK_PARAMETERS: dict[str, type[Config]] = {
    **dict.fromkeys(MaskGates.model_fields, MaskGates),
    **dict.fromkeys(
        ("kind", "task", "prompt", "sam_prompt", "multimask", "beams", "max_new_tokens", "max_query_characters"),
        TeacherConfig,
    ),
}
"""The parameters of mask generation, in order -> the recipe's model with the field of that name."""

Function = TypeVar("Function", bound=Callable[..., Any])


def mask_parameters() -> list[inspect.Parameter]:
    """One keyword parameter for each field of MASK_PARAMETERS: its type or None, its limits and its description."""
    found = []
    for name, model in MASK_PARAMETERS.items():
        field = model.model_fields[name]
        text = Field(description=f"{field.description}. None: as the recipe says")
        kind: Any = field.annotation
        annotation: Any = Annotated[(kind | None, *field.metadata, text)]
        found.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return found


def with_mask_parameters(
    function: Function, adapt: Callable[[inspect.Parameter], inspect.Parameter] = lambda parameter: parameter
) -> Function:
    """Let a function that takes `**masks` name each parameter of mask generation in its signature.

    Prefect and Typer read signatures and pass every parameter by keyword, so the function itself stays as it is.

    Args:
        function: its last parameter is `**masks`, which receives the values.
        adapt: changes each parameter, for example into an option of a command line.
    """
    *own, masks = inspect.signature(function).parameters.values()
    assert masks.kind is inspect.Parameter.VAR_KEYWORD, "the last parameter must be **masks"
    named = [adapt(parameter) for parameter in mask_parameters()]
    function.__signature__ = inspect.signature(function).replace(parameters=[*own, *named])  # type: ignore[attr-defined]
    function.__annotations__ |= {parameter.name: parameter.annotation for parameter in named}
    del function.__annotations__[masks.name]
    return function


def documented(function: Function) -> Function:
    """Add the parameters' descriptions to a flow's docstring: Prefect reads them there and not in the types.

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
    masks: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe with the given parameters in place of its own. Raises ConfigError naming what is wrong.

    Args:
        masks: values by the names in MASK_PARAMETERS; None leaves the recipe's value.
    """
    given = masks or {}
    unknown = sorted(given.keys() - MASK_PARAMETERS.keys())
    if unknown:
        raise ConfigError(
            f"'{unknown[0]}' is not a parameter of mask generation; parameters are {', '.join(MASK_PARAMETERS)}"
        )
    return load_recipe(recipe).override(
        variants=None if variants is None else [str(variant) for variant in variants],
        limit=limit,
        gates={name: value for name, value in given.items() if MASK_PARAMETERS[name] is MaskGates},
        teacher={name: value for name, value in given.items() if MASK_PARAMETERS[name] is TeacherConfig},
    )
