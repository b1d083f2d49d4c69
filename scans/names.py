"""What the names of files and folders say: whose images they hold, and of which sequence."""

import functools
import json
import re
from pathlib import Path

from constants import FLAIR, POST, PRE

MASK, OTHER = "mask", "other"  # beside the channels: what a file can be
KINDS = {  # how the names of files and folders end, after what says whose they are; BraTS, BIDS and common habits
    FLAIR: r"(?:t2[_-]?)?flair|t2f",
    POST: r"ce-[a-z0-9]+_t1w|t1w?[_-]?(?:ce|c|gd|post|contrast)|post(?:[_-]?contrast)?",
    PRE: r"t1(?:w|n|[_-]?pre)?|pre(?:[_-]?contrast)?",
    OTHER: r"t2w?|adc|dwi|swi|pd",
    MASK: r"d?seg|segmentations?|masks?|labels?(?:tr|ts)?|roi|gt|ground[_-]?truth",
}
ENDS = "|".join(f"(?P<kind_{kind}>{words})" for kind, words in KINDS.items())
NAME = re.compile(rf"(?:(?P<whose>.*?)[_\-. ]+)??(?P<end>{ENDS})", re.IGNORECASE)
BEGINNING = re.compile(rf"(?P<end>{ENDS})[_\-. ]+(?P<whose>.+)", re.IGNORECASE)
LAST = ("pre", "post", "pd", "roi", "gt")  # say nothing where they begin a name: it may be a patient's
ALONE = ("pre", "post")  # say a sequence only where nothing stands before them: else it may be of an operation
FORMAT = re.compile(r"anat|nifti|nii|dicom|dcm|mri?", re.IGNORECASE)  # says of nobody whose images it holds
# Nor does this, beside another name
GENERAL = re.compile(r"images?(?:tr|ts)?|scans?|volumes?|stack|brain", re.IGNORECASE)


def kind_of(name: str) -> tuple[str, int | str | None]:
    """Return whose a file or folder is by its name, and its kind: a channel, OTHER or MASK.

    What says the kind stands last (x_flair) or first (flair_x, mask_x_flair). The name itself and None where it says
    no kind.
    """
    match = NAME.fullmatch(name)
    begins = BEGINNING.fullmatch(name)
    if begins and begins["end"].lower() not in LAST and (begins[f"kind_{MASK}"] or not match):
        match = begins
    elif not match or (match["whose"] and match["end"].lower() in ALONE):
        return name, None
    return match["whose"] or "", next(kind for kind in KINDS if match[f"kind_{kind}"])


def in_nnunet_set(path: Path) -> tuple[str, int | str | None] | None:
    """Return whose a file of an nnU-Net data set is (x_0000.nii.gz), and its channel; None for any other."""
    match = re.fullmatch(r"(.+)_(\d{4})\.nii(?:\.gz)?", path.name)
    names = _channel_names(path.parent.parent) if match else {}
    if not match or (name := names.get(str(int(match[2])))) is None:
        return None
    kind = kind_of(name)[1]
    return match[1], OTHER if kind is None else kind


@functools.cache
def _channel_names(folder: Path) -> dict[str, str]:
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return {str(number): str(name) for number, name in about["channel_names"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or of another program
        return {}


def is_mask(path: Path) -> bool:
    """Return whether a picture, such as slice_1_mask.png, is a mask by its name."""
    return kind_of(path.stem)[1] == MASK


def repeats(name: str, whose: str) -> bool:
    """Return whether a name holds another as whole words: ses-1_p1 holds p1, p10 does not."""
    return re.search(rf"(?<![a-z0-9]){re.escape(whose)}(?![a-z0-9])", name, re.IGNORECASE) is not None


def read_place(parts: list[str], above: Path) -> tuple[list[str], int | str | None]:
    """Return the parts of a path that say whose images it holds, at least one; and their kind.

    Not what is called like a sequence or says nothing, nor a folder whose name is repeated in it.

    Args:
        parts: folders, and the name of the file or of the folder of slices last.
        above: the folder that holds the first of them. It is asked where no part says whose the images are.
    """
    kind: int | str | None = None
    left: list[str] = []
    general = ""
    for part in reversed(parts):
        whose, found = kind_of(part)
        if found == MASK:  # of some sequence
            kind, whose = MASK, kind_of(whose)[0]
        elif left and whose:  # sub-01_flair/x.nii.gz: the folder is of no sequence alone
            whose, found = part, None
        kind = found if kind is None else kind
        if GENERAL.fullmatch(whose):
            general = general or whose
        elif whose and not FORMAT.fullmatch(whose) and not (left and repeats(left[0], whose)):
            left.insert(0, whose)
    if left or general:
        return left or [general], kind
    if above.parent == above:  # the root of the file system
        return ["images"], kind
    more, found = read_place([above.name], above.parent)
    return more, found if kind is None else kind
