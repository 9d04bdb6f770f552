"""What the rows of a run of Adapt Anything mean: kinds of roles, and what it means when a step or its control
does not come out above."""

from __future__ import annotations

STAGE1, STAGE2, ZERO_SHOT = "stage1", "stage2", "zero_shot"
DIRECT, UNFILTERED = "direct", "unfiltered"
"""Controls: stage 2 straight from the source-only model; stage 1 on all synthetic images."""

OTHERWISE = {
    STAGE1: "stage 1 did harm here (negative transfer)",
    STAGE2: "stage 2 did harm here: it trains on stage 1's mistakes",
    DIRECT: "this run does not show that stage 1 adds anything to stage 2",
    UNFILTERED: "this run does not show that the filters help",
}
