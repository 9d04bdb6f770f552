"""Score tables and the sentences beside them: numbers, comparisons of like with like, and honest limits."""

from __future__ import annotations

import math

import pytest
from reportkit import fake_scores

from diffadapt.core.record import Score
from diffadapt.report.findings import findings
from diffadapt.report.summary import difference, metrics, summarise
from diffadapt.report.table import rows_for_html, score_table


def score(
    method,
    value,
    corruption="fog",
    control=False,
    images=100,
    of_images=100,
    seed=0,
    note="",
    selection="last",
    metric="top1",
):
    return Score(
        "r",
        method,
        control,
        f"{corruption}/{0 if corruption == 'clean' else 5}",
        corruption,
        5,
        metric,
        value,
        images,
        of_images,
        seed,
        selection,
        note,
    )


def joined(scores):
    return "\n".join(findings(scores))


def test_every_group_counts_once_and_clean_stands_apart():
    rows = [
        score("Source", 40, "fog", images=100),
        score("Source", 60, "snow", images=900, of_images=900),
        score("Source", 98, "clean"),
    ]
    table = summarise(rows)
    assert table.rows[0].mean == pytest.approx(50)
    assert table.rows[0].clean.value == 98
    assert table.groups == ("snow/5", "fog/5")  # the benchmark's order, not the alphabet's
    assert table.rows[0].standard_error == pytest.approx(math.sqrt(0.24e4 / 100 + 0.24e4 / 900) / 2)


def test_a_target_that_is_clean_only_has_a_mean():
    table = summarise([score("Source", 62.5, "clean")])
    assert table.rows[0].mean == 62.5 and not table.has_clean


def test_a_difference_uses_the_groups_that_both_rows_have():
    rows = summarise(
        [score("Source", 20, "fog"), score("Source", 80, "snow"), score("MEMO", 30, "fog", images=20)]
    ).rows
    d = difference(rows[1], rows[0])
    assert d.value == pytest.approx(10) and d.groups == 1 and not d.same_images
    assert rows[1].coverage == "20 of 200" and not rows[1].whole


def test_rows_keep_the_run_order_with_controls_after_a_rule():
    text = score_table(fake_scores(), width=100, colour=False)
    assert (
        text.index("Source")
        < text.index("DiffPure")
        < text.index("DDA")
        < text.index("controls")
        < text.index("Real-image fine-tuning")
    )
    assert "300 of 9000" in text and "MEMO: invented, 20 images a corruption; 300 of 9000 images" in text
    assert "in a terminal of" in text and "gauss" not in text


def test_groups_get_columns_when_the_width_allows_and_no_number_is_ever_cut():
    wide = score_table(fake_scores(), width=220, colour=False)
    assert "gauss" in wide and "jpeg" in wide
    for width in (20, 40, 60, 80, 100, 150, 220):
        text = score_table(fake_scores(), width=width, colour=False)
        assert "…" not in text and "66.4" in text and "+22.9" in text, width


def test_plain_text_is_ascii_and_a_name_cannot_steer_the_terminal():
    rows = [score("Source", 40), score("DDA \x1b[31m[red]x\n", 50, note="\x1b]0;title\x07")]
    text = score_table(rows, width=100, colour=False)
    assert text.isascii() and "\x1b" not in text and "\x07" not in text and "[red]x" in text
    assert "\x1b[1m" in score_table(rows, width=100, colour=True)


def test_no_scores_is_said():
    assert "No scores" in score_table([]) and findings([]) == []


def test_findings_state_the_steps_and_their_sizes():
    text = joined([score("Source", 40), score("DDA", 64), score("SDA", 66)])
    assert "DDA is 24.0 points above Source" in text and "SDA is 2.0 points above DDA" in text
    assert "64.0 against 40.0 %" in text


def test_a_small_difference_is_not_told_apart_and_a_large_one_is():
    small = joined([score("Source", 40), score("DDA", 64), score("SDA", 66)])
    assert small.count("do not tell the two apart") == 1  # SDA-DDA only
    many = [score(m, v, images=50000, of_images=50000) for m, v in (("Source", 40), ("DDA", 64), ("SDA", 66))]
    assert "tell the two apart" not in joined(many)


@pytest.mark.parametrize(
    ("control", "means"),
    [
        ("SDA without alignment", "does not show that alignment helps"),
        ("Real-image fine-tuning", "real ones"),
        ("Fine-tuned model on projected images", "the ensemble with the source model helps"),
        ("Projection only", "projection alone"),
        ("Something else", "does more than this control"),
    ],
)
def test_a_control_above_sda_is_remarked(control, means):
    rows = [score("Source", 40), score("DDA", 64), score("SDA", 65)]
    above = findings([*rows, score(control, 67, control=True)])
    assert [
        s for s in above if s.startswith("Remark:") and means in s and "2.0 points below the control" in s
    ]
    below = findings([*rows, score(control, 60, control=True)])
    assert not [s for s in below if s.startswith("Remark:")] and any(
        "5.0 points above the control" in s for s in below
    )


