"""Published figures: each is where its source has it, and printed with that source."""

from __future__ import annotations

import pytest

from c2fcore.evaluation import published, tables

# The paper's own figures as the project's documents give them; no other may bear its name.
PAPER = {
    ("table2", "coarse alone", "FPS"): 32.10,
    ("table2", "zoom 1", "FPS"): 23.42,
    ("table2", "zoom 2", "FPS"): 12.23,
    ("table2", "zoom 3", "FPS"): 8.22,
    ("table2", "zoom 4", "FPS"): 4.41,
    ("table4", "FCN-HRNetW18", "FPS"): 32.10,
    ("table4", "FCN-HRNetW18 + second look", "FPS"): 23.42,
    ("table4", "FCN-HRNetW18 + second look", "SV"): 51.68,
    ("table4", "HRNetW48", "FPS"): 29.80,
    ("table4", "HRNetW48 + second look", "FPS"): 19.98,
    ("table4", "HRNetW48 + second look", "PL"): 85.75,
}
# Of the authors' code pages: SH LV SV HC SP PL HA.
CODE_PAGES = {
    ("PaddleSeg C2FNet", "FCN-HRNetW18"): "69.04 62.61 48.75 23.14 44.99 83.35 58.61",
    ("PaddleSeg C2FNet", "FCN-HRNetW18 + second look"): "69.51 63.60 51.58 24.47 46.19 84.04 60.55",
    ("PaddleSeg C2FNet", "HRNetW48"): "73.80 66.61 54.27 38.17 52.19 85.51 62.25",
    ("PaddleSeg C2FNet", "HRNetW48 + second look"): "74.32 67.56 56.46 38.89 52.78 85.75 63.70",
    ("PaddleSeg C2FNet", "DeepLabV3+"): "64.49 61.68 45.77 33.35 49.58 81.65 53.41",
    ("PaddleSeg C2FNet", "DeepLabV3+ + second look"): "70.37 65.50 51.73 39.04 48.19 84.83 58.13",
    ("PaddleSeg C2FNet", "PSPNet"): "66.74 62.18 46.35 32.59 47.17 81.87 54.72",
    ("PaddleSeg C2FNet", "PSPNet + second look"): "67.92 63.94 50.63 33.30 48.85 83.72 56.93",
    ("PaddleRS", "FCN-HRNetW18"): "69.04 62.61 48.75 23.14 44.99 83.35 58.61",
    ("PaddleRS", "FCN-HRNetW18 + second look"): "69.31 63.03 50.90 23.53 45.93 83.82 59.62",
}
BASELINES = {  # mIoU
    "FCN-HRNetW18": 64.73, "HRNetW48": 67.31, "DeepLabV3+": 65.46, "PSPNet": 63.36,
    "UperNet": 64.10, "DANet": 64.56,
    "Potsdam, DeepLabV3+": 77.93, "Potsdam, FCN-HRNetW18": 78.13, "Potsdam, HRNetW48": 78.84,
    "Potsdam, PSPNet": 77.69, "Potsdam, UperNet": 77.59,
    "Vaihingen, DeepLabV3+": 74.08, "Vaihingen, FCN-HRNetW18": 73.25, "Vaihingen, HRNetW48": 74.98,
    "Vaihingen, UperNet": 74.31,
}  # fmt: skip


def test_every_published_figure_is_where_its_source_has_it() -> None:
    known = {
        ("paper", table, line, column): value for (table, line, column), value in PAPER.items()
    }
    for (source, line), text in CODE_PAGES.items():
        values = dict(zip(("SH", "LV", "SV", "HC", "SP", "PL", "HA"), map(float, text.split())))
        both = source != "PaddleRS" and "second look" not in line
        for table in ("table3", "table4") if both else ("table4",):
            known.update({(source, table, line, column): v for column, v in values.items()})
    for line, value in BASELINES.items():
        tables_of = ("table5",) if ", " in line else ("table3", "table4")
        for table in tables_of[:1] if line in ("UperNet", "DANet") else tables_of:
            known["PaddleSeg baselines", table, line, "mIoU"] = value
    found = {
        (entry["source"], table, entry["line"], column): value
        for entry in published.paper()["figures"]
        for table in entry["tables"]
        for column, value in entry["values"].items()
    }
    assert found == known
    ratios = [
        tables.published_figures("table2", f"zoom {z}")["paper"]["ratio"] for z in range(1, 5)
    ]
    assert [round(ratio.value, 2) for ratio in ratios] == [0.73, 0.38, 0.26, 0.14]


def test_published_figures_are_printed_with_their_source() -> None:
    rows = {
        (row["line"], row["figures of"]): row for row in tables.rows_of(tables.table("table4"), {})
    }
    row = rows["FCN-HRNetW18 + second look", "paper"]
    assert (row["SV"], row["sources"]["SV"]) == (51.68, "paper")
    assert (row["SH"], row["sources"]["SH"]) == (69.51, "PaddleSeg C2FNet")
    # Means are of one source: with its 51.58, not the paper's 51.68.
    assert row["mean"] == pytest.approx((69.51 + 63.6 + 51.58 + 24.47 + 46.19 + 84.04 + 60.55) / 7)
    assert row["F1 SV"] == pytest.approx(100 * 2 * 0.5168 / 1.5168)
    assert rows["FCN-HRNetW18 + second look", "PaddleRS"]["SV"] == 50.90
    assert rows["HRNetW48", "paper"]["mIoU"] == 67.31
    for line in rows.values():
        assert set(line) - {"line", "figures of", "sources", "ratio"} <= set(
            line.get("sources", ())
        )
    text = tables.markdown(tables.table("table4"), {}, {})
    cells = next(
        line for line in text.split("FCN-HRNetW18 + second look")[1].splitlines() if "paper" in line
    )
    assert [cell.strip() for cell in cells.split("|")][3:6] == ["69.51¹", "63.60¹", "51.68"]
    assert "¹ From the authors' code page, not from the paper: PaddleSeg, contrib/" in text
    assert "FCN-HRNetW18 + second look, SV: 51.58 on the authors' code page." in text
    assert "DeepLabV3+ + second look" in text
    text = tables.markdown(tables.table("table3"), {}, {})
    assert "³" not in text
    assert "Also published: DANet: mIoU 64.56²." in text
    named = tables.markdown(tables.table("table5", more=["Potsdam, HRNetW48"]), {}, {})
    assert "| 78.84² |" in named
    assert "Potsdam, UperNet: mIoU 77.59²" in named
    assert "Potsdam, HRNetW48: mIoU" not in named
    text = tables.markdown(tables.table("fig2"), {}, {})
    assert "no figure of the paper's" in text
    assert "code page" not in text
