"""What a function wants: decided once, when it becomes a task."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from qbridge_core.app.payload.codec import Codec, codec_for
from qbridge_core.app.payload.misfit import MisfitError, kind_of, listed
from qbridge_core.errors import ConfigurationError, PayloadError
from qbridge_core.task.context import TaskContext

_MUTABLE: Final = (list, dict, set, bytearray)
_BOUND: Final = ("self", "cls")
_VARIABLE: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class UnknownKeysError(Exception):
    """All that the function needs is there and fits, and there is more than it knows."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(", ".join(keys))
        self.keys = keys


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a task, without the one that gets the context. Thread-safe.

    Attributes:
        context: the parameter that gets the :class:`~qbridge_core.TaskContext`, if there is one.
        codecs: one for each of the others.
        required: those of them that have no default.
        whole: the only parameter, where the payload is its value and no object.
    """

    context: str | None
    codecs: Mapping[str, Codec]
    required: frozenset[str]
    whole: str | None
    _binding: inspect.Signature = field(repr=False)

    def encode(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """The payload of a call: what is left to its default is left out, so that older workers need not know it.

        Raises:
            PayloadError: the arguments do not fit; the text begins with ``name``.
        """
        try:
            given = self._binding.bind(*args, **kwargs).arguments
        except TypeError as exc:
            raise PayloadError(f"{name}: {exc}; it takes {self._shown or 'no arguments'}") from None
        try:
            payload = {key: self._encoded(key, value) for key, value in given.items()}
        except MisfitError as exc:
            raise PayloadError(f"{name}: {exc}") from exc.__cause__
        return payload if self.whole is None else payload[self.whole]

    def named(self, args: Sequence[Any], kwargs: object) -> object:
        """The payload of a message that has positional arguments.

        Raises:
            MisfitError: there are more than parameters, or two for one.
        """
        names = list(self.codecs)
        if not isinstance(kwargs, dict):
            raise MisfitError(f"expected an object with keyword arguments, there is {kind_of(kwargs)}")
        if len(args) > len(names):
            raise MisfitError(f"expected {len(names)} positional arguments at most, there are {len(args)}")
        given = dict(zip(names, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise MisfitError(f"there is a positional argument, too: {listed(sorted(twice))}")
        payload = given | kwargs
        return payload[self.whole] if self.whole is not None and payload.keys() == {self.whole} else payload

    def decode(self, payload: object) -> dict[str, Any]:
        """The arguments of a call.

        Raises:
            MisfitError: the payload cannot be made into them.
            UnknownKeysError: it can, but there is more in it.
        """
        if self.whole is not None:
            return {self.whole: self.codecs[self.whole].decode(payload)}
        if payload is None and not self.codecs:  # an event may have no data
            return {}
        if not isinstance(payload, dict):
            raise MisfitError(f"expected an object with the names of parameters, there is {kind_of(payload)}")
        codecs = self.codecs
        missing = self.required - payload.keys()
        if missing:
            raise MisfitError("it is missing", (min(missing, key=list(codecs).index),))
        arguments = {key: self._decoded(key, value) for key, value in payload.items() if key in codecs}
        if len(arguments) != len(payload):
            raise UnknownKeysError(sorted(payload.keys() - codecs.keys()))
        return arguments

    @property
    def _shown(self) -> str:
        return ", ".join(key if key in self.required else f"{key}=…" for key in self.codecs)

    def _encoded(self, key: str, value: object) -> object:
        try:
            return self.codecs[key].encode(value)
        except MisfitError as exc:
            raise (exc if self.whole else exc.within(key)) from exc.__cause__

    def _decoded(self, key: str, value: object) -> object:
        try:
            return self.codecs[key].decode(value)
        except MisfitError as exc:
            raise exc.within(key) from None


def signature_of(function: Callable[..., object], name: str, *, whole_payload: bool = False) -> Signature:
    """Look at a function.

    Raises:
        ConfigurationError: it has a parameter that no payload can be for; the text begins with ``name``.
    """
    hints = _hints(function, name)
    shown = inspect.signature(function)  # and not before: it may need what they name, too
    parameters = dict(shown.parameters)
    _refuse_self(next(iter(parameters.values()), None), name)
    context = _context_of(parameters, hints, name)
    if context is not None:
        del parameters[context]
    codecs = {key: _codec(parameter, hints, name) for key, parameter in parameters.items()}
    if whole_payload and len(codecs) != 1:
        raise ConfigurationError(f"{name}: whole_payload=True is for a function of one parameter, not {len(codecs)}")
    return Signature(
        context=context,
        codecs=codecs,
        required=frozenset(key for key, each in parameters.items() if each.default is each.empty),
        whole=next(iter(codecs)) if whole_payload else None,
        _binding=shown.replace(parameters=list(parameters.values()), return_annotation=inspect.Signature.empty),
    )


def _hints(function: Callable[..., object], name: str) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise ConfigurationError(
            f"{name}: an annotation names {exc.name!r}, which is not there yet, or only for type checkers: the "
            "annotations decide how a payload is read, so import what they name, at the top level of the module and "
            "above the task"
        ) from exc
    except TypeError as exc:
        raise ConfigurationError(f"{name}: its annotations cannot be read: {exc}") from exc


def _context_of(parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any], name: str) -> str | None:
    found = [key for key in parameters if hints.get(key) is TaskContext]
    if found and found != [next(iter(parameters))]:
        raise ConfigurationError(f"{name}: the parameter that gets the TaskContext is the first one, and the only one")
    return found[0] if found else None


def _refuse_self(first: inspect.Parameter | None, name: str) -> None:
    if first is not None and first.name in _BOUND and first.annotation is first.empty:
        raise ConfigurationError(
            f"{name}: {first.name} would have to be in each payload: a method cannot be a task, and a task gets its "
            f"context (the self of bind=True) where a type says so, as in {first.name}: TaskContext"
        )


def _codec(parameter: inspect.Parameter, hints: Mapping[str, Any], name: str) -> Codec:
    if parameter.kind in _VARIABLE:
        raise ConfigurationError(f"{name}: {parameter} has no name in a payload; give each parameter one of its own")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ConfigurationError(
            f"{name}: {parameter.name} is positional-only, and a payload goes by names; drop the /"
        )
    if isinstance(parameter.default, _MUTABLE):
        raise ConfigurationError(
            f"{name}: the default of {parameter.name} is a {type(parameter.default).__name__}, which all runs would "
            "share; let it be None, and make one in the function"
        )
    try:
        return codec_for(hints.get(parameter.name, parameter.empty))
    except ConfigurationError as exc:
        raise ConfigurationError(f"{name}: the parameter {parameter} {exc}") from exc.__cause__
