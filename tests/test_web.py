"""The page of web/: built from the committed weights, opened from a file in Chromium without a network.

Its masks are compared with those of predict_model.py: they may differ only where the probability is near the threshold.
Skipped without npm (or where it cannot fetch the locked packages), onnx, playwright or Chromium.
"""

import base64
import gzip
import io
import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from conftest import make_volume
from test_dicom import write_slice

import constants
from constants import FLAIR, POST, PRE, SYNTHETIC_SEED
from dataset.folder import find_slices
from dataset.slices import load_slices
from dataset.synthetic import make_patient
from reporting.model_card import describe_input
from reporting.scans import scan_facts
from scans import check
from scans.cohort import find_patients
from scans.read import read_patient
from scans.scan import Scan
from storage.checkpoints import load_network
from unet import UNet
from utils import UserError

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
if not shutil.which("npm"):
    pytest.skip("npm is not installed, which builds the page", allow_module_level=True)

import onnx
import onnxruntime

from storage.onnx_graph import network_graph
from web import build

LARGEST_PAGE = 12_000_000  # bytes
NEAR = 0.002  # of a probability to the threshold: masks may differ there
SLICES = 4
SPACING = (0.9, 1.1, 6.0)  # mm between columns, rows, slices
# What is special of a volume, and how its axes run; or the kind of file
CASES = ("three sequences RAS", "T1 on another grid LIP", "1 mm PIR", "sagittal ASL", "DICOM", "one slice", "pictures",
         "photographs")  # fmt: skip
ENDINGS = {"sagittal ASL": "nrrd", "one slice": "mha"}


@pytest.fixture(scope="module")
def network():
    return load_network(constants.WEIGHTS)


@pytest.fixture(scope="module")
def page_file(network, tmp_path_factory) -> Path:
    try:
        build.install()
    except UserError as error:
        pytest.skip(f"npm cannot fetch the packages: {error}")
    model, checkpoint = network
    card = constants.WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("web") / "page.html"
    path.write_bytes(build.build_page(model, describe_input(checkpoint), card))
    return path


@pytest.fixture(scope="module")
def page(browser, page_file):
    """The page from its file, without a network. It serves all tests: what is wrong in one must not end it."""
    wrong: list[str] = []
    context = browser.new_context(offline=True, accept_downloads=True, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready]", state="attached")
    yield page
    context.close()
    assert wrong == []


def give(page, folder: Path) -> str:
    """Let the page take all files of a folder, and return its refusal, or an empty text when it is done."""
    page.set_input_files("#files", [str(path) for path in sorted(folder.iterdir())])
    page.wait_for_selector("body[data-seconds], #refusal:not([hidden])", state="attached")
    return page.inner_text("#refusal")


def saved(page, button: str = "#save-masks") -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return make_patient(SYNTHETIC_SEED, 3, 8)[0][1 : 1 + SLICES]


# --- The same masks as Python's ----------------------------------------------------------------------------------


def write_volume(path: Path, planes: np.ndarray, code: str = "LPS", spacing: Sequence[float] = SPACING) -> None:
    """Write slices (uint8 [S, H, W]) as a volume of 16 bits, whose axes run as the code says."""
    image = make_volume(planes.astype(np.int16) * 7, spacing, (12.5, -40.25, 7))
    sitk.WriteImage(sitk.DICOMOrient(image, code), str(path))


