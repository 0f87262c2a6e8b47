"""The base class of the sections of the config tree, and the types of their fields."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from sdavs_model.files import composed

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, AfterValidator(composed)]
"""One name, whether its accented letters were typed as one character or as two."""


class Section(BaseModel):
    """Immutable; an unknown key is an error; the docstring below a field is its `--help` text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=()
    )
