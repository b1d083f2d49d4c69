"""What a user says about scans on the command line: the options, the patients they mean, and the table of --list."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from constants import POST, PRE
from utils import USER_ERROR, UserError, positive

if TYPE_CHECKING:
    from scans.cohort import Cohort

SOME_FAILED = 1  # exit code


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add INPUT and the options that say what it holds."""
    add = parser.add_argument_group("images").add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="file, folder or table")
    add("--pre", default="", metavar="FILE",
        help="pre-contrast sequence of the one INPUT, or a pattern of its name ('*_t1.nii.gz')")  # fmt: skip
    add("--post", default="", metavar="FILE", help="post-contrast sequence, in the same way")
    add("--mask", default="", metavar="FILE", help="reference mask, in the same way")
    add("--series", default="", metavar="NAME", help="number or description of the DICOM series that is FLAIR")
    add("--spacing", type=positive(float), nargs=3, metavar=("ROWS", "COLUMNS", "SLICES"),
        help="mm between rows, columns and slices, for files that do not say so")  # fmt: skip
    add("--list", type=Path, metavar="FILE", dest="table",
        help="only write what would be taken for whom, as a table to edit and to name as INPUT")  # fmt: skip


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments of a script with INPUT, --out and --list; what is wrong is said before packages load."""
    args = parser.parse_args(argv)
    if not (args.out or args.table):
        parser.error("name a folder with --out, or a table with --list")
    if not any(map(os.path.lexists, args.inputs)):
        parser.error(f"{args.inputs[0]}: no such file or folder")
    if args.table and args.table.exists() and not getattr(args, "overwrite", False):
        parser.error(f"{args.table}: is there already. Name another file with --list")
    return args


def find(args: argparse.Namespace) -> Cohort:
    """Return the patients of the inputs. Raises: UserError if there is nothing to list, or without --list no FLAIR."""
    from scans.cohort import find_patients
    from scans.names import MASK

    options = {PRE: args.pre, POST: args.post, MASK: args.mask}
    cohort = find_patients(args.inputs, options, args.series)
    if not (cohort.patients or cohort.unused if args.table else cohort.with_flair):
        raise UserError("\n".join(cohort.problems))
    return cohort


def report(problems: list[str], done: bool) -> None:
    """Print the problems, and end with an exit code if there are any."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(SOME_FAILED if done else USER_ERROR)
