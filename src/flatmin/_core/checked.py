"""Domains declared for a callable: by its annotations, by the table of names below, or beside its arguments.

    @checked(delta=Real(0, 1, below=True))
    def rip_nuclear_ratio(depth: int, delta: ArrayLike) -> Float[Array, ""]: ...

`matrix: Float[Array, "d1 d2"]` is a finite real matrix, `key: Key[Array, ""]` a random key, `op: AbstractMeasurements`
an instance, `X | None` optional; an argument whose annotation says too little (an `int`, a `float`, `Any`) takes its
domain from `NAMES` or from the decorator, and without one the module does not import. Checks come before the body and
before any type checker inside of the decorator, cost tens of microseconds per argument, and return the values in the
library's form. Unknown and missing arguments stay Python's own `TypeError`.
"""

import collections.abc
import functools
import inspect
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jaxtyping
import numpy as np

from flatmin._core.array_domains import Indices, Key, Numbers, Parameters, RealArray
from flatmin._core.domains import (
    AnyOf,
    Choice,
    Domain,
    Flag,
    FloatType,
    Function,
    Instance,
    Integer,
    Mapped,
    Optional,
    Path,
    Real,
    SequenceOf,
    Sizes,
    Text,
)
from flatmin._core.errors import UsageError
from flatmin._core.forks import refuse_fork

C = TypeVar("C", bound=Callable[..., Any])

COUNT, NATURAL = Integer(1), Integer(0)
POSITIVE, NONNEGATIVE, FINITE = Real(0, above=True), Real(0), Real()
SHAPE = SequenceOf(COUNT, 2, names=("d1", "d2"))

NAMES: dict[str, Domain] = {
    # sizes and counts
    **dict.fromkeys(
        (
            *("depth", "rank", "width", "dimension", "size", "order", "restarts", "sweeps", "sparsity"),
            *("batch_size", "chunk", "count", "num_measurements", "num_samples", "num_outputs", "num_probes"),
            *("num_matvecs", "max_matvecs", "matvecs", "max_iterations", "max_iter", "max_steps", "max_sweeps"),
            *("max_rank", "units", "block", "threads", "workers", "digits", "every"),
        ),
        COUNT,
    ),
    **dict.fromkeys(("steps", "held_out", "seed", "positive", "negative"), NATURAL),
    **dict.fromkeys(("matrix_shape", "shape"), SHAPE),
    "widths": SequenceOf(COUNT, least=2),
    # numbers
    **dict.fromkeys(("learning_rate", "outlier_size", "blow_up", "loss_bound", "max_seconds"), POSITIVE),
    **dict.fromkeys(
        ("noise", "radius", "tolerance", "rank_tolerance", "penalty", "rtol", "atol", "scale", "exponent", "nuclear"),
        NONNEGATIVE,
    ),
    **dict.fromkeys(("true_nuclear", "flat_nuclear", "a", "w_norm", "lambda_max", "sharpness"), NONNEGATIVE),
    "max_time": Real(0, above=True, infinite=True),
    "delta": Real(0, 1, below=True),
    "momentum": Real(0, 1, below=True),
    "fraction": Real(0, 1, above=True),
    "failure_probability": Real(0, 1, above=True, below=True),
    "lower_bound": FINITE,
    # others
    "dtype": Optional(FloatType()),
    "params": Parameters(),
}
"""The table of domains by the argument's name; an argument that means something else is declared at its callable."""

VAGUE = (int, float, Any, inspect.Parameter.empty, complex)
"""Annotations that do not say which values are meant."""


def domain_of(annotation: Any) -> Domain | None:
    """The domain that an annotation describes; None where it says too little.

    Args:
        annotation: the object, not its text.

    Returns:
        A domain.
    """
    if annotation in (bool, str):
        return Flag() if annotation is bool else Text()
    if annotation in VAGUE or isinstance(annotation, str):
        return None
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return _array_domain(annotation)
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.PyTree):
        return None
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _union_domain(args)
    if origin is typing.Literal:
        return Choice(*args)
    if origin is collections.abc.Callable or annotation is collections.abc.Callable:
        return Function()
    if origin in (tuple, list, collections.abc.Sequence):
        return _sequence_domain(args)
    if origin in (dict, collections.abc.Mapping):
        inner = domain_of(args[1])
        return Mapped(inner) if inner else None
    if annotation is pathlib.Path:
        return Path()
    if annotation in (jax.Array, np.ndarray):
        return RealArray(host=annotation is np.ndarray)
    return Instance(annotation) if inspect.isclass(annotation) else None


def _array_domain(annotation: Any) -> Domain | None:
    axes = None if annotation.dim_str == "..." else annotation.dim_str
    host = annotation.array_type is np.ndarray
    if annotation.dtype is jaxtyping.Key:
        return Key(axes or "")
    if annotation.dtype is jaxtyping.Int:
        return Indices(axes, host=host)
    if annotation.dtype in (jaxtyping.Float, jaxtyping.Num, jaxtyping.Real):
        return RealArray(axes, host=host)
    return None


