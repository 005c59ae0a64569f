"""The pages of the documentation, and how Markdown is read where GitHub shows it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("qbridge_*/*.md")), *sorted(DOCS.rglob("*.md"))]
INSTALL: Final = re.compile(r'^(pip install .*)"qbridge-core\[([\w,]+)\]"', re.MULTILINE)
"""A command that installs from wheels: what comes before the distribution, and its extras."""
_FENCED: Final = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_CODE: Final = re.compile(r"`[^`\n]*`")
_LINK: Final = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(?P<text>.+?) *#*$", re.MULTILINE)
_MARKUP: Final = re.compile(r"\[(?P<shown>[^]]*)\]\([^)]*\)")


def name(page: Path) -> str:
    """A page's path below the root, for names of tests."""
    return str(page.relative_to(ROOT))


def install_line(extra: str) -> str:
    """The command with which ``docs/install.md`` installs one backend from wheels."""
    ((command, _),) = INSTALL.findall((DOCS / "install.md").read_text(encoding="utf-8"))
    return f'{command}"qbridge-core[{extra}]"'


def links(page: Path) -> list[str]:
    """The targets of a page's links and images that are not on the web; those in code are none."""
    text = _CODE.sub("", _FENCED.sub("", page.read_text(encoding="utf-8")))
    targets = [match["target"] for match in _LINK.finditer(text)]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings; the second of two equal ones ends in -1."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for match in _HEADING.finditer(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        text = _MARKUP.sub(r"\g<shown>", match["text"]).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def broken_links(page: Path) -> list[str]:
    """The links of a page that lead to no file, or to a heading that its file does not have."""
    return [target for target in links(page) if not _leads_somewhere(page, target)]


def _leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    if not file.exists():
        return False
    return not anchor or (file.suffix == ".md" and anchor in anchors(file))
