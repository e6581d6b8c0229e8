"""A learning curve as a small SVG: one line a seed, their mean, and the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH, HEIGHT = 560, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 28, 36
Curve = Sequence[tuple[int, float]]


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between the two."""
    rough = (high - low) / about
    size = 10 ** np.floor(np.log10(rough))
    step = size * min((each for each in (1, 2, 5, 10)), key=lambda each: abs(each * size - rough))
    return [float(step * number) for number in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def short(number: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= 10 * unit or abs(number) >= unit and name == "M":
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    """The mean of the seeds where all have something to tell."""
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    at = np.linspace(first, last, max(len(curve) for curve in curves))
    each = [np.interp(at, np.array(curve)[:, 0], np.array(curve)[:, 1]) for curve in curves]
    return list(zip(at.tolist(), np.mean(each, axis=0).tolist()))


def svg(title: str, curves: Sequence[Curve], reference: float, steps: int) -> str:
    """`curves`: (environment steps, return), none of them empty; `steps`: where the axis ends."""
    heights = [value for curve in curves for _, value in curve] + [reference]
    low, high = min(heights), max(heights)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / steps

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    def line(curve: Sequence[tuple[float, float]], style: str) -> str:
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in curve)
        return f'<polyline fill="none" {style} points="{points}"/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="17" font-size="13" fill="#000">{title}</text>',
    ]
    for value in ticks(low, high):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{short(value)}</text>')
    for at in ticks(0, steps):
        parts.append(f'<text x="{x(at):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{short(at)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">environment steps</text>')
    parts += [line(curve, 'stroke="#4c78a8" stroke-width="1" opacity="0.45"') for curve in curves]
    parts.append(line(mean_curve(curves), 'stroke="#1f3d63" stroke-width="2"'))
    dashed = 'stroke="#c44e52" stroke-width="1.2" stroke-dasharray="6 4"'
    parts.append(line([(0, reference), (steps, reference)], dashed))
    return "\n".join([*parts, "</svg>", ""])
