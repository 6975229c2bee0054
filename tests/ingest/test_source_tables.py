from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genostore.errors import SourceError
from ingest.sources.tables import read_gene_values, read_table

Write = Callable[[str, str | bytes], Path]

GENES = pd.DataFrame(
    {
        "id": ["ENSG00000000001", "ENSG00000000002", "ENSG00000000003", "YDL248W"],
        "name": ["AAA", "TWIN", "TWIN", "COS7"],
    }
)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t"), ("a.txt.gz", "\t"), ("a.txt", ";")])
def test_values_by_id_version_and_symbol(write: Write, name: str, mark: str) -> None:
    lines = ["gene,x,y", "COS7,1.5,2", "ENSG00000000002.4,-1e3,NA", "", "NOPE,7,8", "ENSG00000000001,,inf", "TWIN,0,0"]
    path = write(name, "\n".join(lines).replace(",", mark) + "\n")
    found = read_gene_values(path, "gene", {"first": "x", "second": "y"}, GENES)
    assert list(found.values.columns) == ["first", "second"]
    nan = np.nan
    assert np.array_equal(found.values["first"], [nan, -1000, nan, 1.5], equal_nan=True)
    assert np.array_equal(found.values["second"], [np.inf, nan, nan, 2], equal_nan=True)
    assert found.unknown == ["NOPE"]
    assert found.ambiguous == ["TWIN"]
    assert found.missing == 1


def test_labels_of_a_split(write: Write) -> None:
    path = write("folds.csv", '"gene","fold_1","fold_2"\n"AAA","train",test\nCOS7,NA,"valid"\n')
    found = read_gene_values(path, "gene", ["fold_1", "fold_2"], GENES, numeric=False)
    assert found.values["fold_1"].tolist() == ["train", None, None, None]
    assert found.values["fold_2"].tolist() == ["test", None, None, "valid"]


def test_file_without_header(write: Write) -> None:
    found = read_gene_values(write("tpm.txt", "AAA\t0.5\nCOS7\t3\n"), 0, {"tpm": 1}, GENES)
    assert np.array_equal(found.values["tpm"], [0.5, np.nan, np.nan, 3], equal_nan=True)


def test_comment_before_the_header_hash_byte_order_mark_and_spaces(write: Write) -> None:
    table = read_table(write("a.bed", "\ufeff##meta\n##more\n#chr\tid\nchr1\tx\n"), {"contig": "chr", "id": "id"})
    assert table.frame.to_numpy().tolist() == [["chr1", "x"]]
    assert table.line(0) == 4
    table = read_table(write("a.dat", "id   value\nx    1\n\ny 2\n"), {"id": "id", "value": "value"})
    assert table.numbers("value").tolist() == [1, 2]
    assert table.line(1) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gene,x\nAAA,1\nCOS7,high\n", r"line 3, column 'x': 'high' is no number; a missing value is an empty cell"),
        ("gene,x\nAAA,a\nCOS7,b\n", r"line 2, column 'x': 'a' is no number \(2 cells of the column are not\)"),
        ("gene,y\nAAA,1\n", r"no column 'x'; there are 'gene', 'y'"),
        ("name,x\nAAA,1\n", r"no column 'gene'"),
        ("gene,x,x\nAAA,1,2\n", r"two columns 'x'"),
        ("gene,x\nAAA,1\nCOS7\n", r"line 3 has 1 columns, where the header has 2"),
        ("gene,x\n1,AAA,1\n", r"line 2 has 3 columns, where the header has 2; if the first column has no name"),
        ("gene,x\n", r"is a table without rows"),
        ("gene,x\nAAA,1\nENSG00000000001.3,2\n",
         r"1 gene has more than one row: ENSG00000000001 \(AAA or ENSG00000000001.3\) in lines 2, 3; keep one row"),
        ("", r"is not a table: it is empty"),
        (b"gene,x\nAAA\xff\xfe,1\n", r"is not a table|is not UTF-8"),
        ("<!doctype html>", r"is not a table: it is a web page"),
    ],
)  # fmt: skip
def test_refusals(write: Write, content: str | bytes, message: str) -> None:
    path = write("bad.csv", content)
    with pytest.raises(SourceError, match=message) as caught:
        read_gene_values(path, "gene", ["x"], GENES)
    assert str(path) in str(caught.value)


def test_absent_position(write: Write) -> None:
    with pytest.raises(SourceError, match=r"has no column 5; it has 2, counted from 0"):
        read_gene_values(write("a.txt", "AAA\t1\n"), 0, {"x": 5}, GENES)


@pytest.mark.real
def test_real_expression(data: Path) -> None:
    path = data / "yeast" / "derived" / "yeast_gene_expression_II_IV_XVI.tsv"
    reference = pd.read_csv(path, sep="\t")
    genes = pd.DataFrame({"id": ["not", *reference["gene_id"]], "name": ["not", *reference["gene_id"]]})
    found = read_gene_values(path, "gene_id", {"rna": "mean_RNA_sense"}, genes)
    assert np.isnan(found.values["rna"][0])
    assert np.allclose(found.values["rna"][1:], reference["mean_RNA_sense"], rtol=1e-15, atol=0)
    assert (found.unknown, found.ambiguous, found.missing) == ([], [], 1)
    twice = data / "k562_chr22_hg19" / "K562.ENCFF934YBO.TPM.txt"
    genes = pd.DataFrame({"id": ["ENSG1", "ENSG2"], "name": ["TSPAN6", "Y_RNA"]})
    with pytest.raises(SourceError, match=r"1 gene has more than one row: ENSG2 \(Y_RNA\) in lines 17267, .* more"):
        read_gene_values(twice, 0, {"tpm": 1}, genes)
