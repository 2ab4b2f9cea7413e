"""A plugin that is installed for the length of a test."""

import sys
from pathlib import Path

import pytest


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """The plugin `ill` of the distribution sorry 1.2, its module `sorry` made of `source`; no other is let in."""
    (folder / "sorry.py").write_text(source)
    (folder / "sorry-1.2.dist-info").mkdir()
    (folder / "sorry-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: sorry\nVersion: 1.2\n")
    (folder / "sorry-1.2.dist-info/entry_points.txt").write_text("[robustdistill]\nill = sorry\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "sorry", raising=False)
    monkeypatch.setenv("ROBUSTDISTILL_PLUGINS", "ill")
