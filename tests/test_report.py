"""report.html: what it says, that it is safe and whole, and how it behaves in a real browser.

The run is three made-up patients: A is found in part, B (whose name tries to break out of the page) is missed, C has
no tumour and two false alarms. The tests with a browser need playwright and a Chromium and are skipped without them.
"""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.metrics import Counts, dice, iou
from reporting import charts, report
from utils import UserError

HOSTILE = 'B"><script>alert(1)</script>{{data}}'
PATIENTS = ("A_1", HOSTILE, "C_3")
SLICES = 6
SIZE = 256
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.DataFrame]:
    """Images, masks and predictions of all slices, and the table without what follows from them."""
    n = len(PATIENTS) * SLICES
    images = rng.integers(0, 8, (n, SIZE, SIZE, 3), dtype=np.uint8)
    images[:, 60:200, 70:190] += 90
    masks, predicted = np.zeros((2, n, SIZE, SIZE), np.uint8)
    masks[1, 100:140, 90:120] = 1  # A, slice 2: 40 x 30 pixels
    masks[1, 110:120, 100:110] = 0  # with a hole of 10 x 10
    predicted[1, 105:145, 90:120] = 1  # five pixels lower, without the hole
    masks[2, 100:110, 90:100] = predicted[2, 100:110, 90:100] = 1  # slice 3: found exactly
    masks[3, 0, 0] = 1  # slice 4: one pixel in the corner, missed
    masks[SLICES + 2, 100:150, 100:150] = 1  # B, slice 3: missed
    predicted[2 * SLICES, 80:84, 80:85] = 1  # C: false alarms of 20 and 7 pixels
    predicted[2 * SLICES + 1, 80:87, 80] = 1
    table = pd.DataFrame(
        {
            "patient": np.repeat(PATIENTS, SLICES),
            "image_path": [f"{p}/{p}_{s}.tif" for p in PATIENTS for s in range(1, SLICES + 1)],
        }
    )
    return images, masks, predicted, table


def count(masks: np.ndarray, predicted: np.ndarray) -> Counts:
    both = (masks & predicted).sum((1, 2), dtype=int)
    return Counts(both, predicted.sum((1, 2), dtype=int) - both, masks.sum((1, 2), dtype=int) - both)


def scores(counts: Counts) -> dict[str, np.ndarray]:
    return {
        "tumour_pixels": counts.target,
        "predicted_pixels": counts.predicted,
        "true_positive": counts.true_positive,
        "false_positive": counts.false_positive,
        "false_negative": counts.false_negative,
        "iou": iou(counts),
        "dice": dice(counts),
    }