def write_case(folder: Path, case: str, images: np.ndarray) -> None:
    """Write files of a case; the head of "1 mm PIR" is cut off, and its mask reaches the end of the stack."""
    folder.mkdir()
    part, axes = images[:, 10:250, 20:236], case[-3:] if case[-3:].isupper() else "RIA"
    flair, wide, high = part[..., FLAIR], *SPACING[:2]
    if case in ("pictures", "photographs"):
        noise = np.random.default_rng(0).integers(0, 255, (2, 200, 300, 3), dtype=np.uint8)
        for number, image in enumerate(part if case == "pictures" else noise):
            ending = "tif" if number % 2 else "png"
            cv2.imwrite(str(folder / f"s_{number + 9}.{ending}"), image[..., ::-1])  # _10 comes after _9
    elif case == "DICOM":
        for number, plane in enumerate(flair):
            write_slice(folder / f"IM{'CABD'[number]}", plane.astype(np.uint16) * 9, (-1, -2, 3 + 5 * number), size="1")
    else:
        planes, spacing = {
            "1 mm PIR": (flair.repeat(6, axis=0), (wide, high, 1)),
            "sagittal ASL": (flair[..., ::5].repeat(6, axis=0), (5 * wide, high, 1)),
            "one slice": (flair[2:3], SPACING),
        }.get(case, (flair, SPACING))
        write_volume(folder / f"p_flair.{ENDINGS.get(case, 'nii.gz')}", planes, axes, spacing)
        if case == "three sequences RAS":
            write_volume(folder / "p_t1.nii.gz", part[..., PRE], axes)
            write_volume(folder / "p_t1ce.nii.gz", part[..., POST], axes)
        if case == "T1 on another grid LIP":
            write_volume(folder / "p_t1.nii.gz", part[:, ::3, ::2, PRE], "PIR", (2 * wide, 3 * high, 6))


def read_stack(paths: list[Path]) -> np.ndarray:
    """Return the slices of a volume, as shown, or of pictures in the order of their numbers: [S, H, W]."""
    if paths[0].suffix == ".gz":
        return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(paths[0])), "LPS"))
    ordered = sorted(paths, key=lambda path: int(path.name.split("_")[1]))
    return np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in ordered]) / 255


def unpack(content: bytes, folder: Path) -> list[Path]:
    """Write the masks that the page saved into a folder, and return their files."""
    folder.mkdir()
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as files:
            files.extractall(folder)
    else:
        (folder / "mask.nii.gz").write_bytes(content)
    return [*folder.iterdir()]


def compare(page, call, network, folder: Path, out: Path, spacing: Sequence[float] = ()) -> tuple[np.ndarray, str]:
    """Assert that page and predict_model.py say the same of a folder, and return the page's masks and warnings.

    spacing: mm between rows, columns and slices, if the user has to give it.
    """
    options = ("--spacing", *spacing) if spacing else ()
    code, printed, _ = call("predict_model", folder, "--out", out, "--probabilities", "--device", "cpu", *options)
    assert code == 0
    expected, probabilities = (
        read_stack([path for path in out.glob(f"*/*_{what}.*") if path.suffix != ".json"])
        for what in ("mask", "probability")
    )
    assert give(page, folder) == ""
    for filled in (spacing[:2], spacing) if spacing else ():
        for field, value in zip(page.locator("#spacing input").all(), filled, strict=False):
            field.fill(str(value))
        page.click("#again")
        page.wait_for_selector("body[data-seconds], #refusal:not([hidden])", state="attached")
        assert page.inner_text("#refusal") == ("" if filled == spacing else "Give all three distances in mm, or none.")
    paths = unpack(saved(page), out / "saved")
    masks, volume = read_stack(paths), paths[0].suffix == ".gz"
    far = np.abs(probabilities - network[1]["input"]["threshold"]) > NEAR + (0 if volume else 1 / 510)
    assert masks.shape == far.shape and not ((masks != expected) & far).any()
    if volume:
        mask, other = (sitk.ReadImage(str(path)) for path in (paths[0], *out.glob("*/*_mask.nii.gz")))
        assert mask.GetSize() == other.GetSize()
        for name in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(mask, name)() == pytest.approx(getattr(other, name)(), abs=1e-5)

    (patient,) = pd.read_csv(out / "patients.csv", keep_default_na=False).to_dict("records")
    table = pd.read_csv(io.BytesIO(saved(page, "#save-table")))
    differ = int((masks != expected).sum())
    assert table["lesion_pixels"].sum() == masks.sum() == pytest.approx(patient["lesion_pixels"], abs=differ)
    if (volume or spacing) and not differ:
        assert page.inner_text("#shown-volume") == f"{patient['lesion_mm3'] / 1000:,.1f} ml"
        assert table["lesion_mm3"].sum() == pytest.approx(patient["lesion_mm3"])
    said = " ".join(printed.split()) + (out / "cohort.csv").read_text(encoding="utf-8")
    warnings = page.locator("#warnings li").all_text_contents()  # shown with a capital
    assert (check.ONE_SEQUENCE in warnings) == (check.ONE_SEQUENCE in said)
    own = " ".join(warning for warning in warnings if warning != check.ONE_SEQUENCE)
    assert own.lower() == patient["warnings"].lower()  # later sentences begin with a capital
    assert all(note in said for note in page.locator("#notes li").all_inner_texts())
    return masks, own


