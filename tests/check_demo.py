"""Check what `make demo` left behind: python tests/check_demo.py RUN. Not a test of its own; CI runs it."""

import json
import math
import sys
from pathlib import Path

import pandas as pd
from PIL import Image

run = Path(sys.argv[1])

results = pd.read_csv(run / "results.csv")
assert results["training_loss"].iloc[-1] < 0.7 * results["training_loss"].iloc[0], "it did not learn"

slices = pd.read_csv(run / "test_results.csv")
metrics = json.loads((run / "metrics.json").read_text())
tumour = slices[slices["tumour_pixels"] > 0]
assert metrics["synthetic"] is True and len(slices) == metrics["slices"] > 0
assert math.isclose(metrics["tumour_iou"], tumour["iou"].mean(), abs_tol=1e-5)
assert metrics["tumour_iou"] > 0.6, f"tumour-slice IoU {metrics['tumour_iou']:.3f}, expected more than 0.6"
assert metrics["iou"] > metrics["empty_prediction"], "worse than an empty prediction"

pictures = [run / "plots" / name for name in ("loss.png", "iou.png", "dice_area.png")]
pictures += [run / "genomics" / "plots" / f"boxes_{name}.png" for name in ("bevr", "margin_fluctuation", "angular_sd")]
for path in pictures:
    with Image.open(path) as picture:
        assert picture.width > 500 and len(picture.convert("L").getcolors()) > 20, f"{path}: nothing drawn"

page = (run / "report.html").read_text(encoding="utf-8")
assert "SYNTHETIC PATIENTS" in page and f'<data value="{metrics["tumour_iou"]}"' in page, "report.html differs"

print(f"demo checked: {len(results)} epochs, tumour-slice IoU {metrics['tumour_iou']:.3f} on {len(tumour)} slices")