def write_run(run: Path, full: bool = True, synthetic: bool = True) -> tuple:
    """The files of a tested run, with everything optional or without it; returns the arguments of write_report."""
    images, masks, predicted, table = draw(np.random.default_rng(0))
    slices = table.assign(**scores(count(masks, predicted)), kind="smooth")
    of_patients = Counts(*(part.reshape(len(PATIENTS), -1).sum(1) for part in count(masks, predicted)))
    patients = pd.DataFrame({"patient": PATIENTS, "slices": SLICES, **scores(of_patients)})
    metrics = {
        "split": "test",
        "epoch": 2,
        "synthetic": synthetic,
        "slices": len(slices),
        "loss": 0.25,
        "iou": slices["iou"].mean(),
        "all_empty": 14 / 18,
        "tumour_iou": slices.loc[slices["tumour_pixels"] > 0, "iou"].mean(),
        "tumour_found": 0.5,
        "patient_dice": patients["dice"].mean(),
    }
    if full:
        slices["slice"] = np.tile(np.arange(1, SLICES + 1), len(PATIENTS))
        patients["sequences"] = "all three"
        patients["hd95"] = [5.0, np.nan, np.nan]
        metrics |= {
            "intervals": {
                "patient_dice": {"value": metrics["patient_dice"], "low": 0.0, "high": 0.9, "n": 3},
                "hd95": {"value": 5.0, "low": None, "high": None, "n": 1},
                "odd_figure_iou": {"value": 0.123456, "low": 0.1, "high": 0.2, "n": 3},
            },
            "strata": [
                {"by": "area", "group": "<200", "slices": 2, "patients": 1, "tumour_iou": 0.5, "dice": 0.5, "found": 1},
                {"by": "area", "group": ">2k", "slices": 1, "patients": 1, "tumour_iou": None, "dice": 0, "found": 0},
            ],
            "failures": [
                {
                    "kind": "larger tumour missed",
                    "rule": "at least 500 px, none <b>predicted</b>",
                    "count": 1,
                    "of": 2,
                    "examples": [{"patient": HOSTILE, "slice": 3, "image_path": f"{HOSTILE}/{HOSTILE}_3.tif"}],
                },
                {"kind": "nothing of this kind", "rule": "r", "count": 0, "of": 9, "examples": []},
            ],
            "calibration": {
                "brier": 0.012,
                "ece": 0.034,
                "bins": [
                    {"low": 0.0, "high": 0.5, "pixels": 9000, "mean_probability": 0.1, "tumour_share": 0.05},
                    {"low": 0.5, "high": 1.0, "pixels": 0, "mean_probability": None, "tumour_share": None},
                ],
            },
            "notes": ["3 patients show little </script><img src=x onerror=alert(2)>"],
        }
        lesions = pd.DataFrame(
            {
                "patient": ["A_1", HOSTILE],
                "lesion": 1,
                "first_slice": [2, 3],
                "last_slice": 3,
                "volume": [1200, 2500],
                "overlap": [900, 0],
                "found": [1, 0],
                "dice": [0.8, 0.0],
            }
        )
        lesions.to_csv(run / "test_lesions.csv", index=False)
        epochs = pd.DataFrame(
            {
                "epoch": [1, 2, 3],
                "training_loss": [0.7, 0.5, 0.4],
                "training_iou": [0.1, 0.4, 0.5],
                "validation_loss": [0.8, 0.6, 0.65],
                "validation_iou": [0.2, 0.6, 0.5],
            }
        )
        epochs.to_csv(run / "results.csv", index=False)
        epochs.assign(validation_tumour_iou=0.3, validation_all_empty=0.55).to_csv(run / "epochs.csv", index=False)
        (run / "config.json").write_text(json.dumps({"settings": {"width": 16}, "patients": {"train": 8}}))
    slices.to_csv(run / "test_results.csv", index=False)
    patients.to_csv(run / "test_patients.csv", index=False)
    (run / "metrics.json").write_text(json.dumps(metrics))
    return run, images, masks, predicted, slices


