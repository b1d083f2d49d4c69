"""report.html: what it says, that it is safe and complete, and how it behaves in a real browser.

The run has three made-up patients: A is found in part, B (whose name tries to break out of the page) is missed, C has
no tumour and two false positives. The tests with a browser need playwright and a Chromium, and are skipped without.
"""

import base64
import html
import itertools
import re
from collections import Counter
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from conftest import box, make_slices

from dataset.preprocess import find_head
from evaluation import summary
from reporting import viewer
from reporting.plots import training_plots, write_plots
from reporting.report import write_report
from storage.run_folder import RunFolder

HOSTILE = 'B"><script>alert(1)</script>{{ 7 * 7 }}'
NOTE = "3 patients show little </script><img src=x onerror=alert(2)>"
PATIENTS = ("A_1", HOSTILE, "C_3")
SLICES = 6
A_TITLE = "A_1, Dice 0.840"  # 2 * 1050 / (1201 + 1300)


def write_run(folder: Path, empty: bool = False, black: bool = False, **about) -> RunFolder:
    """Write the files of a tested run, or of a cross-validation or scored masks (epoch=None), and its report."""
    ring = box((100, 90, 40, 30))
    ring[110:120, 100:110] = 0
    small, corner, nothing = box((100, 90, 10, 10)), box((0, 0, 1, 1)), box()
    masks = {
        "A_1": [nothing, ring, small, corner, nothing, nothing],
        HOSTILE: [nothing, nothing, box((100, 100, 50, 50)), nothing, nothing, nothing],
        "C_3": [nothing] * SLICES,
    }
    predicted = np.zeros((len(PATIENTS) * SLICES, 256, 256), np.uint8)
    if not empty:
        predicted[1] = box((105, 90, 40, 30))  # slice 2 of A: five pixels lower, without the hole
        predicted[2] = small  # slice 3 is found exactly, slice 4 is missed
        predicted[12:14] = box((80, 80, 4, 5)), box((80, 80, 7, 1))
    images = np.random.default_rng(0).integers(0, 8, (*predicted.shape, 3), dtype=np.uint8)
    images[:, 60:200, 70:190] += 90
    images *= not black
    slices = make_slices(masks, images)

    known = {"split": "test", "epoch": 2, "selected_by": "iou", "synthetic": True, "loss": 0.25, "threshold": 0.5}
    known |= {"min_component": 0, **about}
    run, probabilities = RunFolder(folder), (0.1 + 0.8 * predicted).astype(np.float32)
    tables, metrics = summary.evaluate_masks(slices, predicted, probabilities, known, [NOTE])
    run.write_test(tables, metrics, predicted)
    about = {"settings": {"width": 16, "seed": 3}, "hardware": "cpu", "versions": {"torch": "2"}, "data": ""}
    run.tested_runs()[0].write("config.json", about | {"patients": {"train": 8}, "recipe": "tuned", "command": "x"})
    if known["epoch"]:
        epochs = {"epoch": [1, 2, 3], "training_loss": [0.7, 0.5, 0.4], "validation_loss": [0.8, 0.6, 0.65]}
        epochs |= {f"{split}_iou": [0.1, 0.6, 0.5] for split in ("training", "validation", "validation_tumour")}
        epochs = pd.DataFrame(epochs).assign(validation_empty_prediction=0.55)
        write_plots(run, training_plots(epochs, 2, "iou"))
    write_report(run, slices, predicted)
    return run


def page_of(run: RunFolder) -> str:
    return (run.path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("run"))


