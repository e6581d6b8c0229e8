"""What a page refers to: links, anchors, paths, tests and settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.M | re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)? *$", re.M)


def anchor(title: str) -> str:
    """What GitHub makes of a heading."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    kept = "".join(letter for letter in words.lower() if letter.isalnum() or letter in " -_")
    return kept.strip().replace(" ", "-")


def anchors(page: Path) -> list[str]:
    """Of every heading; the second of the same name gets `-1`, and so on."""
    found: list[str] = []
    for title in HEADING.findall(FENCE.sub("", page.read_text())):
        name = anchor(title)
        earlier = sum(1 for other in found if re.fullmatch(rf"{re.escape(name)}(-\d+)?", other))
        found.append(f"{name}-{earlier}" if earlier else name)
    return found


def prose(page: Path) -> str:
    """Without blocks of code and comments."""
    return COMMENT.sub("", FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    """Targets of links and pictures, but for those elsewhere on the net."""
    return [link for link in LINK.findall(CODE.sub("`code`", prose(page))) if not re.match(r"\w+:", link)]


def code(page: Path) -> list[str]:
    """What stands in single backticks."""
    return CODE.findall(prose(page))


def wrong_links(page: Path) -> Iterator[str]:
    """Those whose file or heading is not there."""
    for link in links(page):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or heading and (target.suffix != ".md" or heading not in anchors(target)):
            yield link


def wrong_paths(page: Path, root: Path, folders: tuple[str, ...]) -> Iterator[str]:
    """Paths in backticks that begin in one of `folders` and are not there, and tests that are not in their file."""
    begins = "|".join(map(re.escape, folders))
    for text in code(page):
        found = re.match(rf"((?:{begins})/[\w/.-]*)(?:::(\w+))?", text)
        if found is None:
            continue
        path = root / found[1]
        defined = found[2] is None or path.is_file() and re.search(rf"^def {found[2]}\(", path.read_text(), re.M)
        if not path.exists() or not defined:
            yield text
