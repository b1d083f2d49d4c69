"""Tables of labels: how they may be written, how several are joined, and what is refused."""

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


@pytest.mark.parametrize("text", [
    "Patient;RNASeqCluster;other\nTCGA_CS_4941;2;x\nTCGA_CS_4942;;\nTCGA_XX_9999;1;\n",
    "\ufeffpatient,RNASeqCluster\r\nTCGA-CS-4941,2.0\r\nTCGA-CS-4942, \r\n",
    '"RNASeqCluster";"Patient"\n"2";"TCGA_CS_4941"\n"nan";"TCGA_CS_4942"\n',
], ids=["semicolons, a blank, an unknown patient", "BOM, hyphens, 2.0", "quotes, another order"])  # fmt: skip
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


def test_words_for_missing_are_listed_and_spellings_of_one_label_merged(table):
    words = ["N/A", "[Not Available]", "not reported", "unknown", "--", "", "N/A", "mutant", "Mutant", "WT"]
    patients = [f"P{n}" for n in range(len(words))]
    rows = "".join(f"P{n};{word}\n" for n, word in enumerate(words))
    labels, notes = read_labels([table(f"Patient;IDH\n{rows}")], patients)
    assert labels["IDH"].tolist() == [None] * 7 + ["mutant", "mutant", "wildtype"]
    assert notes == [
        "IDH: taken for missing: N/A (2), [Not Available] (1), not reported (1), unknown (1), -- (1)",
        "IDH: taken for mutant: Mutant (1)",
        "IDH: taken for wildtype: WT (1)",
    ]


def test_ids_that_fit_nobody_are_named_and_leading_zeros_restored_where_one_patient_fits(table):
    rows = table("Patient,IDH\n12,mutant\n7,wildtype\nP7,mutant\n3,mutant\n")
    labels, notes = read_labels([rows], ["0012", "07", "003", "03"])
    assert labels["IDH"].tolist() == ["mutant", "wildtype", None, None]
    assert notes == [
        "leading zeros restored in 2 ids: 12 for 0012, 7 for 07",
        "no row for 2 of 4 patients: 003, 03",
        "2 rows fit none of the patients: P7, 3",
    ]
    assert read_labels([rows], ["12", "0012"])[0]["IDH"].tolist() == ["mutant", None]  # it is a patient as it is
    labels, _ = read_labels([table("Patient;IDH\nLGG_10000001;mutant\n")], ["LGG_10000001", "LGG_10000002"])
    assert labels["IDH"].tolist() == ["mutant", None]  # only ids of TCGA end in a date


@pytest.mark.parametrize(("text", "message"), [
    ("Patient,Age\nTCGA_CS_4941,3\n", "no column of labels"),
    ("Id,IDH\nTCGA_CS_4941,mutant\n", "no column Patient"),
    ("Patient,IDH\nTCGA_ZZ_0001,mutant\n", "names none of the 3 patients"),
    ("", "cannot be read as CSV"),
    ("Patient;IDH\nTCGA_CS_4941;status pending\n",
     "TCGA_CS_4941 has the IDH 'status pending', which looks like a word for missing"),
])  # fmt: skip
def test_what_is_no_table_of_labels(table, text, message):
    with pytest.raises(UserError, match=message):
        read_labels([table(text)], PATIENTS)
    with pytest.raises(UserError, match=r"none\.csv: cannot be read"):
        read_labels([Path("none.csv")], PATIENTS)


def test_mutations_come_with_the_published_patients_only(table):
    folder = table("Patient;RNASeqCluster\n", "data.csv").parent
    assert default_label_files(folder, PATIENTS) == [folder / "data.csv"]
    published = list(published_patients())
    assert default_label_files(folder, published) == [folder / "data.csv", MUTATION_FILE]
    status = read_labels([MUTATION_FILE], published)[0]
    assert len(status) == 110 and status["IDH"].value_counts().to_dict() == {"mutant": 83, "wildtype": 23}
    mutated = {"IDH": 83, "ATRX": 43, "TP53": 56, "CIC": 16, "FUBP1": 8}
    assert (status == "mutant").sum().to_dict() == mutated and mutated.keys() <= LABELS.keys()