def page_of(arguments: tuple) -> str:
    report.write_report(*arguments)
    return (arguments[0] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    report.write_report(*write_run(run))
    return run


# --- Encoding ----------------------------------------------------------------------------------------------------


def decode_labels(runs: list[int], shape: tuple[int, int]) -> np.ndarray:
    labels, at = np.zeros(shape[0] * shape[1], int), 0
    for skipped, length, label in zip(*[iter(runs)] * 3, strict=True):
        labels[at + skipped : at + skipped + length] = label
        at += skipped + length
    return labels.reshape(shape)


def test_labels_are_written_as_runs():
    mask = np.array([[0, 1, 1, 0], [0, 1, 0, 0]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.uint8)
    # mask only at 1, both at 2, prediction only at 3; then one unmarked pixel, mask only at 5
    assert report.encode_labels(mask, predicted) == [1, 1, 1, 0, 1, 3, 0, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 1])
def test_labels_survive_the_round_trip(share):
    rng = np.random.default_rng(1)
    mask, predicted = (rng.random((2, 64, 50)) < share).astype(np.uint8)
    labels = decode_labels(report.encode_labels(mask, predicted), mask.shape)
    assert np.array_equal(labels & 1, mask) and np.array_equal(labels >> 1, predicted)
    assert share or report.encode_labels(mask, predicted) == []


def test_the_view_is_a_square_around_head_and_marks():
    flair, marked = np.zeros((10, 256, 256), np.uint8), np.zeros((10, 256, 256), bool)
    assert report.head_view(flair, marked) == [0, 0, 256]
    flair[:, 50:100, 60:90] = 200
    flair[:, 10, 240] = 200  # a speck is not the head
    assert report.head_view(flair, marked) == [46, 46, 58]  # 50 rows and 4 pixels of margin on both sides
    marked[3, 55, 119] = True  # columns 60 to 119
    assert report.head_view(flair, marked) == [56, 41, 68]
    marked[0, 0, 0] = marked[0, 255, 255] = True
    assert report.head_view(flair, marked) == [0, 0, 256]


def test_pictures_give_up_quality_before_size(monkeypatch):
    flair = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    rich = report.encode_pictures(flair)
    monkeypatch.setattr(report, "IMAGE_BYTES", sum(map(len, rich)) - 1)
    poorer = report.encode_pictures(flair)
    assert all(picture[8:12] == b"WEBP" for picture in rich + poorer)
    assert sum(map(len, poorer)) < sum(map(len, rich))


# --- Charts ------------------------------------------------------------------------------------------------------


def test_ticks_are_round_numbers_inside_the_range():
    assert charts.Axis("", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert charts.Axis("", -28_000, 3_000).ticks() == [-20_000, -10_000, 0]
    assert charts.Axis("", 0.06, 0.7, log=True).ticks() == pytest.approx([0.1, 0.2, 0.5])
    assert charts.Axis("", 5, 2e6, log=True).ticks() == pytest.approx([10, 100, 1e3, 1e4, 1e5, 1e6])
    assert [charts.number(v) for v in (0.1 + 0.2, 500, -20_000, 1e6)] == ["0.3", "500", "-20k", "1M"]


@pytest.mark.parametrize("values", [[3], [0, 0], [float("nan")], []])
@pytest.mark.parametrize("log", [False, True])
def test_an_axis_needs_no_two_values(values, log):
    axis = charts.whole_range(values, "x", log)
    assert axis.low < axis.high and axis.ticks() == sorted(axis.ticks())


def test_a_curve_is_interrupted_where_a_value_is_missing():
    chart = charts.Chart("T", "D", charts.Axis("x", 0, 3), charts.Axis("y", 0, 1))
    chart.line([0, 1, 2, 3], [0, float("nan"), 1, 1], "a", "name")
    path = re.search(r' d="([^"]+)"', chart.marks[0])[1]
    foot, top = charts.HEIGHT - charts.BOTTOM, charts.TOP
    third = (charts.WIDTH - charts.LEFT - charts.RIGHT) / 3
    expected = f"M{charts.LEFT:.1f} {foot:.1f} M{charts.LEFT + 2 * third:.1f} {top:.1f}"
    assert path == f"{expected} L{charts.WIDTH - charts.RIGHT:.1f} {top:.1f}"


# --- What the page says ------------------------------------------------------------------------------------------


class Outline(HTMLParser):
    """Checks that tags are balanced; collects ids, tags and the addresses that the page would load."""

    VOID = frozenset(("meta", "link", "br", "input", "img", "path", "circle", "rect"))

    def __init__(self, page: str):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("src", "href", "xlink:href", "action") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_page_is_whole_and_loads_nothing(full_run):
    page = (full_run / "report.html").read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.open == [] and len(set(outline.ids)) == len(outline.ids)
    assert all(address.startswith("data:") or address[1:] in outline.ids for address in outline.addresses)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert outline.tags.count("script") == 2 and "img" not in outline.tags and "b" in outline.tags
    assert "default-src 'none'" in page


def test_nothing_from_a_file_becomes_markup(full_run):
    page = (full_run / "report.html").read_text(encoding="utf-8")
    for text in ("<script>alert", "</script><img", "<b>predicted"):
        assert text not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{data}}" in page  # and a name like a place of the template stays


def test_sections_appear_with_their_files(tmp_path, full_run):
    bare = Outline(page_of(write_run(tmp_path, full=False))).ids
    full = Outline((full_run / "report.html").read_text(encoding="utf-8")).ids
    optional = {"failures", "strata", "lesions", "calibration", "training"}
    assert {"summary", "patients", "viewer", "volumes", "terms"} <= set(bare)
    assert optional <= set(full) and not optional & set(bare)


def test_results_csv_is_enough_for_the_curves(tmp_path):
    arguments = write_run(tmp_path)
    (tmp_path / "epochs.csv").unlink()
    page = page_of(arguments)
    assert "IoU against epoch" in page and "validation, predicting nothing" not in page


def test_the_summary_speaks_from_the_counts(full_run):
    page = (full_run / "report.html").read_text(encoding="utf-8")
    assert "It finds 2 of 4 tumour slices (50%)." in page
    assert "It raises a false alarm on 2 of 14 slices without tumour (14%)." in page
    assert "1 of them is missed altogether" in page  # B; C has Dice 0 too, but no tumour
    assert "against the 0.778 that predicting nothing" in page and "no better than that" in page


def test_a_model_that_predicts_nothing_is_called_so(tmp_path):
    run, images, masks, predicted, slices = write_run(tmp_path, full=False)
    nothing = np.zeros_like(predicted)
    page = page_of((run, images, masks, nothing, slices.assign(**scores(count(masks, nothing)))))
    assert "It predicts nothing on any slice." in page and "It finds 0 of 4 tumour slices (0%)." in page


def test_synthetic_patients_and_real_ones_are_announced(tmp_path):
    page = page_of(write_run(tmp_path, synthetic=True))
    assert 'class="banner"' in page and "SYNTHETIC PATIENTS" in page and "contains images of" not in page
    page = page_of(write_run(tmp_path, synthetic=False))
    assert 'class="banner"' not in page and "contains images of 3 patients" in page and "CC BY-NC-SA" in page
    assert "not a medical device" in page.lower()


def test_patients_are_sorted_by_dice(full_run):
    page = (full_run / "report.html").read_text(encoding="utf-8")
    bars = page[page.index('<table class="bars">') : page.index("</table>", page.index('<table class="bars">'))]
    values = [float(v) for v in re.findall(r'<data value="([^"]+)"', bars)]
    expected = pd.read_csv(full_run / "test_patients.csv")["dice"]
    assert values[:-1] == pytest.approx(sorted(expected, reverse=True)) and values[-1] == pytest.approx(expected.mean())


def test_a_missing_or_damaged_file_leaves_the_old_page(tmp_path):
    arguments = write_run(tmp_path)
    page = page_of(arguments)
    for name, content, said in (
        ("metrics.json", "{", "cannot be read"),
        ("metrics.json", "[]", "no figures by name"),
        ("test_patients.csv", "", "cannot be read as CSV"),
    ):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=said):
            report.write_report(*arguments)
        (tmp_path / name).write_text(before)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(UserError, match="no such file"):
        report.write_report(*arguments)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


