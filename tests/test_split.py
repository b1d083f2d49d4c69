"""Split by patient: the published composition, folds, scans of one person, and saved splits."""

import pandas as pd
import pytest

from dataset.folder import find_slices
from dataset.published import PATIENTS_FILE, institution
from dataset.split import (
    SPLITS,
    assign_fold,
    assign_patients,
    describe_persons,
    person_of,
    read_assignment,
)  # fmt: skip
from utils import UserError

FACTS = pd.read_csv(PATIENTS_FILE)  # all 110 patients of the set, and how many slices each


def sizes(facts: pd.DataFrame, assignment: dict[str, str]) -> list[tuple[int, int]]:
    of_patient = facts["patient"].map(assignment)
    return [(int((of_patient == s).sum()), int(facts["slices"][of_patient == s].sum())) for s in SPLITS]


def test_the_published_composition_of_all_110_and_of_the_12_patients():
    patients = FACTS["patient"].tolist()
    assert len(patients) == 110 and FACTS["slices"].sum() == 3929
    assert sizes(FACTS, assign_patients(patients)) == [(79, 2769), (20, 756), (11, 404)]
    assert assign_patients(patients) == assign_patients(patients[::-1] + patients)  # in whatever order
    subset = FACTS[FACTS["in_subset"] == 1]
    assert len(subset) == 12 and subset["slices"].sum() == 336
    assignment = assign_patients(subset["patient"])
    assert sizes(subset, assignment) == [(8, 178), (2, 45), (2, 113)]
    assert sorted(p for p, s in assignment.items() if s == "test") == ["TCGA_CS_6186_20000601", "TCGA_HT_A61A_20000127"]


@pytest.mark.parametrize(
    ("patient", "person"),
    [
        ("PAT_02_20190101", "PAT_02"),
        ("TCGA_CS_4942_19970222", "TCGA_CS_4942"),
        ("sub-01_ses-preop", "sub-01"),
        ("sub-01_2019-01-31", "sub-01"),
        ("Patient-001_week-000-1", "Patient-001"),
        ("BraTS-GLI-00005-001", "BraTS-GLI-00005"),
        *((own, own) for own in ("LGG_10000001", "P_12", "20190101", "UCSF-PDGM-0004", "A-week")),
    ],
)
def test_ids_of_one_person(patient, person):
    assert person_of(patient) == person


def test_only_ids_of_tcga_name_an_institution():
    assert [institution(patient) for patient in ("TCGA_CS_4942_19970222", "TCGA-HT-A61A")] == ["CS", "HT"]
    own = ("UKE_0001_ses1", "SYNTH_XX_0001_20000101", "TCGAX_AB_1", "P_1_2")
    assert {institution(patient) for patient in own} == {"unknown"}


def test_a_person_is_on_one_side_of_any_split_or_fold():
    """15 of 20 persons have two scans, a year apart."""
    patients = [f"PAT_{n:02d}_{year}0101" for n in range(20) for year in (2019, 2020)[: 1 + (n < 15)]]
    for assignment in (assign_patients(patients), *(assign_fold(patients, k, 4) for k in (1, 2, 3, 4))):
        assert sorted(assignment) == patients
        assert len({(person_of(patient), split) for patient, split in assignment.items()}) == 20
    assert describe_persons(patients) == (
        "15 of 20 persons have several scans by their ids, such as PAT_00 (PAT_00_20190101, PAT_00_20200101)"
    )
    with pytest.raises(UserError, match=r"2 persons are too few .* columns patient, person and split"):
        assign_patients([*patients[:3], patients[0]])


def test_persons_of_a_saved_assignment(folder, tmp_path):
    """By their ids, or where ids do not say it by a column."""
    path, rows = tmp_path / "split.csv", ["A_20190101,train", "A_20200101,test", "B,validation"]
    patients = [row.split(",")[0] for row in rows]
    path.write_text("\n".join(["patient,split", *rows]))
    with pytest.raises(UserError, match=r"scans of A are in several splits \(A_20190101 in train, A_20200101 in"):
        read_assignment(path, patients, folder)
    path.write_text("\n".join(["patient,split,person", *(f"{row},{n}" for n, row in enumerate(rows))]))
    assert read_assignment(path, patients, folder)[0]["A_20200101"] == "test"
    path.write_text(
        "patient,split,person\nA_20190101,test,A\nA_20200101,test,A\nB,train,D\nC,train,D\nE,validation,E\n"
    )
    (warning,) = read_assignment(path, ["A_20190101", "A_20200101", "B", "C", "E"], folder)[1]
    assert warning.startswith("the ids of D do not say that their scans are of one person")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("patient,split\nSYNTH_T_0,train\nSYNTH_T_1,validation\n", "SYNTH_T_2: is not named in"),
        ("patient,split\nSYNTH_T_0,train\nSYNTH_T_0,test\n", "line 3: SYNTH_T_0 is named twice"),
        ("patient\tsplit\nSYNTH_T_0\ttrain\n", "has no column patient, split"),
        ("patient,split\nSYNTH_T_0,train,seen\n", "its lines hold more values than its first one names columns"),
        ("patient,split\n\n\nSYNTH_T_1,trian\n", "line 4: 'trian' is no split"),
    ],
)
def test_a_bad_assignment_is_refused(folder, tmp_path, content, message):
    path = tmp_path / "split.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_assignment(path, find_slices(folder)["patient"], folder)