def test_projection_alone_is_also_held_against_dda():
    rows = [
        score("Source", 40),
        score("DDA", 64),
        score("SDA", 68),
        score("Projection only", 66, control=True, note="source model, no ensemble"),
    ]
    assert "DDA is 2.0 points below Projection only" in joined(rows)


def test_the_batch_statistics_are_a_control_of_tent():
    rows = [
        score("Source", 40),
        score("Tent", 64),
        score("DDA", 50),
        score("SDA", 68),
        score("Batch statistics only", 65, control=True),
    ]
    text = joined(rows)
    assert (
        "Remark: Tent is 1.0 points below the control Batch statistics only" in text
        and "SDA is 3.0 points above the control" not in text
    )


def test_a_variant_keeps_its_place_and_its_name():
    table = summarise([score("Source", 40, c) for c in ("snow", "fog", "frost(procedural)")])
    assert table.groups == ("snow/5", "frost(procedural)/5", "fog/5") and table.group_noun == "corruptions"
    assert "frost (procedural)" in rows_for_html(table)[0].cells[1]["title"]


def test_sda_leads_wherever_it_stands_and_wins_are_counted():
    rows = [score("Source", 40, c) for c in ("fog", "snow")] + [
        score("DDA", v, c) for v, c in ((64, "fog"), (64, "snow"))
    ]
    rows += [score("SDA", v, c) for v, c in ((70, "fog"), (62, "snow"))] + [
        score("Tent", 50, c) for c in ("fog", "snow")
    ]
    rows += [score("SDA without alignment", 60, c, control=True) for c in ("fog", "snow")]
    text = joined(rows)
    assert "SDA is 2.0 points above DDA (66.0 against 64.0 %; higher on 1 of 2 corruptions" in text
    assert "SDA is 6.0 points above the control SDA without alignment" in text and "Tent is" not in text


def test_the_control_share_of_the_gain_is_stated():
    text = joined(
        [score("Source", 40), score("DDA", 64), score("SDA", 66), score("real images", 65.5, control=True)]
    )
    assert "Of the +2.0 points over DDA, the control has +1.5." in text


def test_a_higher_main_row_and_a_row_below_source_are_not_hidden():
    text = joined(
        [score("Source", 40), score("DiffPure", 30), score("Tent", 75), score("DDA", 64), score("SDA", 66)]
    )
    assert "Tent is 9.0 points above SDA" in text and "DiffPure is 10.0 points below Source" in text


def test_a_fall_is_called_a_fall():
    text = joined([score("Source", 50), score("DDA", 45), score("SDA", 44)])
    assert "DDA is 5.0 points below Source" in text and "SDA is 1.0 points below DDA" in text


def test_partial_rows_seeds_and_oracles_are_stated():
    one = joined([score("Source", 40), score("MEMO", 50, images=10)])
    assert (
        "MEMO was measured on 10 of 100 images" in one
        and "One seed (0)" in one
        and "not the same images" in one
    )
    two = [score("Source", 40, seed=0), score("Source", 50, seed=1), score("X", 60, selection="oracle")]
    assert "2 seeds (0, 1)" in joined(two) and "oracle" in joined(two)
    assert summarise(two).rows[0].mean == 45
    assert "X [oracle]" in score_table(two, colour=False)


def test_without_sda_the_last_main_row_leads():
    text = joined(
        [score("Source", 40), score("+UDA", 50), score("+SSL", 60), score("SSL alone", 61, control=True)]
    )
    assert (
        "+SSL is 20.0 points above Source" in text
        and "Remark: +SSL is 1.0 points below the control SSL alone" in text
    )


def test_no_binomial_error_for_other_metrics():
    scores = [score("Source", 53.0, metric="miou"), score("ZoDi", 55.0, metric="miou")]
    assert metrics(scores) == ["miou"] and summarise(scores).rows[0].standard_error is None
    assert "standard error" not in joined(scores).lower() and "s.e." not in score_table(scores, colour=False)


def test_html_rows_mark_the_best_whole_row_only():
    rows = rows_for_html(
        summarise(
            [
                score("Source", 40),
                score("MEMO", 90, images=5),
                score("SDA", 66),
                score("control", 95, control=True),
            ]
        )
    )
    assert [r.method for r in rows if r.best] == ["SDA"]
    assert rows[1].delta.endswith("*") and rows[2].delta == "+26.0"
