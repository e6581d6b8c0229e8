"""`transform = "1 - 10**x"`: the arithmetic of one sampled `x`, read by `ast` and never by `eval`."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from harness.errors import BadInput

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sqrt": math.sqrt,
    "round": round,
    "int": int,
    "abs": abs,
    "min": min,
    "max": max,
}
HALVINGS = 200  # of an interval of floats: after that it is two neighbours
LARGEST_BITS = 4096  # of a whole number: 9**9**9 would keep the driver busy for ever


@dataclass(frozen=True)
class Transform:
    """A formula of `x`. `10^x` may be written for `10**x`.

    Raises `BadInput` where the text is not such a formula, or has no finite value at the `x` it is called with.
    """

    text: str

    def __post_init__(self) -> None:
        names = {node.id for node in ast.walk(self._tree()) if isinstance(node, ast.Name)} - set(FUNCTIONS)
        if names != {"x"}:
            raise self._wrong(f"uses {', '.join(sorted(names))}" if names else "does not use x")
        self._check(self._tree())

    def __call__(self, x: int | float) -> int | float:
        try:
            value = self._value(self._tree(), x)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise BadInput(f"transform {self.text!r} has no value at x = {x!r}: {error}") from None
        if isinstance(value, complex) or not math.isfinite(value):
            raise BadInput(f"transform {self.text!r} has no finite value at x = {x!r}: {value}")
        return value

    def inverse(self, value: int | float, within: IntDistribution | FloatDistribution) -> int | float | None:
        """An x of `within` that gives `value`, of a formula that only rises or only falls there; None where there is
        none. Found by halving."""
        low, high = within.low, within.high
        whole = isinstance(within, IntDistribution)
        rising = self(low) <= self(high)
        for _ in range(HALVINGS):
            middle = (low + high) // 2 if whole else (low + high) / 2
            if (self(middle) < value) == rising:
                low = middle
            else:
                high = middle
        if within.step is not None:  # only these exist
            at = round((low - within.low) / within.step)
            near = [within.low + step * within.step for step in (at - 1, at, at + 1)]
            candidates = [x for x in near if within.low <= x <= within.high]
        else:
            candidates = [low, high]
        best = min(candidates, key=lambda x: abs(self(x) - value))
        return best if math.isclose(self(best), value, rel_tol=1e-9, abs_tol=1e-12) else None

    def _tree(self) -> ast.expr:
        try:
            return ast.parse(self.text.strip().replace("^", "**"), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise self._wrong("is no formula") from None

    def _check(self, node: ast.AST) -> None:
        if isinstance(node, ast.BinOp):
            self._known(node.op)
            self._check(node.left)
            self._check(node.right)
        elif isinstance(node, ast.UnaryOp):
            self._known(node.op)
            self._check(node.operand)
        elif isinstance(node, ast.Call) and not node.keywords and isinstance(node.func, ast.Name):
            if node.func.id not in FUNCTIONS:
                raise self._wrong(f"calls {node.func.id}")
            for argument in node.args:
                self._check(argument)
        elif isinstance(node, ast.Name):
            if node.id != "x":
                raise self._wrong(f"uses {node.id} as a value")
        elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
            raise self._wrong(f"has {ast.unparse(node)!r} in it")

    def _known(self, kind: ast.AST) -> None:
        if type(kind) not in OPERATORS:
            raise self._wrong(f"has the operator {type(kind).__name__} in it")

    def _value(self, node: ast.AST, x: int | float) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return x
        if isinstance(node, ast.UnaryOp):
            return OPERATORS[type(node.op)](self._value(node.operand, x))
        if isinstance(node, ast.BinOp):
            left, right = self._value(node.left, x), self._value(node.right, x)
            if isinstance(node.op, ast.Pow) and isinstance(left, int) and isinstance(right, int):
                if left.bit_length() * abs(right) > LARGEST_BITS:
                    raise ValueError("the power is too large")
            return OPERATORS[type(node.op)](left, right)
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](*(self._value(argument, x) for argument in node.args))

    def _wrong(self, what: str) -> BadInput:
        return BadInput(
            f"transform {self.text!r} {what}; it may hold x, numbers, + - * / // % ** and {', '.join(FUNCTIONS)}"
        )
