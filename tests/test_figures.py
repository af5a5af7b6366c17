"""Figures: the info builders by equality on tables made by hand, the figures by what they show."""

import base64

import numpy as np
import pyarrow as pa
import pytest

from bikd_dashboards.curves import CurveLine, Curves, curves_figure, curves_info
from bikd_dashboards.figure_data import NOTHING, figure_text, matrix, packed, unpacked
from bikd_dashboards.figures import Heatmap, Interval, heatmap_figure, heatmap_info
from bikd_dashboards.forest import Forest, Frame, Partner, forest_figure, forest_info, frame
from bikd_dashboards.formatting import label
from bikd_dashboards.ordering import order
from bikd_dashboards.runs import duration, recipe_text
from bikd_dashboards.theme import DARK, DIVERGING, LIGHT, LINES, NEUTRAL, SEQUENTIAL
from bikd_ray.formatting import listed, percent, recovered, signed, span
from bikd_ray.store.answer_schemas import CURVES, GAINS, PAIRS
from bikd_ray.store.verdicts import IMPROVES
from bikd_ray.tasks.classification_metrics import TOP1
from tests.figure_tables import CONTROL_TABLE, GAIN_TABLE, NAMES, PAIR_TABLE, gain, traces


def values(info: Heatmap) -> dict[tuple[str, str], float]:
    """(learner, partner) -> value, of the cells that have one."""
    return {
        (info.learners[row], info.partners[column]): float(info.value_LP[row, column])
        for row, column in np.argwhere(info.known_LP)
    }


