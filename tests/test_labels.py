"""Tables of labels: how they may be written, how several are joined, and what is refused."""

import re
from pathlib import Path

import pytest

from dataset.labels import LABELS, default_label_files, read_labels
from dataset.published import MUTATION_FILE, published_patients
from utils import UserError

PATIENTS = ["TCGA_CS_4941_19960909", "TCGA_CS_4942_19970222", "TCGA_DU_0000_20000101"]


@pytest.fixture
def table(tmp_path):
    """Write a table of labels: table(text) -> path."""

    def write(text: str, name: str = "labels.csv") -> Path:
        (tmp_path / name).write_bytes(text.encode())
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "text",
    [
        "Patient;RNASeqCluster;other\nTCGA_CS_4941;2;x\nTCGA_CS_4942;;\nTCGA_XX_9999;1;\n",
        "\ufeffpatient,RNASeqCluster\r\nTCGA-CS-4941,2.0\r\nTCGA-CS-4942, \r\n",
        '"RNASeqCluster";"Patient"\n"2";"TCGA_CS_4941"\n"nan";"TCGA_CS_4942"\n',
    ],
    ids=["semicolons, a blank, an unknown patient", "BOM, hyphens, 2.0", "quotes, another order"],
)
def test_ways_to_write_a_table(table, text):
    labels, _ = read_labels([table(text)], PATIENTS)
    assert list(labels) == ["RNASeqCluster"] and labels.index.tolist() == PATIENTS
    assert labels["RNASeqCluster"].iloc[0] == "2" and labels["RNASeqCluster"].isna().tolist() == [False, True, True]


def test_several_tables_are_joined_and_must_not_contradict(table):
    first = table("Patient;RNASeqCluster\nTCGA_CS_4941;2\nTCGA_CS_4942;\n", "a.csv")
    second = table("Patient,RNASeqCluster,IDH\nTCGA_CS_4942_19970222,3,mutant\nTCGA_CS_4941,2,\n", "b.csv")
    labels, _ = read_labels([first, second], PATIENTS)
    assert labels["RNASeqCluster"].tolist()[:2] == ["2", "3"] and labels["IDH"].notna().tolist() == [False, True, False]
    other = table("Patient,RNASeqCluster\nTCGA_CS_4941,4\n", "c.csv")
    with pytest.raises(UserError, match=r"c\.csv: TCGA_CS_4941 has the RNASeqCluster '4', and '2' elsewhere"):
        read_labels([first, other], PATIENTS)


def test_words_for_missing_are_counted_and_listed(table):
    words = ["N/A", "[Not Available]", "not reported", "unknown", "--", "", "N/A", "mutant"]
    patients = [f"P{n}" for n in range(len(words))]
    rows = "".join(f"P{n};{word}\n" for n, word in enumerate(words))
    labels, notes = read_labels([table(f"Patient;IDH\n{rows}")], patients)
    assert labels["IDH"].isna().tolist() == [True] * 7 + [False]
    assert notes == ["IDH: taken for missing: N/A (2), [Not Available] (1), not reported (1), unknown (1), -- (1)"]


@pytest.mark.parametrize("word", ["[Discrepancy]", "status pending"])
def test_other_words_that_look_like_missing_are_asked_about(table, word):
    with pytest.raises(UserError, match=rf"the IDH '{re.escape(word)}' \(2\) looks like a word for missing"):
        read_labels([table(f"Patient;IDH\nA;{word}\nB;{word}\nC;mutant\n")], ["A", "B", "C"])


def test_spellings_of_one_label_are_merged_and_said(table):
    text = "Patient;IDH;CNCluster\nA;wildtype;2\nB;Wildtype;2,0\nC;WT;2.0\nD;wildtype;1\nE;Wild-type;02\n"
    labels, notes = read_labels([table(text)], list("ABCDE"))
    assert labels["IDH"].tolist() == ["wildtype"] * 5 and labels["CNCluster"].tolist() == ["2", "2", "2", "1", "02"]
    assert notes == ["IDH: taken for one label, wildtype: wildtype (2), Wildtype (1), WT (1), Wild-type (1)"]


def test_patients_without_a_row_and_rows_that_fit_nobody_are_named(table):
    labels, notes = read_labels([table("Patient;IDH\n001;mutant\nP9;mutant\n")], ["001", "P3"])
    assert labels["IDH"].tolist() == ["mutant", None]
    assert notes == ["no row for 1 of 2 patients: P3", "1 rows fit none of the patients: P9"]


def test_leading_zeros_that_a_spreadsheet_took_are_restored_where_one_patient_fits(table):
    rows = table("Patient,IDH\n12,mutant\n7,wildtype\nP7,mutant\n3,mutant\n")
    labels, notes = read_labels([rows], ["0012", "07", "003", "03"])
    assert labels["IDH"].tolist() == ["mutant", "wildtype", None, None]
    assert notes == [
        "leading zeros restored in 2 ids: 12 for 0012, 7 for 07",
        "no row for 2 of 4 patients: 003, 03",
        "2 rows fit none of the patients: P7, 3",
    ]
    assert read_labels([rows], ["12", "0012"])[0]["IDH"].tolist() == ["mutant", None]  # it is a patient as it is


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Patient,Age\nTCGA_CS_4941,3\n", "no column of labels"),
        ("Id,IDH\nTCGA_CS_4941,mutant\n", "no column Patient"),
        ("Patient,IDH\nTCGA_ZZ_0001,mutant\n", "names none of the 3 patients"),
        ("", "cannot be read as CSV"),
    ],
)
def test_what_is_no_table_of_labels(table, text, message):
    with pytest.raises(UserError, match=message):
        read_labels([table(text)], PATIENTS)


def test_missing_files_are_one_message(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        read_labels([tmp_path / "none.csv"], PATIENTS)
    with pytest.raises(UserError, match=r"data\.csv: no such file\. download_data\.py .* --labels"):
        default_label_files(tmp_path, PATIENTS)


def test_mutations_come_with_the_published_patients_only(table):
    folder = table("Patient;RNASeqCluster\n", "data.csv").parent
    assert default_label_files(folder, PATIENTS) == [folder / "data.csv"]
    published = list(published_patients())
    assert default_label_files(folder, published) == [folder / "data.csv", MUTATION_FILE]
    status = read_labels([MUTATION_FILE], published)[0]
    assert len(status) == 110 and status["IDH"].value_counts().to_dict() == {"mutant": 83, "wildtype": 23}
    mutated = {"IDH": 83, "ATRX": 43, "TP53": 56, "CIC": 16, "FUBP1": 8}
    assert (status == "mutant").sum().to_dict() == mutated and mutated.keys() <= LABELS.keys()


def test_ids_that_end_in_eight_digits_are_whole_ids_unless_they_are_of_tcga(table):
    labels, _ = read_labels([table("Patient;IDH\nLGG_10000001;mutant\n")], ["LGG_10000001", "LGG_10000002"])
    assert labels["IDH"].tolist() == ["mutant", None]