# --- In a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        program = started.chromium.launch(executable_path=path, args=list(FLAGS))  # with a fresh profile of its own
        yield program
        program.close()


@pytest.fixture
def opened(browser, full_run):
    """Open the report: opened(width, color_scheme) -> page; in the end nothing may have gone wrong in it."""
    contexts, wrong = [], []

    def open_page(width: int = 1280, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        address = (full_run / "report.html").as_uri()
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if not expected(request.url, address) else None)
        page.goto(address)
        return page

    def expected(url: str, address: str) -> bool:
        return url == address or url.startswith("data:")

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def text(page, selector: str) -> str:
    return page.locator(selector).inner_text()


def at(page) -> int:
    """Index of the slice that the viewer shows."""
    return page.evaluate("state.slice")


def test_figures_equal_the_files(opened, full_run):
    page = opened()
    metrics = json.loads((full_run / "metrics.json").read_text())
    values = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('tr[data-figure]')]"
        ".map(row => [row.dataset.figure, Number(row.querySelector('data').value)]))"
    )
    expected = {name: metrics[name] for name in ("loss", "iou", "all_empty", "tumour_iou", "tumour_found")}
    expected |= {name: interval["value"] for name, interval in metrics["intervals"].items()}
    assert values == pytest.approx(expected)
    shown = text(page, 'tr[data-figure="patient_dice"] .value')
    assert shown == f"{metrics['patient_dice']:.3f}"
    assert "0.000 to 0.900" in text(page, 'tr[data-figure="patient_dice"]')

    patients = pd.read_csv(full_run / "test_patients.csv", index_col="patient")
    page.locator("#patients summary").click()
    for row in page.locator("#patients details tbody tr").all():
        of = patients.loc[row.get_attribute("data-row")]
        for column in ("dice", "iou", "tumour_pixels", "predicted_pixels", "slices"):
            value = row.locator(f'td[data-column="{column}"] data').get_attribute("value")
            assert float(value) == pytest.approx(of[column])