def _union_domain(args: tuple[Any, ...]) -> Domain | None:
    if complex in args or Any in args:
        return None
    found = [domain_of(arg) for arg in args if arg is not types.NoneType]
    if any(domain is None for domain in found):
        return None
    kinds = {type(domain) for domain in found}
    if kinds == {Text, Path}:
        found = [Path()]
    inner = found[0] if len(found) == 1 else AnyOf(*(domain for domain in found if domain))
    return Optional(inner) if inner and types.NoneType in args else inner


def _sequence_domain(args: tuple[Any, ...]) -> Domain | None:
    items = [arg for arg in args if arg is not Ellipsis]
    inner = domain_of(items[0]) if items and all(item == items[0] for item in items) else None
    if inner is None:
        return None
    return SequenceOf(inner, None if len(items) == 1 else len(items))


def _declared(parameter: inspect.Parameter) -> Domain | None:
    """By annotation, or by name where that says too little; optional where the annotation allows None."""
    found = domain_of(parameter.annotation)
    if found is None or parameter.name in ("shape", "matrix_shape"):
        found = NAMES.get(parameter.name, found)
        optional = types.NoneType in typing.get_args(parameter.annotation) or parameter.default is None
        if isinstance(found, Real) and np.ndarray in typing.get_args(parameter.annotation):
            found = Numbers(found)
        if found is not None and optional and not isinstance(found, Optional):
            return Optional(found)
    return found


def domains_of(function: Callable[..., Any]) -> dict[str, Domain] | None:
    """What a callable declares: the domain of each argument by name; None where it declares nothing.

    Args:
        function: a function or a class.

    Returns:
        The table.
    """
    return vars(function).get("__domains__")


def checked(**domains: Domain) -> Callable[[C], C]:
    """A decorator, the outermost, that checks the arguments of a function or of a class's constructor.

    Args:
        domains: domains of arguments whose annotation and name do not say what they accept.

    Returns:
        The decorator. Signature, documentation and type stay.

    Raises:
        TypeError: at import, when the domain of an argument is not known or an argument does not exist.
        JobError: from the function, in a process that was forked after JAX had started.
    """
    return _decorator(domains, refuse_fork)


def checked_anywhere(**domains: Domain) -> Callable[[C], C]:
    """`checked` for what computes nothing with JAX, and so works in a forked process too.

    Args:
        domains: domains of arguments whose annotation and name do not say what they accept.

    Returns:
        The decorator.

    Raises:
        TypeError: at import, as in `checked`.
    """
    return _decorator(domains, None)


def _decorator(domains: dict[str, Domain], before: Callable[[], None] | None) -> Callable[[C], C]:
    def decorate(target: C) -> C:
        signature = inspect.signature(target)
        table = {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD or name in ("self", "cls"):
                continue
            domain = domains.get(name) or _declared(parameter)
            if domain is None:
                raise TypeError(f"{target.__qualname__}: declare a domain for the argument {name!r} in @checked")
            table[name] = domain
        if unknown := set(domains) - set(table):
            raise TypeError(f"{target.__qualname__}: has no arguments {sorted(unknown)}")
        if inspect.isclass(target):
            _check_constructor(target, table)
            return typing.cast("C", target)

        @functools.wraps(target)
        def checking(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return target(*args, **kwargs)  # Python's own sentence
            if before is not None:
                before()
            accept_all(table, bound)
            return target(*bound.args, **bound.kwargs)

        checking.__domains__ = table  # pyright: ignore[reportAttributeAccessIssue]
        return typing.cast("C", checking)

    return decorate


def accept_all(table: dict[str, Domain], bound: inspect.BoundArguments) -> None:
    """Check bound arguments and put them in the library's form.

    Args:
        table: domains by name.
        bound: the arguments; changed in place.

    Raises:
        UsageError: for the first one outside its domain.
    """
    sizes: Sizes = {}
    given = bound.arguments
    for name, value in given.items():
        domain = table.get(name)
        if domain is None:
            continue
        if bound.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            given[name] = tuple(_accept(domain, name, item, sizes) for item in value)
        else:
            given[name] = _accept(domain, name, value, sizes)


def _accept(domain: Domain, name: str, value: Any, sizes: Sizes) -> Any:
    try:
        return domain.accept(name, value, sizes)
    except (UsageError, jax.errors.JAXTypeError, jax.errors.JAXIndexError):
        raise
    except Exception as error:
        # objects may raise anything when they are looked at, and lists that hold themselves end nowhere
        raise domain.refuse(name, value, ", which cannot be read") from error


def _check_constructor(cls: type, table: dict[str, Domain]) -> None:
    """Let a class check what it is built from; so do subclasses with the same constructor, others declare their own."""
    plain = cls.__init__
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            return plain(self, *args, **kwargs)
        accept_all(table, bound)
        return plain(*bound.args, **bound.kwargs)

    cls.__init__ = __init__  # type: ignore[misc]
    cls.__domains__ = table  # pyright: ignore[reportAttributeAccessIssue]
