"""What the names of files, folders and DICOM series say: whose they are, and which sequence."""

import functools
import json
import re
from collections.abc import Collection
from pathlib import Path

from constants import FLAIR, POST, PRE
from scans.scan import safe_name, stem

Kind = int | str | None  # a channel; one of the next two; None where the names do not say
MASK, OTHER = "mask", "other"
COLUMNS = {"flair": FLAIR, "pre": PRE, "post": POST, "mask": MASK}  # of a table; options but for flair
SHOWN = {PRE: "pre-contrast", FLAIR: "FLAIR", POST: "post-contrast", MASK: "reference mask"}
WORDS = {  # of BraTS, BIDS and common habits; short ones say nothing where they may be of a patient's name
    MASK: r"d?segm?|segmentations?|masks?|labels?(?:tr|ts)?|lesions?|(?:ground|gold)[ _-]?(?:truth|standard)"
    r"|(?:roi|gtv?|wmh|msk)$",
    FLAIR: r"(?:t2[ _-]?)?flair|t2f|fla|dark[ _-]?fluid",
    POST: r"ct1|gado|ce-[a-z0-9]+_t1w|t1w?[ _-]?(?:ce|c|gd|gado|post|contrast)|(?<!.)post(?:[ _-]?contrast)?$"
    r"|post[ _-]?contrast",
    PRE: r"t1(?:w|n|[ _-]?pre)?|(?<!.)pre$|pre[ _-]?contrast",
    OTHER: r"t2w?|adc|dwi|swi|(?:pd|dp)$|brain[ _-]?masks?|t1(?:ce|c|gd)-t1",
}
KINDS = {
    kind: re.compile(rf"(?<![a-z0-9])(?:[23]d)?(?:{words})(?![a-z0-9])", re.IGNORECASE) for kind, words in WORDS.items()
}
ONTO = re.compile(  # T1_to_FLAIR is a T1; how a sequence was acquired names nobody (BIDS)
    r"[_-](?:space|to|in|on|reg|(?<=_)acq)[_-][a-z0-9]+(?:[_-]space)?(?=[_-]|$)", re.IGNORECASE
)
CAMEL = re.compile(r"(?<=[a-z])(?=(?:Mask|Seg|Label|Lesion|Roi|ROI))")  # tumorMask
OF_BRAIN = re.compile(  # beside the word for a mask, which stands as |: such a one is no reference
    r"(?:brain|skull|(?<![a-z])bet)(?:[_-]?(?:extraction|strip\w*))?\||\|(?:brain|skull|bet)(?![a-z])", re.IGNORECASE
)
AGENT = re.compile(r"(?<![a-z])(?:post|gad|gado|gd|ce|\+c|c\+)(?![a-z])", re.IGNORECASE)  # contrast agent, in DICOM
NOBODY = re.compile(
    r"anat|nifti|nii|dicom|dcm|mri?|imaging|images?(?:tr|ts)?|scans?|volumes?|stack|brain", re.IGNORECASE
)
FORMAT = re.compile(r"[_-](?:nifti|nii|dicom|dcm)$", re.IGNORECASE)  # ends names of folders
MAKER = {  # of a mask, by its name
    "corrected": re.compile(r"correct|edited|revised", re.IGNORECASE),
    "network": re.compile(r"(?<![a-z])(?:pred|auto|nnu|model|network)", re.IGNORECASE),
}


def kind_of(name: str, within: bool = True) -> tuple[str, Kind]:
    """Return whose a file or folder is by its name, and its kind; the name itself and None where it says no kind.

    x_flair, flair_x and, within, x_flair_y are FLAIR of x, x and x_y; x_flair_mask_y is a mask of x_flair. A mask of
    the brain, or of another sequence than FLAIR, is no reference.
    """
    text = CAMEL.sub("_", ONTO.sub("", name))
    found = {kind: match for kind, words in KINDS.items() for match in words.finditer(text)
             if within or match.start() == 0 or match.end() == len(text)}  # fmt: skip
    if not found:
        return name, None
    kind = max(found, key=lambda kind: (kind == MASK, found[kind].end(), -found[kind].start()))  # t2_flair is no t2
    before, after = text[: found[kind].start()].rstrip("_-. "), text[found[kind].end() :].lstrip("_-. ")
    if kind == MASK:
        others = FLAIR not in found and {PRE, POST, OTHER} & found.keys()
        around = f"{KINDS[FLAIR].sub('', before).rstrip('_-. ')}|{after}"
        return before or after, OTHER if OF_BRAIN.search(around) or others else MASK
    return "_".join(filter(None, (before, after))), kind