def test_labels_are_written_as_runs():
    mask = np.array([[0, 1, 1, 0], [0, 1, 0, 0]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.uint8)
    # mask only at 1, both at 2, prediction only at 3; then one unmarked pixel, mask only at 5
    assert viewer.encode_labels(mask, predicted) == [1, 1, 1, 0, 1, 3, 0, 1, 2, 1, 1, 1]


def test_the_view_is_a_square_around_head_and_marks():
    images, marked = np.zeros((10, 256, 256, 3), np.uint8), np.zeros((10, 256, 256), bool)
    assert viewer.head_view(find_head(images) | marked) == [0, 0, 256]
    images[:, 50:100, 60:90] = images[:, 10, 240] = 200  # a speck is not the head
    assert viewer.head_view(find_head(images) | marked) == [38, 38, 74]  # 50 rows and 12 pixels of margin on both sides
    marked[3, 55, 119] = True  # columns 60 to 119
    assert viewer.head_view(find_head(images) | marked) == [48, 33, 84]


def test_pictures_give_up_quality_to_stay_within_their_bytes():
    shown = np.random.default_rng(0).integers(0, 256, (3, 2, 64, 64), dtype=np.uint8)

    def size(slices: list[list[str]]) -> int:
        return sum(len(base64.b64decode(text)) for texts in slices for text in texts)

    rich = size(viewer.encode_pictures(shown))
    for most, pictures in ((rich, 3), (rich - 10, 3), (rich // 3, 1)):  # the last not even at the lowest quality
        slices = viewer.encode_pictures(shown, most)
        assert [len(texts) for texts in slices] == [pictures] * 2 and size(slices) <= most


def test_the_page_is_complete_and_loads_nothing(run):
    page = page_of(run)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(set(ids)) == len(ids)
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    opened = Counter(re.findall(r"<([a-z]\w*)[^>]*(?<!/)>", markup))
    opened.subtract(re.findall(r"</(\w+)>", markup))
    alone = {"meta", "link", "br", "input", "img"}  # all others are closed
    assert {tag for tag, number in opened.items() if number} <= alone
    addresses = re.findall(r'(?:href|src|action)="([^"]*)"', page)
    assert all(address.startswith("data:") or address[1:] in ids for address in addresses)
    names = {"http://www.w3.org/2000/svg"}  # of SVG, not addresses
    assert set(re.findall(r"https?://[^\s\"']+", page)) == names and "default-src 'none'" in page
    assert {"summary", "viewer", "failures", "lesions", "training"} < set(re.findall(r'<li><a href="#(\w+)">', page))
    assert "<script>alert" not in page and "</script><img" not in page  # nothing from a file becomes markup
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}" in page  # and it is no expression of the template


def test_the_page_says_what_stands_in_metrics(run):
    for said in (
        "1 of 2, and 0 false", "14 px each", "1 of 3 patients without tumour", 'class="banner"', "SYNTHETIC PATIENTS",
        "<br>tumour 2,500 px", 'alt="Plot: IoU"',
    ):  # fmt: skip
        assert said in page_of(run)
    assert "images of 3" not in page_of(run)


def test_an_empty_cross_validation_of_real_patients(tmp_path):
    (tmp_path / "epochs.csv").write_text("epoch,training_loss\n1,0.5\n")  # of another run: not looked at
    thresholds = enumerate((0.6, 0.45, 0.5), start=1)
    folds = [{"fold": fold, "threshold": threshold, "min_component": 10} for fold, threshold in thresholds]
    about = {"split": "cross-validation, 3 folds", "epoch": None, "threshold": None, "min_component": None}
    about["spacing"] = None  # of all folds
    run = write_run(tmp_path, empty=True, synthetic=False, folds=folds, **about)
    page = page_of(run)
    for said in (
        "<dd>threshold 0.6, components below 10 px, or in one slice alone, removed / threshold 0.45, ",
        "<dt>Recipe</dt><dd>tuned</dd>",
        "(cross-validation, 3 folds)</h1>", "not a medical device", "images of 3 patients", "CC BY-NC-SA",
        "0 of 2, and 0 false", "there are no millimetres",
    ):  # fmt: skip
        assert said in page
    for unsaid in ("Plot: Loss", "#training", 'class="banner"', "<dt>Command</dt>"):
        assert unsaid not in page
    page = page_of(write_run(tmp_path / "scored", black=True, synthetic=False, epoch=None, masks="theirs"))
    assert "masks of 3 patients and no images" in page and "images of" not in page
    assert "carry no spacing" not in page and "there are no millimetres" in page


@pytest.fixture
def opened(browser, run):
    """Open the report: opened(width, color_scheme) -> page; in the end nothing may have gone wrong in it."""
    pages, wrong, address = [], [], (run.path / "report.html").resolve().as_uri()

    def open_page(width: int = 1280, scheme: str = "light"):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        pages.append(page)
        page.set_default_timeout(60_000)  # a busy machine is slow
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []


def current(page, what: str = "slice"):
    """Return what the viewer shows: the index of the slice, or another entry of its state."""
    return page.evaluate(f"document.getElementById('viewer-panel').viewer.current().{what}")


def test_the_page_works_within_a_notebook(browser, run):
    """There it is the srcdoc of a frame, which has no address of its own."""
    page, wrong = browser.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_content(f'<iframe srcdoc="{html.escape(page_of(run))}" width="1200" height="900"></iframe>')
    for pressed in ("#next", "nav a >> nth=1", "button.link[data-slice] >> nth=0"):
        page.frame_locator("iframe").locator(pressed).click()
    assert (page.url, wrong) == ("about:blank", [])
    page.close()


def test_the_numbers_of_the_page_are_those_of_the_files(opened, run):
    page = opened()
    metrics = run.read_metrics()
    values = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('tr[data-metric]:has(data)')]"
        ".map(row => [row.dataset.metric, Number(row.querySelector('data').value)]))"
    )
    assert len(values) > 15 and values == {name: metrics[name] for name in values}
    patients = run.read_test_tables()["patients"].set_index("patient")
    each = ", ".join(f"{dice:.3f}" for dice in patients["dice"].sort_index())  # three patients have no interval
    assert each in " ".join(page.inner_text('tr[data-metric="patient_dice"]').split())
    assert page.locator(".metrics .interval i").count() == 0 and "nan" not in page.inner_text("main").lower()
    cells = page.locator("#patients td[data-column=dice] data")
    dice = cells.evaluate_all("cells => cells.map(cell => Number(cell.value))")
    assert dice == pytest.approx(sorted(patients["dice"], reverse=True), abs=1e-6)


