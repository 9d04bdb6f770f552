"""What the rows of a run of Adapt Anything mean: kinds of roles, and what it means when a step or its control
does not come out above."""

from __future__ import annotations

STAGE1, STAGE2, ZERO_SHOT = "stage1", "stage2", "zero_shot"
DIRECT, UNFILTERED, CLIP_TAUGHT = "direct", "unfiltered", "clip_taught"
"""Controls: stage 2 straight from the source-only model; stage 1 on all synthetic images; stage 2 of a
network that has seen no source, from the pseudo-labels of CLIP's zero-shot predictions."""

OTHERWISE = {
    STAGE1: "stage 1 did harm here (negative transfer)",
    STAGE2: "stage 2 did harm here: it trains on stage 1's mistakes",
    DIRECT: "this run does not show that stage 1 adds anything to stage 2",
    UNFILTERED: "this run does not show that the filters help",
    CLIP_TAUGHT: "this run does not show that a source adds anything to CLIP's pseudo-labels",
}