def kind_of_series(description: str) -> Kind:
    """Return the sequence of a DICOM series by its description, such as "AX T1 POST"."""
    kind = kind_of(re.sub(r"\s+", "_", description))[1]
    return POST if kind == PRE and AGENT.search(description) else kind


def maker_of(name: str) -> str:
    """Return whose a mask is by its name: corrected, network, or else reader."""
    return next((maker for maker, words in MAKER.items() if words.search(name)), "reader")


def read_place(parts: list[str], root: Path, file: bool) -> tuple[str, Kind]:
    """Return the name of the patient whose images lie at a place below the root, and their kind.

    Not what is called like a sequence or says nothing, nor a folder whose name is repeated in what it holds.
    parts: folders, and the name of the file or of the folder of slices last.
    file: whether that is a file, whose kind may stand anywhere in its name.
    """
    kind: Kind = None
    left: list[str] = []
    folder = root.joinpath(*parts)
    for number, part in enumerate(reversed([*root.parts[1:], *parts])):
        if number >= len(parts) and left:
            break
        is_file = file and number == 0
        whose, found = kind_of(part, within=is_file)
        above = number >= max(len(parts), 1) and found == MASK  # of what was named, such as ~/TumorSegmentation
        if above or (not is_file and (part.lower() == "wmh" or (found in (PRE, POST) and is_time_point(folder)))):
            whose, found = part, None  # a folder of the patients of a disease, or of a time point
        series = folder.parent if is_file and stem(folder) == folder.parent.name else folder
        if series.name in sequence_folders(series.parent):
            whose = ""
        folder = folder.parent
        kind = found if kind is None or found == MASK else kind
        whose = whose if is_file else FORMAT.sub("", whose)
        repeated = left and re.search(rf"(?<![a-z0-9]){re.escape(whose)}(?![a-z0-9])", left[0], re.IGNORECASE)
        if whose and not NOBODY.fullmatch(whose) and not repeated:
            left.insert(0, whose)
    return safe_name("_".join(left)).lstrip(".") or "images", kind


@functools.cache
def is_time_point(folder: Path) -> bool:
    """Return whether a folder called pre or post holds a FLAIR: it is before or after surgery, and no sequence."""
    try:
        return any(kind_of(stem(path))[1] == FLAIR for path in folder.iterdir())
    except OSError:
        return False


@functools.cache
def sequence_folders(folder: Path) -> set[str]:
    """Return the names of the folders in a folder if each is one sequence of one patient, as 1_T1, 2_T1GD and 4_FLAIR.

    What they have beside the sequence names nobody. FLAIR_p1 and T1_p1 are of p1, and so are not returned.
    """
    try:
        read = {path.name: kind_of(path.name) for path in folder.iterdir() if path.is_dir()}
    except OSError:
        return set()
    read = {name: (whose, kind) for name, (whose, kind) in read.items() if kind is not None}
    main = [(whose, kind) for whose, kind in read.values() if kind in (PRE, FLAIR, POST)]
    whose, kinds = ({pair[n] for pair in main} for n in (0, 1))
    return set(read) if FLAIR in kinds and len(kinds) == len(whose) == len(main) > 1 else set()


@functools.cache
def channels_of_set(folder: Path) -> dict[int, Kind]:
    """Return the sequence of each number in a set of nnU-Net (x_0000.nii.gz) or the Decathlon; {} if it is none."""
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        names = about.get("channel_names") or about["modality"]
        channels = {int(n): kind_of(str(name))[1] for n, name in names.items()}
        return {n: OTHER if kind is None else kind for n, kind in channels.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or of another program
        return {}


def volumes_of_set(file: Path) -> list[int]:
    """Return which volumes of a file are pre-contrast, FLAIR and post-contrast, in a set of the Decathlon; else [].

    FLAIR stands in for a missing one.
    """
    channels = channels_of_set(file.parent.parent) if file.parent.name.startswith("images") else {}
    kinds = {kind: number for number, kind in channels.items()}
    return [kinds.get(kind, kinds[FLAIR]) for kind in (PRE, FLAIR, POST)] if FLAIR in kinds else []


def is_pattern(text: str) -> bool:
    """Return whether an option names a pattern of file names, and not a file."""
    return bool(re.search(r"[*?[]", text)) and not Path(text).exists()


def base_of(name: str, others: Collection[str]) -> str:
    """Return the longest of the other names that this one continues, as s_0_mask does s_0; an empty text if none."""
    cuts = (match.start() for match in reversed(list(re.finditer(r"[_\-. ]", name))))
    return next((name[:cut] for cut in cuts if name[:cut] in others), "")
