"""Every link of the documentation leads somewhere, and every page can be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.pages import DOCS, PAGES, ROOT, anchors, broken_links, links, name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that exists, and a heading that it has."""
    assert not broken_links(page)


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    """A missing file, a missing heading here or elsewhere, and nothing that stands in code."""
    (tmp_path / "other.md").write_text(
        "# Other\n\n```\n# No heading\n```\n\n## The `x`, and y\n\n## Twice\n\n## Twice\n"
    )
    page = tmp_path / "page.md"
    right = "[a](other.md) [b](other.md#the-x-and-y) [c](#page) [d](other.md#twice-1) [e](https://example.org/#x)"
    page.write_text(f"# Page\n\n{right}\n`[f](in-code.md)`\n[g](none.md) [h](other.md#no-heading) [i](#other)\n")
    assert broken_links(page) == ["none.md", "other.md#no-heading", "#other"]
    assert anchors(tmp_path / "other.md") == {"other", "the-x-and-y", "twice", "twice-1"}


def test_every_page_is_in_an_index() -> None:
    """The index of a folder of docs/ names each of its pages, and each folder's own index."""
    for folder in {page.parent for page in PAGES if page.is_relative_to(DOCS)}:
        pages = {page for page in folder.glob("*.md") if page.name != "README.md"}
        indexes = {each / "README.md" for each in folder.iterdir() if each.is_dir()}
        named = {(folder / link.partition("#")[0]).resolve() for link in links(folder / "README.md")}
        assert pages | indexes <= named, folder


def test_the_readme_is_short() -> None:
    """It is a landing page: what grows belongs to docs/."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