@pytest.mark.parametrize("case", CASES)
def test_masks_volumes_and_warnings_are_those_of_python(page, call, network, images, tmp_path, case):
    write_case(tmp_path / "patient", case, images)
    spacing = (0.9, 1.1, 6) if case == "pictures" else ()
    masks, warnings = compare(page, call, network, tmp_path / "patient", tmp_path / "out", spacing)
    assert masks.any() or case in ("one slice", "photographs")
    assert ("does not look like MR of one head" in warnings) == (case == "photographs")
    assert (check.MISPLACED in warnings and check.AT_END in warnings) or case != "1 mm PIR"


@pytest.mark.real
@pytest.mark.parametrize("channel", [FLAIR, PRE])
def test_a_real_patient_and_its_t1_in_place_of_flair(page, call, network, real, tmp_path, channel):
    slices = load_slices(real, {"": find_slices(real, ["TCGA_HT_7694_19950404"])})[""]
    folder = tmp_path / "patient"
    folder.mkdir()
    write_volume(folder / "flair.nii.gz", slices.images.numpy()[::3, ..., channel])
    masks, warnings = compare(page, call, network, folder, tmp_path / "out")
    assert masks.any() == (channel == FLAIR) and (check.LIKE_T1 in warnings) == (channel == PRE)


# --- What else it does --------------------------------------------------------------------------------------------


def test_a_patient_of_the_training_is_known_in_the_words_of_the_report(page, network, images, tmp_path):
    write_volume(tmp_path / f"{min(describe_input(network[1])['training_patients'])}.nii.gz", images[:1, ..., FLAIR])
    assert give(page, tmp_path) == ""
    seen = page.locator("#warnings li").first.inner_text()
    assert scan_facts(Scan("", [], [], []), {"seen_in_training": "yes"}, "")[0] == seen


def test_bad_files_are_one_sentence_also_when_they_are_dropped(page, tmp_path):
    for name, content, words in (
        ("flair.nii.gz", b"a text", "flair.nii.gz: cannot be read: is damaged"),
        ("flair.png", b"\x89PNG nothing", "flair.png: cannot be read: is damaged"),
        ("t1.nii.gz", b"", "No FLAIR, which is what is segmented, beside t1.nii.gz"),
    ):
        (tmp_path / name).write_bytes(content)
        assert words in give(page, tmp_path) and page.is_hidden("#result")
        (tmp_path / name).unlink()
    page.evaluate(
        "const data = new DataTransfer(); data.items.add(new File(['x'], 'dropped.doc'));"
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))"
    )
    page.locator("#refusal", has_text="dropped.doc is not read here").wait_for()
    page.evaluate("dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer(), cancelable: true}))")
    page.locator("#refusal", has_text="No image is among these files").wait_for()


def test_a_series_with_a_gap_is_refused_in_the_words_of_python(page, images, tmp_path):
    for number in (0, 1, 3):
        plane = images[number, ..., FLAIR].astype(np.uint16)
        write_slice(tmp_path / f"IM{number}", plane, (0, 0, 5 * number), size="1")
    (patient,), _, _ = find_patients([tmp_path])
    assert give(page, tmp_path).split(": ")[-1] == read_patient(patient)[1][0].split(": ")[-1]


def test_mixed_series_and_slices_of_two_sizes_are_asked_about_or_refused(page, images, tmp_path):
    for name, series, side in (("a", "1.2.3", 256), ("b", "1.2.4", 256), ("c", "1.2.4", 128)):
        plane = images[0, :side, :side, FLAIR].astype(np.uint16)
        write_slice(tmp_path / name, plane, (0, 0, 5 * side), size="1", SeriesInstanceUID=series)
    assert give(page, tmp_path) == "2 of these may be FLAIR: choose one below."
    page.select_option("#role-0", "")
    page.select_option("#role-1", "flair")
    page.click("#again")
    page.locator("#refusal", has_text="its slices differ in ").wait_for()