def test_the_matrix_has_the_learner_as_row_and_mutes_what_may_be_zero():
    got = heatmap_info("net_delta", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    assert got.learners == got.partners == ("vit", "mixer", "resnet")
    assert values(got) == {
        ("vit", "mixer"): 0.2,
        ("vit", "resnet"): 0.6,
        ("mixer", "vit"): -1.0,
    }
    assert np.argwhere(got.muted_LP).tolist() == [[0, 1]]
    assert (got.low_LP[0, 2], got.high_LP[0, 2], got.seeds_LP[0, 2], got.n_LP[0, 2]) == (
        (0.1, 1.1, 3, 900)
    )


def test_the_matrix_of_gains_ends_in_the_controls():
    got = heatmap_info("delta", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    assert got.partners == ("vit", "mixer", "resnet", "alone")
    assert values(got)["vit", "alone"] == 0.3
    assert got.muted_LP[0, 3]
    assert len(values(got)) == 4


def test_what_belongs_to_a_pair_stands_on_both_sides_of_the_diagonal():
    got = heatmap_info("kappa", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    assert got.learners == ("vit", "mixer")
    assert values(got) == {("vit", "mixer"): 0.25, ("mixer", "vit"): 0.25}
    assert not got.muted_LP.any()


def test_the_ensemble_gain_is_the_learners_own():
    got = heatmap_info("ensemble_gain", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    assert values(got) == {("vit", "mixer"): 2.0, ("mixer", "vit"): 7.0}


def test_a_matrix_without_values_has_no_cells_and_can_be_drawn():
    empty = heatmap_info(
        "kappa", TOP1, GAINS.empty_table(), GAINS.empty_table(), PAIRS.empty_table(), {}
    )
    assert (empty.learners, empty.partners, empty.value_LP.shape) == ((), (), (0, 0))
    assert heatmap_figure(empty).layout.coloraxis.cmin == 0


def test_models_come_in_the_order_asked_for_and_the_control_stays_last():
    info = heatmap_info("delta", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    assert [info.learners[i] for i in order(info, "name")] == ["mixer", "resnet", "vit"]
    assert [info.learners[i] for i in order(info, "gain")] == ["vit", "mixer", "resnet"]
    turned = info.taken(order(info, "name"))
    assert turned.partners == ("mixer", "resnet", "vit", "alone")
    assert values(turned) == values(info)


Seven = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def seven(square: np.ndarray) -> Seven:
    """All that a matrix holds, alike."""
    return square, square, square, square, square, square, np.full(square.shape, np.nan)


def test_clusters_stand_together():
    square = np.array([[9, 1, 8, 1], [1, 9, 1, 8], [8, 1, 9, 1], [1, 8, 1, 9]], float)
    names = ("a", "b", "c", "d")
    info = Heatmap("kappa", TOP1, names, names, names, names, *seven(square))
    found = "".join(names[i] for i in order(info, "cluster"))
    assert {frozenset(found[:2]), frozenset(found[2:])} == {frozenset("ac"), frozenset("bd")}


def big(models: int) -> Heatmap:
    names = tuple(f"m{i}" for i in range(models))
    value = np.random.default_rng(0).normal(size=(models, models))
    ends = (value - 1, value + 1)
    told, nothing = abs(value) > 1, np.full(value.shape, np.nan)
    return Heatmap(
        "net_delta", TOP1, names, names, names, names, value, *ends, value, value, told, nothing
    )


def test_a_large_matrix_carries_no_text_for_each_cell():
    figure = heatmap_figure(big(200))
    assert {t.text for t in traces(figure)} == {t.hovertext for t in traces(figure)} == {None}
    assert len(str(figure.to_json())) < 200 * 200 * 44
    assert len(figure_text(figure)) < 200 * 200 * 22


def test_a_packed_matrix_keeps_three_decimals_and_what_is_missing():
    values = np.random.default_rng(1).normal(scale=6, size=(40, 41))
    values[3, 5] = np.nan
    spec = matrix(values)
    rows, columns = map(int, spec["shape"].split(","))
    whole = np.frombuffer(base64.b64decode(spec["bdata"]), "<i2").reshape(rows, columns)
    assert spec["scale"] == 1000
    assert np.argwhere(whole == NOTHING).tolist() == [[3, 5]]
    assert np.nanmax(np.abs(np.where(whole == NOTHING, np.nan, whole / 1000) - values)) <= 0.0005001
    assert matrix(np.array([[250.0, np.nan]]))["scale"] == 100
    assert matrix(np.array([[0.0061, -0.0158]]))["scale"] == 100_000
    assert unpacked(packed("Δ </script>")) == "Δ </script>"
    assert "<" not in packed("Δ </script>")


@pytest.mark.parametrize(
    ("metric", "reach"), [("net_delta", 0.92), ("delta", 0.88), ("recovered", 100.0)]
)
def test_gains_and_losses_of_one_size_get_colours_of_one_strength(metric, reach):
    info = heatmap_info(metric, TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    axis = heatmap_figure(info).layout.coloraxis
    assert (axis.cmin, axis.cmax) == pytest.approx((-reach, reach))
    assert axis.colorscale == DIVERGING


def test_the_scale_reaches_what_could_be_found_and_one_large_gain_fades_no_other():
    def reach(told: list[float], noise: list[float]) -> float:
        rows = [
            gain("1", "2", (0, 0, 0), (x, x - 1, x + 1), verdict=verdict, detectable=1.3)
            for values, verdict in ((told, IMPROVES), (noise, None))
            for x in values
        ]
        ids = [str(i) for i in range(len(rows) + 1)]
        rows = [
            row | {"model_id": ids[0], "partner_ids": [i]}
            for i, row in zip(ids[1:], rows, strict=True)
        ]
        table = pa.Table.from_pylist(rows, GAINS)
        names = dict(zip(ids, ids, strict=True))
        info = heatmap_info(
            "net_delta", TOP1, table, GAINS.empty_table(), PAIRS.empty_table(), names
        )
        return heatmap_figure(info).layout.coloraxis.cmax

    assert reach([], [0.2, -0.3]) == pytest.approx(1.3)  # noise stays pale
    assert reach([4.0, 4.5, 4.8, 5.0, 60.0], []) < 20
    assert reach([0.4], []) == pytest.approx(1.3)


def test_what_was_recovered_is_empty_where_the_model_lost():
    info = heatmap_info("recovered", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    assert values(info) == {("vit", "mixer"): 40.0, ("vit", "resnet"): 250.0}
    assert [recovered(x) for x in (None, -3.0, 40.4, 183.0)] == [
        "",
        "",
        "40",
        "183 (past the ensemble)",
    ]
    assert percent(183.0) == "183 % (past the ensemble)"


def test_a_measure_without_a_middle_runs_from_its_least_to_its_greatest():
    square, names = np.array([[np.nan, 0.2], [0.6, np.nan]]), ("a", "b")
    info = Heatmap("error_overlap", TOP1, names, names, names, names, *seven(square))
    axis = heatmap_figure(info).layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0.2, 0.6)
    assert axis.colorscale == SEQUENTIAL


def test_muted_cells_are_pale_and_the_others_bold():
    info = heatmap_info("net_delta", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    strong, pale = traces(heatmap_figure(info))
    assert strong.coloraxis == "coloraxis"
    assert pale.coloraxis == "coloraxis2"
    axis = heatmap_figure(info).layout.coloraxis2
    assert (axis.colorscale, axis.showscale) == (NEUTRAL, False)
    nan = np.nan
    np.testing.assert_allclose(pale.z, [[nan, 0.2, nan], [nan] * 3, [nan] * 3])
    np.testing.assert_allclose(strong.z, [[nan, nan, 0.6], [-1, nan, nan], [nan] * 3], 1e-6)
    assert pale.text[0] == ["", "+0.20", ""]
    assert strong.text[1] == ["<b>−1.00</b>", "", ""]


def test_a_heatmap_says_which_cell_is_whose_and_what_it_was_measured_with():
    said = heatmap_figure(
        heatmap_info("net_delta", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, NAMES)
    ).layout.meta
    assert said["learner_ids"] == said["partner_ids"] == ("1", "2", "3")
    assert said["partners"] == ("vit", "mixer", "resnet")
    assert (said["seeds"], said["n"]) == (3, 900)
    nan = np.nan
    np.testing.assert_allclose(said["low"], [[nan, -0.4, 0.1], [-1.5, nan, nan], [nan] * 3], 1e-6)
    assert (said["title"], said["unit"], said["digits"]) == ("net Δ top-1", "pp", 2)


def test_a_forest_ranks_all_partner_sets_and_knows_its_control():
    assert forest_info("1", GAIN_TABLE, CONTROL_TABLE, NAMES) == Forest(
        "vit",
        (
            Partner(
                "resnet", Interval(0.9, 0.4, 1.4), Interval(0.6, 0.1, 1.1, told=True), "tie", 3, 900
            ),
            Partner("mixer + resnet", Interval(0.7, 0.2, 1.2), None, "", 3, 900),
            Partner("mixer", Interval(0.5, -0.1, 1.1), Interval(0.2, -0.4, 0.8), "tie", 3, 900),
        ),
        Interval(0.3, -0.2, 0.8),
    )
    assert forest_info("2", GAIN_TABLE, CONTROL_TABLE, NAMES).partners[0].standing == ""
    assert forest_info("3", GAIN_TABLE, CONTROL_TABLE, NAMES) == Forest("resnet", (), None)


def test_a_long_ranking_keeps_the_best_and_the_last_and_counts_the_rest():
    rows = [gain("1", "2", (d / 10, None, None), None) for d in reversed(range(30))]
    table = pa.Table.from_pylist(rows, GAINS)
    info = forest_info("1", table, CONTROL_TABLE, NAMES, most=10)
    kept = [p.delta.value for p in info.partners]
    assert kept == pytest.approx([2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 2.3, 2.2, 0.1, 0.0])
    assert info.left_out == 20


def test_all_forests_share_one_frame_that_holds_every_interval():
    forests = [forest_info(i, GAIN_TABLE, CONTROL_TABLE, NAMES) for i in NAMES]
    shared = frame(forests)
    assert shared.low < -1.5 < 1.4 < shared.high
    for forest in forests[:2]:
        assert forest_figure(forest, shared, TOP1).layout.xaxis.range == (shared.low, shared.high)
    empty = frame([])
    assert empty.low < 0 < empty.high


def test_a_forest_mark_is_open_where_zero_is_inside():
    info = forest_info("1", GAIN_TABLE, CONTROL_TABLE, NAMES)
    net, delta, alone = traces(forest_figure(info, Frame(-1, 2, 80), TOP1))
    assert [net.name, delta.name, alone.name] == ["net Δ", "Δ", "alone, Δ"]  # as the legend has it
    assert net.y[0] < delta.y[0]  # net Δ stands above Δ: the axis runs down
    assert delta.marker.symbol == ("circle-open",) * 3  # only net Δ has a q
    assert net.marker.symbol == ("diamond", "diamond-open")
    assert alone.marker.symbol == ("square-open",)
    assert delta.error_x.array == pytest.approx((0.5, 0.5, 0.6))
    assert delta.error_x.arrayminus == pytest.approx((0.5, 0.5, 0.6))


def test_the_own_old_self_has_a_row_above_the_control_where_it_was_run():
    taught = [
        {**row, "self_delta": 0.4, "self_low": 0.1, "self_high": 0.7}
        for row in GAIN_TABLE.to_pylist()
    ]
    info = forest_info("1", pa.Table.from_pylist(taught, GAINS), CONTROL_TABLE, NAMES)
    assert info.own == Interval(0.4, 0.1, 0.7)
    *_, own, alone = traces(forest_figure(info, Frame(-1, 2, 80), TOP1))
    assert (own.name, [*own.x], [*own.y]) == ("old self, Δ", [0.4], [3])
    assert [*alone.y] == [4]


def test_the_control_is_a_line_through_all_partners():
    info = forest_info("1", GAIN_TABLE, CONTROL_TABLE, NAMES)
    (line,) = forest_figure(info, Frame(-1, 2, 80), TOP1).layout.shapes
    assert (line.x0, line.x1) == (0.3, 0.3)
    assert line.line.dash == "dash"


def epoch(model: str, partner: str, number: int, **measured) -> dict:
    row = {"model": model, "partner": partner, "epoch": number, "seeds": 2}
    return row | {"objective": "bikd" if partner else "ce"} | measured


CURVE_TABLE = pa.Table.from_pylist(
    [
        epoch("vit", "", 0, score=80.0),
        epoch("vit", "", 1, score=80.5, kl=0.0, loss=0.4),
        epoch("vit", "resnet", 1, score=81.0, kl=0.2, loss=0.5),
        epoch("vit", "resnet", 0, score=80.0),
        epoch("resnet", "vit", 0, score=70.0),
    ],
    CURVES,
)


def test_curves_are_in_the_order_of_epochs_with_the_control_last():
    assert curves_info("vit", "score", TOP1, CURVE_TABLE) == Curves(
        "vit",
        "score",
        "val top-1, %",
        (
            CurveLine("resnet", 0, (0, 1), (80.0, 81.0), (2, 2)),
            CurveLine("", None, (0, 1), (80.0, 80.5), (2, 2)),
        ),
    )


def test_a_partner_keeps_its_slot_and_so_its_colour_in_every_model():
    assert [x.slot for x in curves_info("vit", "score", TOP1, CURVE_TABLE).lines] == [0, None]
    assert [x.slot for x in curves_info("resnet", "score", TOP1, CURVE_TABLE).lines] == [1]
    figure = curves_figure(curves_info("resnet", "score", TOP1, CURVE_TABLE))
    assert traces(figure)[0].line.color == LINES[1]


def test_epochs_without_the_measure_are_left_out_and_alone_has_no_divergence():
    assert curves_info("vit", "kl", TOP1, CURVE_TABLE).lines == (
        CurveLine("resnet", 0, (1,), (0.2,), (2,)),
    )
    assert curves_info("resnet", "loss", TOP1, CURVE_TABLE).lines == ()


def test_the_control_is_dashed():
    partner, control = traces(curves_figure(curves_info("vit", "score", TOP1, CURVE_TABLE)))
    assert (partner.line.dash, control.line.dash) == ("solid", "dash")
    assert control.name == "alone (control)"


def test_names_are_escaped_in_every_label_that_plotly_reads_as_html():
    evil = '<a href="x">&lt;'
    names = {**NAMES, "1": evil}
    safe = '&lt;a href="x"&gt;&amp;lt;'
    heatmap = heatmap_figure(
        heatmap_info("net_delta", TOP1, GAIN_TABLE, CONTROL_TABLE, PAIR_TABLE, names)
    )
    forest = forest_figure(
        forest_info("2", GAIN_TABLE, CONTROL_TABLE, names), Frame(-1, 1, 80), TOP1
    )
    line = CurveLine(evil, 0, (0,), (1.0,), (1,))
    curves = curves_figure(Curves(evil, "score", "val top-1, %", (line,)))
    assert heatmap.layout.xaxis.ticktext[0] == safe
    assert safe in heatmap.layout.yaxis.ticktext[0]
    assert safe in forest.layout.yaxis.ticktext[0]
    assert safe in traces(forest)[0].hovertext[0]
    assert traces(curves)[0].name == f"with {safe}"
    assert safe in traces(curves)[0].hovertext[0]
    heatmap.layout.meta = None  # set as text, never as HTML
    for figure in (heatmap, forest, curves):
        assert "<a" not in str(figure.to_plotly_json())


def luminance(colour: str) -> float:
    """WCAG 2.2 relative luminance of #rrggbb."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("colour", LINES)
def test_every_line_has_contrast_3_to_1_on_both_backgrounds(theme, colour):
    low, high = sorted((luminance(theme.layout.paper_bgcolor), luminance(colour)))
    assert (high + 0.05) / (low + 0.05) >= 3


def test_numbers_and_names_in_words():
    assert [signed(x) for x in (0.421, -0.1, 0.001, -0.001, None)] == [
        "+0.42",
        "−0.10",
        "0.00",
        "0.00",
        "–",
    ]
    assert span(-0.5, 1.25) == "[−0.50, +1.25]"
    assert span(None, None) == ""
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert label("vit_base_patch16_224.augreg_in1k", 13) == "vit_ba…g_in1k"
    assert [duration(x) for x in (0.44, 65, 7800, None)] == [
        "0.4 s",
        "1 min 5 s",
        "2 h 10 min",
        "–",
    ]
    assert recipe_text('{"epochs":2,"schedule":"none","train_fraction":1}') == "epochs 2"
