"""What a report says of a run of SDA on scenes: what it is, and the scores over all classes."""

from __future__ import annotations

from diffadapt.report.sections import Page, SystemReport


class SdaScenesReport(SystemReport):
    """Mean IoU and pixel accuracy; the classes' own figures are in scores.parquet."""

    tables = 2

    def what(self, page: Page) -> str:
        return "Diffusion-driven test-time adaptation of a segmenter with Synthetic-Domain Alignment (SDA)"
