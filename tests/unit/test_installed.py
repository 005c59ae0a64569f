"""What installed distributions announce is found as the standard library finds it, without it where that can be."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from qbridge_core.contract.installed import EntryPoint, entry_points

ANNOUNCED = (
    "# of no group\n[other]\na = os\n\n[the.group]\n# a remark\n name = os.path:sep [extra]\n; = os\n\n[more]\nb=os\n"
)


def distribution(folder: Path, name: str, announced: str, details: str = "METADATA") -> None:
    """Make one up; ``name`` is that of its folder."""
    info = folder / name
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text(announced)
    if details:
        (info / details).write_text("Metadata-Version: 2.1\nName: My.Own\nVersion: 1\n\nName: not this\n")


def listed(entries: list[EntryPoint]) -> list[tuple[str, str, str]]:
    """All that there is of each."""
    return sorted((entry.name, entry.value, entry.distribution) for entry in entries)


@pytest.mark.parametrize("group", ["qbridge", "qbridge.lossy", "console_scripts", "pytest11", "of nobody"])
def test_what_is_installed_here_is_found_as_the_standard_library_finds_it(group: str) -> None:
    """Names, values and distributions are those of ``importlib.metadata``, in groups of few and of many."""
    expected = [EntryPoint(each.name, each.value, each.dist.name) for each in metadata.entry_points(group=group)]
    assert listed(entry_points(group)) == listed(expected)


@pytest.mark.parametrize(
    ("folder", "details", "name"),
    [
        ("my_own-1.0.dist-info", "METADATA", "My.Own"),
        ("my_own-1.0-py3.11.egg-info", "PKG-INFO", "My.Own"),
        ("my_own-1.0.dist-info", "", "my_own"),
    ],
)
def test_a_distribution_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, details: str, name: str
) -> None:
    """In either format, with remarks and other groups in its file, under the name that it has given itself."""
    distribution(tmp_path, folder, ANNOUNCED, details)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert listed(entry_points("the.group")) == [(";", "os", name), ("name", "os.path:sep [extra]", name)]
    found = {entry.name: entry.load() for entry in entry_points("the.group")}
    import os

    assert found == {"name": os.sep, ";": os}


def test_the_first_of_a_name_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its name is written; what is no folder, cannot be read or is not there hides nothing."""
    (tmp_path / "file.dist-info").write_text("")
    distribution(tmp_path / "one", "my_own-2.0.dist-info", "[g]\nnew = os\n")
    distribution(tmp_path / "two", "My.Own-1.0.dist-info", "[g]\nold = os\n")
    (tmp_path / "two" / "strange-1.dist-info").mkdir()
    (tmp_path / "two" / "strange-1.dist-info" / "entry_points.txt").write_bytes(b"[g]\n\xff = os\nwithout\n")
    places = [tmp_path / "none", tmp_path, tmp_path / "one", tmp_path / "two"]
    monkeypatch.setattr(sys, "path", [str(place) for place in places])
    assert [entry.name for entry in entry_points("g")] == ["new", "\N{REPLACEMENT CHARACTER}"]


def test_a_distribution_in_an_archive_is_found(tmp_path: Path) -> None:
    """A zip file on the path, as of an application in one file, holds distributions like a directory."""
    distribution(tmp_path, "my_own-1.0.dist-info", "[qbridge]\nzipped = mine\n")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (tmp_path / "my_own-1.0.dist-info").iterdir():
            archive.write(path, path.relative_to(tmp_path))
    code = f"""
import sys
sys.path.append({str(tmp_path / "all.zip")!r})
import qbridge_core
print(qbridge_core.backends()["zipped"], "memory" in qbridge_core.backends())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["My.Own", "True"]
