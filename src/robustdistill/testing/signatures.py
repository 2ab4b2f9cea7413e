"""How a unit takes its parameters: by keyword, each with an annotation that can be read at run time."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError
from torch import nn

from robustdistill.errors import PluginError
from robustdistill.registry import params_model
from robustdistill.testing.checks import hold
from robustdistill.wording import sentences


def by_keyword(what: str, unit: Callable[..., Any], first: int, written: str) -> None:
    """AssertionError unless the parameters of `unit` after the `first` ones are keyword-only; `written` shows how."""
    if inspect.isclass(unit) and unit.__init__ is nn.Module.__init__:  # it takes anything, and nothing of its own
        return
    given = list(inspect.signature(unit).parameters.values())
    hold(len(given) >= first, f"{what} takes nothing by position; write {written}")
    catching = [str(p) for p in given[first:] if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    loose = [p.name for p in given[first:] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    hold(not loose, f"{what} takes {', '.join(loose)} by position; write the parameters after a *: {written}")
    hold(
        not catching, f"{what} takes {' and '.join(catching)}: nobody can check what a user gives; name each parameter"
    )


def annotated(what: str, unit: Callable[..., Any], presets: Mapping[str, Any] | None = None) -> None:
    """AssertionError unless the parameters have annotations, and the `presets` of its record fit them."""
    try:
        model = params_model(unit)
    except PluginError as error:
        raise AssertionError(str(error)) from None
    if presets is None:
        return
    try:
        model.model_validate(dict(presets))
    except ValidationError as error:
        raise AssertionError(f"the presets of {what}: {sentences(error, '', model)}") from None