def test_every_slice_in_the_viewer_equals_its_row(opened, full_run):
    page = opened()
    table = pd.read_csv(full_run / "test_results.csv")
    for number, patient in enumerate(sorted(PATIENTS)):
        page.select_option("#patient", index=number)
        page.focus("#stage")
        page.keyboard.press("Home")
        rows = table[table["patient"] == patient]
        assert len(rows) == SLICES
        for row in rows.itertuples():
            assert text(page, "#shown-slice") == f"{row.slice} ({row.slice} of {SLICES})"
            assert text(page, "#shown-dice") == f"{row.dice:.3f}" and text(page, "#shown-iou") == f"{row.iou:.3f}"
            shown = [text(page, f"#shown-{name}").replace(",", "") for name in ("tumour", "missed", "false")]
            assert list(map(int, shown)) == [row.tumour_pixels, row.false_negative, row.false_positive]
            page.keyboard.press("ArrowRight")


def test_keys_wheel_slider_buttons_and_profile_change_the_slice(opened):
    page = opened()
    page.select_option("#patient", label="A_1, Dice 0.840")  # 2 * 1050 / (1201 + 1300)
    assert at(page) == 1  # the slice with the largest mask
    page.focus("#stage")
    for key, index in (
        ("Home", 0),
        ("ArrowLeft", 0),
        ("ArrowRight", 1),
        ("ArrowUp", 2),
        ("ArrowDown", 1),
        ("PageUp", 5),
        ("PageDown", 0),
        ("End", 5),
    ):
        page.keyboard.press(key)
        assert at(page) == index, key
    page.focus("#slice")
    page.keyboard.press("ArrowLeft")
    assert at(page) == 4
    page.locator("#slice").fill("2")
    assert at(page) == 2 and page.get_attribute("#slice", "aria-valuetext") == "slice 3, 3 of 6"
    page.click("#next")
    page.click("#previous")
    page.click("#previous")
    assert at(page) == 1
    page.locator("#stage").scroll_into_view_if_needed()
    page.locator("#stage").hover()
    for turn, index in ((100, 2), (100, 3), (-100, 2), (15, 2), (15, 2), (15, 3)):
        page.mouse.wheel(0, turn)
        page.wait_for_timeout(60)
        assert at(page) == index
    box = page.locator("#profile").bounding_box()
    page.locator("#profile").click(position={"x": box["width"] - 12, "y": 60})
    assert at(page) == SLICES - 1
    page.click("#worst")
    assert at(page) == 1


def test_at_the_end_of_the_stack_the_wheel_scrolls_the_page(opened):
    page = opened()
    page.locator("#stage").scroll_into_view_if_needed()
    page.locator("#stage").hover()
    page.focus("#stage")
    page.keyboard.press("End")
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    page.wait_for_function("y => scrollY > y", arg=before)


