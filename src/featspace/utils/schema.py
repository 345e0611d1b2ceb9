"""What every section of params.yaml is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints

from featspace.utils.names import check_name, check_path

# Part of file names, in which `-` separates a target from its sample.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$"), AfterValidator(check_name)]
FileName = Annotated[str, AfterValidator(check_name)]
RelativePath = Annotated[str, AfterValidator(check_path)]
Text = Annotated[str, StringConstraints(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
