"""`study.constraints`: what the settings of a trial must fulfil together, read by `ast` and never by `eval`.

`"env.count * algorithm.rollout_steps >= algorithm.minibatch_size"`: arithmetic, comparisons, `and`, `or`, `not`, `in`.
"""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import BadInput
from search.space.transform import FUNCTIONS, LARGEST_BITS, OPERATORS

COMPARISONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
}
CALLS: dict[str, Callable[..., Any]] = {**FUNCTIONS, "len": len, "sum": sum}
WORDS = {"true": True, "false": False, "none": None}
BRACES = re.compile(r"\{([^{}]+)\}")


class Missing(Exception):
    """A setting that a trial has not got, such as one that exists only beside others."""


@dataclass(frozen=True)
class Constraint:
    """One condition. A name that is no identifier is written in braces: `{lr-max} > {lr-min}`."""

    text: str

    def __post_init__(self) -> None:
        self._check(self._tree())

    @property
    def names(self) -> set[str]:
        return {name for node in ast.walk(self._tree()) if (name := self._name(node)) and self._whole(node)}

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether these settings fulfil it; one that is about a setting which a trial has not got is fulfilled."""
        try:
            return bool(self._value(self._tree(), values))
        except Missing:
            return True
        except (ArithmeticError, ValueError, TypeError) as error:
            raise BadInput(f"study.constraints {self.text!r} cannot be evaluated: {error}") from None

    def _tree(self) -> ast.expr:
        braced: list[str] = BRACES.findall(self.text)
        text = self.text
        for at, name in enumerate(braced):
            text = text.replace(f"{{{name}}}", f"braced_{at}")
        try:
            tree = ast.parse(text.strip().replace("^", "**"), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._wrong("is no condition") from None
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and re.fullmatch(r"braced_\d+", node.id) and braced:
                node.id = braced[int(node.id.removeprefix("braced_"))]
            for child in ast.iter_child_nodes(node):
                if isinstance(node, ast.Attribute):
                    child.inner = True  # type: ignore[attr-defined]
                if isinstance(node, ast.Call) and child is node.func:
                    child.inner = True  # type: ignore[attr-defined]
        return tree

    def _whole(self, node: ast.AST) -> bool:
        """Whether a name stands for a setting, rather than being a part of one, a function or a value."""
        return not getattr(node, "inner", False) and self._name(node) not in WORDS

    def _name(self, node: ast.AST) -> str | None:
        """`optimizer.lr` of nested attributes."""
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            before = self._name(node.value)
            return None if before is None else f"{before}.{node.attr}"
        return None

    def _check(self, node: ast.AST) -> None:
        if self._name(node) is not None:
            return
        match node:
            case ast.BoolOp(values=values):
                parts: list[ast.AST] = list(values)
            case ast.UnaryOp(op=op, operand=operand) if isinstance(op, ast.Not) or type(op) in OPERATORS:
                parts = [operand]
            case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS:
                parts = [left, right]
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARISONS for op in ops):
                parts = [left, *others]
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in CALLS:
                parts = list(args)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                parts = list(elements)
            case ast.Subscript(value=value, slice=at):
                parts = [value, at]
            case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
                parts = []
            case _:
                raise self._wrong(f"has {ast.unparse(node)!r} in it")
        for part in parts:
            self._check(part)

    def _value(self, node: ast.AST, values: Mapping[str, Any]) -> Any:
        name = self._name(node)
        if name is not None:
            if name in values:
                return values[name]
            if name in WORDS:
                return WORDS[name]
            raise Missing(name)
        match node:
            case ast.BoolOp(op=op, values=parts):
                every = isinstance(op, ast.And)
                found: Any = every
                for part in parts:
                    found = self._value(part, values)
                    if bool(found) != every:
                        return found
                return found
            case ast.UnaryOp(op=op, operand=operand):
                inner = self._value(operand, values)
                return not inner if isinstance(op, ast.Not) else OPERATORS[type(op)](inner)
            case ast.BinOp(op=op, left=left, right=right):
                one, other = self._value(left, values), self._value(right, values)
                too_large(op, one, other)
                return OPERATORS[type(op)](one, other)
            case ast.Compare(left=left, ops=ops, comparators=others):
                one = self._value(left, values)
                for compared, right in zip(ops, others):
                    other = self._value(right, values)
                    if not COMPARISONS[type(compared)](one, other):
                        return False
                    one = other
                return True
            case ast.Call(func=ast.Name(id=called), args=args):
                return CALLS[called](*(self._value(argument, values) for argument in args))
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [self._value(element, values) for element in elements]
            case ast.Subscript(value=value, slice=at):
                try:
                    return self._value(value, values)[self._value(at, values)]
                except LookupError as error:
                    raise ValueError(error) from None
        assert isinstance(node, ast.Constant)
        return node.value

    def _wrong(self, what: str) -> BadInput:
        return BadInput(
            f"study.constraints {self.text!r} {what}; it may hold settings, numbers, texts, + - * / // % **, "
            f"comparisons, and, or, not, in and {', '.join(CALLS)}"
        )


def too_large(op: ast.operator, one: Any, other: Any) -> None:
    """Raises ValueError for a product or a power that would keep the driver busy for ever."""
    if isinstance(op, ast.Pow) and isinstance(one, int) and isinstance(other, int):
        if one.bit_length() * abs(other) > LARGEST_BITS:
            raise ValueError("the power is too large")
    if isinstance(op, (ast.Mult, ast.Mod)) and (isinstance(one, (str, list)) or isinstance(other, (str, list))):
        raise ValueError("a text or a list cannot be multiplied")


def read_constraints(texts: Iterable[str]) -> list[Constraint]:
    return [Constraint(text) for text in texts]


def check_names(constraints: Iterable[Constraint], known: Iterable[str]) -> None:
    """`BadInput` for a name that no trial of the study has."""
    names = sorted(set(known))
    for constraint in constraints:
        for name in sorted(constraint.names - set(names)):
            near = difflib.get_close_matches(name, names, n=1)
            may_be = f"; did you mean {near[0]}?" if near else " of this study's trials"
            raise BadInput(f"study.constraints {constraint.text!r}: {name} is no setting{may_be}")
