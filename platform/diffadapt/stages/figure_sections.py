"""The pictures of a report as a fit writes them: files, and figures.json with their captions."""

from __future__ import annotations

from pathlib import Path


class Sections:
    """Collects pictures in ``folder``; :meth:`write` ends the work."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.sections: list[dict[str, str]] = []

    def add(self, file: str, data: bytes | None, title: str, caption: str) -> None:
        """One picture; None leaves it out."""
        if data is not None:
            (self.folder / file).write_bytes(data)
            self.sections.append({"title": title, "caption": caption, "image": file, "alt": title})

    def write(self) -> int:
        """Write figures.json; returns how many pictures there are."""
        from diffadapt.report.panels import figures_index

        (self.folder / "figures.json").write_bytes(figures_index(self.sections))
        return len(self.sections)