def test_the_sample_keys_threshold_and_brush(page, network, tmp_path):
    own = f"{network[1]['input']['threshold']}, the network's own"
    page.click("#sample-button")
    page.wait_for_selector("body[data-seconds]", state="attached")
    volume = page.inner_text("#shown-volume")
    assert volume.endswith(" ml") and page.inner_text("#shown-threshold") == own
    page.locator(".viewer").screenshot(path=tmp_path / "page.png")  # pictures/page.png
    shown = int(page.inner_text("#shown-slice").split()[0])
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#shown-slice") == f"{shown + 1} of 12"
    page.keyboard.press("Home")
    assert page.inner_text("#shown-slice") == "1 of 12" and page.inner_text("#shown-area") == "0 mm²"
    assert page.locator("#marks path.prediction").count() == 0

    page.check("input[name=tool][value=paint]")
    page.focus("#stage")
    page.keyboard.press(" ")
    painted = int(page.inner_text("#shown-area").split()[0])
    assert painted == pytest.approx(np.pi * 6**2, rel=0.1) and page.locator("#marks path.prediction").count() == 1
    page.fill("#threshold", "0.95")  # edits outlive it
    page.locator("#shown-volume", has_not_text=volume).wait_for()
    assert int(page.inner_text("#shown-area").split()[0]) == painted
    page.click("#own-threshold")
    page.click("#undo")
    page.locator("#shown-volume", has_text=volume).wait_for()
    assert page.inner_text("#shown-area") == "0 mm²"
    page.check("input[name=tool][value='']")


def test_the_page_fits_a_telephone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    wide = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size({"width": 1280, "height": 900})
    assert wide <= 390


# --- The build ----------------------------------------------------------------------------------------------------


def test_one_small_file_that_may_ask_nothing(page_file, network):
    text = page_file.read_text(encoding="utf-8")
    assert len(text) < LARGEST_PAGE and "default-src 'none'" in text and "connect-src" not in text
    assert constants.RESEARCH_USE in text and "CC BY-NC-SA 4.0" in text
    assert re.search("<h3>(Cross-validation|Validation|Test)</h3>", text)


def test_the_scripts_alone(page_file):
    result = subprocess.run(["npm", "test", "--prefix", build.HERE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("network", [{"bilinear": True, "pixel_unshuffle": 2}, {}])
def test_the_graph_computes_what_the_network_does(network):
    torch.manual_seed(0)
    model, slices = UNet(5, 1, 4, **network), torch.randn(2, 5, 64, 96)
    model(slices)  # the norms have seen data
    graph, expected = network_graph(model.eval(), 5), model(slices).detach().numpy()
    logits = onnxruntime.InferenceSession(graph).run(["logits"], {"slices": slices.numpy()})[0]
    assert abs(logits - expected).max() / abs(expected).max() < 1e-2


def test_weights_that_the_page_cannot_use_are_refused(network, page_file, monkeypatch):
    monkeypatch.setattr(build, "write_sample", Path.touch)
    changes = {"normalisation": "brain", "apart_mm": 5, "resolution": 0.5}
    with pytest.raises(UserError, match=r'"apart_mm".* by "brain".* not at 0\.5'):
        build.build_page(UNet(5, width=2).eval(), describe_input(network[1]) | changes, "")


def take_apart(page: Path) -> tuple[list[str], onnx.GraphProto]:
    """Return the text of a page around sample and weights, and the graph of its network."""
    part = r'<script type="text/plain" id="(?:sample|weights)">(.*?)</script>'
    before, _, between, weights, after = re.split(part, page.read_text(encoding="utf-8"))
    return [before, between, after], onnx.load_from_string(gzip.decompress(base64.b64decode(weights))).graph


def test_the_committed_page_is_what_the_sources_build(page_file):
    """Byte for byte, but for the sample, which other processors draw a little differently, and for the network, whose
    nodes and tensors are compared: the same graph may be packed in other bytes by another version of onnx.
    """
    command = "build it again: python export_model.py --formats web --name lgg_unet --out web --overwrite"
    assert take_apart(build.HERE / "lgg_unet.html") == take_apart(page_file), command
