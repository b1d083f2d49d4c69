"""Make synthetic patients in the folder layout of the Kaggle LGG set, to try the scripts without real data.

python make_phantoms.py                                        # the 14 of the demo
python make_phantoms.py my_phantoms --patients 30 --seed 1     # more, and others
"""

import argparse
from pathlib import Path

from constants import SYNTHETIC_DIR, SYNTHETIC_PATIENTS, SYNTHETIC_SEED
from utils import parse_first


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=SYNTHETIC_DIR, help="(%(default)s)")
    parser.add_argument("--patients", type=int, default=SYNTHETIC_PATIENTS, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=SYNTHETIC_SEED, help="of the random numbers (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_first(parse_arguments)


from dataset.published import LABEL_FILE
from dataset.synthetic import write_patients
from utils import run_script


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    written = write_patients(args.folder, args.patients, args.seed)
    slices = sum(1 for _ in args.folder.glob("*/*_mask.tif"))
    print(f"{args.folder}: {args.patients} patients, {slices} slices, {'written' if written else 'there already'}")
    print(f"{args.folder / LABEL_FILE}: made-up subtypes, of which one has more irregular tumours")
    print("SYNTHETIC data, drawn from random numbers: good for trying out the pipeline, not for results")


if __name__ == "__main__":
    run_script(main)