def test_outlines_enclose_the_pixels_of_the_masks(opened):
    """Shoelace formula over all loops of a path: holes turn the other way round and are subtracted."""
    page = opened()
    areas = page.evaluate(
        """patients.flatMap(p => p.slices.map(s => {
            const area = d => d.split("Z").filter(Boolean).reduce((sum, loop) => {
                const points = loop.slice(1).split("L").map(point => point.split(" ").map(Number));
                return sum + points.reduce((a, [x, y], i) => {
                    const [u, v] = points[(i + 1) % points.length];
                    return a + (x * v - u * y) / 2;
                }, 0);
            }, 0);
            const labels = decodeLabels(s.runs);
            return [area(outline(labels, is.mask)) - s.tumour, area(outline(labels, is.prediction)) - s.predicted,
                    area(outline(labels, is.both)) - s.hit, area(outline(labels, is.missed)) - s.missed];
        }))"""
    )
    assert len(areas) == len(PATIENTS) * SLICES and not np.any(areas)
    corners = page.evaluate("outline(new Uint8Array(size * size).fill(1, 1, 3), is.mask)")
    assert sorted(re.findall(r"\d+ \d+", corners)) == ["1 0", "1 0", "1 1", "3 0", "3 1"]  # two pixels, closed


def test_layers_can_be_switched_off_and_differ_without_colour(opened):
    page = opened()
    page.select_option("#patient", label="A_1, Dice 0.840")  # 2 * 1050 / (1201 + 1300)
    style = "getComputedStyle(document.querySelector('#stage .outline.{}')).strokeDasharray"
    assert page.evaluate(style.format("mask")) == "none" and page.evaluate(style.format("prediction")) != "none"
    for name in ("mask", "prediction"):
        page.uncheck(f"#show-{name}")
        assert page.locator(f"#stage .outline.{name}").count() == 0
    page.check("#show-regions")
    fills = [page.evaluate(f"getComputedStyle(document.querySelector('#stage .{c}')).fill") for c in REGIONS]
    assert len(set(fills)) == 3 and all("#hatch-" in fill for fill in fills)


REGIONS = ("both", "missed-region", "false-region")


def test_the_gallery_opens_the_viewer(opened):
    page = opened()
    assert page.locator("#failures .picture svg path.outline.mask").count() == 1
    page.locator("#failures button.link").click()
    assert page.evaluate("shown().number") == 3 and page.evaluate("patients[state.patient].id") == HOSTILE
    assert page.evaluate("document.activeElement.id") == "stage"
    assert "Missed" in text(page, "#spoken")


def test_controls_have_names_and_pictures_have_words(opened):
    page = opened()
    names = page.evaluate(
        """[...document.querySelectorAll("button, input, select, summary, a, [tabindex], [role=img]")].map(e => [
            e.outerHTML.slice(0, 90),
            e.getAttribute("aria-label") || [...(e.labels || [])].map(l => l.innerText).join() || e.textContent])"""
    )
    assert len(names) > 30 and [html for html, name in names if not name.strip()] == []
    unlabelled = (
        "[...document.querySelectorAll('svg')].filter(s => !s.closest('[aria-hidden=true], [role=img]')).length"
    )
    assert page.evaluate(unlabelled) == 0
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels)) <= 1
    assert page.evaluate("document.documentElement.lang") == "en"


def test_the_keyboard_reaches_everything_and_focus_is_seen(opened):
    page = opened()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
        width = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 2 or page.evaluate("document.activeElement === document.body")
    assert {"stage", "slice", "patient", "show-mask", "show-prediction", "show-regions", "brightness"} <= reached


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_phone_and_desktop_in_light_and_dark(opened, width, scheme):
    page = opened(width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground, ink = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    brightness = [sum(map(int, re.findall(r"\d+", color)[:3])) for color in (ground, ink)]
    assert (brightness[0] > brightness[1]) == (scheme == "light")
    assert page.locator("#stage").bounding_box()["width"] > 300