def test_every_slice_in_the_viewer_equals_its_row(opened, run):
    page = opened()
    table = run.read_test_tables()["slices"]
    for number, patient in enumerate(sorted(PATIENTS)):
        page.select_option("#patient", index=number)
        for row in table[table["patient"] == patient].itertuples():
            page.locator("#slice").fill(str(row.slice - 1))
            counts = (f"{pixels:,}" for pixels in (row.tumour_pixels, row.false_negative, row.false_positive))
            expected = [f"{row.slice} ({row.slice} of {SLICES})", f"{row.dice:.3f}", f"{row.iou:.3f}", *counts]
            names = ("slice", "Dice", "IoU", "reference", "missed", "false positive")
            assert [page.inner_text(f"#readout dd[data-value^='{name}']") for name in names] == expected


def test_keys_and_controls_change_the_slice(opened):
    page = opened()
    page.select_option("#patient", label=A_TITLE)
    assert current(page) == 1  # the slice with the largest mask
    page.focus("#stage")
    for key, index in (("Home", 0), ("ArrowLeft", 0), ("ArrowRight", 1), ("PageUp", 5), ("End", 5), ("ArrowLeft", 4)):
        page.keyboard.press(key)
        assert current(page) == index, key
    assert page.evaluate("location.hash") == "#A_1/5"
    page.locator("#slice").fill("2")
    assert current(page) == 2
    page.click("#worst")
    assert current(page) == 1
    page.focus("input[name=sequence]:checked")  # who uses the keyboard stays on a control
    page.keyboard.press("ArrowRight")
    assert current(page, "layer") == 1 and page.evaluate("document.activeElement.name") == "sequence"
    for control in ("#show-mask", "input[name=sequence][value='1']", "#window", "#next", "#profile"):
        page.click(control)
        page.locator("#stage").press("Home")
        page.click(control)
        before = current(page)
        page.keyboard.press("ArrowRight")
        assert current(page) == min(before + 1, SLICES - 1), control
        page.keyboard.down("B")  # as Caps Lock sends it
        assert page.locator("#stage .outline").count() == 0
        page.keyboard.up("B")


def test_the_wheel_changes_the_slice_of_a_clicked_picture_and_else_scrolls_the_page(opened):
    page = opened()
    page.select_option("#patient", label=A_TITLE)
    page.locator("#stage").scroll_into_view_if_needed()
    page.locator("#stage").hover()
    page.mouse.wheel(0, 60)
    page.wait_for_function("scrollY > 30")
    assert current(page) == 1
    page.wait_for_timeout(350)
    page.click("#stage")
    at = page.evaluate("scrollY")
    for turn, index in ((100, 2), (-100, 1)):
        page.mouse.wheel(0, turn)
        page.wait_for_timeout(60)
        assert current(page) == index
    assert page.evaluate("scrollY") == at


def test_picture_and_controls_are_seen_together(opened):
    page = opened()
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    for height, elements in ((900, ("#stage", "#slice", "#show-regions", "#worst")), (720, ("#stage", "#slice"))):
        page.set_viewport_size({"width": 1280, "height": height})
        page.evaluate("document.getElementById('viewer').scrollIntoView()")
        for place in (page.locator(element).bounding_box() for element in elements):
            assert place["y"] > 0 and place["y"] + place["height"] <= height, height


def test_print_shows_no_controls_and_nothing_over_anything(opened):
    page = opened(720)
    page.emulate_media(media="print")
    for dead in ("#slice", "#next", "#show-mask", "#profile", "#window", "nav"):
        assert not page.locator(dead).is_visible(), dead
    behind = page.evaluate("getComputedStyle(document.getElementById('viewer-panel')).backgroundColor")
    assert behind == "rgba(0, 0, 0, 0)"
    boxes = page.locator(".subgroups table").evaluate_all("ts => ts.map(t => t.getBoundingClientRect().toJSON())")
    assert all(box["right"] <= 720 for box in boxes)
    assert all(above["bottom"] <= below["top"] for above, below in itertools.pairwise(boxes))
    sizes = "es => es.filter(e => e.offsetParent).map(e => parseFloat(getComputedStyle(e).fontSize))"
    assert min(page.locator("td, th").evaluate_all(sizes)) > 11  # CSS px: 8.3 pt


def test_the_picture_zooms_and_shows_each_sequence(opened):
    page = opened()
    page.select_option("#patient", label=A_TITLE)
    assert page.locator("#stage .outline").count() == 2
    pictures = set()
    for number in range(3):
        page.check(f"input[name=sequence][value='{number}']")
        pictures.add(page.get_attribute("#stage image", "href"))
    assert len(pictures) == 3
    whole = current(page, "view")
    page.click("#zoom-in")
    left, top, side = current(page, "view")
    assert side == pytest.approx(whole[2] / 1.5)
    assert (left + side / 2, top + side / 2) == pytest.approx((104.5, 122), abs=1)  # reference and prediction together
    page.locator("#window").fill("50")
    levels = [page.get_attribute("#levels feFuncR", name) for name in ("slope", "intercept")]
    assert levels == ["2", "-0.5"]  # 0.25 is black, 0.75 white
    page.uncheck("#show-mask")
    assert page.locator("#stage .outline").count() == 1


def test_outlines_enclose_the_pixels_of_the_masks_also_of_noise(opened):
    """Shoelace formula over all loops of a path: holes turn the other way round and are subtracted."""
    page = opened()
    page.add_script_tag(type="module", content=(Path(viewer.__file__).parent / "viewer.js").read_text(encoding="utf-8")
                        + "\nwindow.outline = outline; window.drawSlice = drawSlice;")  # fmt: skip
    page.wait_for_function("window.outline")
    noise = (np.random.default_rng(0).random((60, 40)) < 0.3).astype(int)
    ring = (box((10, 10, 20, 20)) - box((15, 15, 2, 2))).astype(int)[:60, :40]
    for mask, style in ((noise, ["outline mask noisy"]), (ring, ["halo", "outline mask"])):
        path, edges, drawn = page.evaluate(
            """labels => {
                const {path, length} = outline(labels, 40, 60, label => label === 1);
                const slice = {number: 1, words: "", picture: () => "", labels: () => Uint8Array.from(labels)};
                const drawn = drawSlice({id: "", width: 40, height: 60, view: [0, 0, 60]}, slice, {mask: true});
                return [path, length, [...drawn.querySelectorAll("path")].map(path => path.getAttribute("class"))];
            }""",
            mask.ravel().tolist(),
        )
        loops = [np.array(re.findall(r"(\d+) (\d+)", loop), int).T for loop in path.split("Z")[:-1]]
        area = sum((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() for x, y in loops) / 2
        borders = sum(np.abs(np.diff(mask, axis=axis, prepend=0, append=0)).sum() for axis in (0, 1))
        assert (area, edges, drawn) == (mask.sum(), borders, style)


def test_the_gallery_and_a_link_open_the_viewer_and_all_fits_a_phone(opened):
    page = opened()
    assert page.evaluate("[document.scripts.length, document.images.length]") == [2, 2]  # none from a file
    missed = page.locator("#failures figure").filter(has_text=f"{HOSTILE}, slice 3")
    assert missed.locator("svg path.outline.mask").count() == missed.count()
    missed.locator("button.link").first.click()
    assert [current(page, "id"), current(page, "number")] == [HOSTILE, 3]
    assert page.evaluate("document.activeElement.id") == "stage" and "Missed" in page.inner_text("#spoken")
    page.evaluate("hash => { location.hash = hash; }", f"{quote(HOSTILE, safe='')}/4")
    page.wait_for_function("document.getElementById('viewer-panel').viewer.current().slice === 3")
    page = opened(390, "dark")  # a phone
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#stage").bounding_box()["width"] > 300
