"""The SQL is held by its tests: a sample of the mutants of `make mutate`, the same ones each time, is noticed."""

import os
import re
import subprocess
import sys
import tomllib

from tests.conftest import ROOT
from tests.mutation import sql
from tests.mutation.__main__ import SURVIVORS


def test_a_change_in_one_place_of_a_statement_is_noticed():
    environ = os.environ | {"MUTATION_SAMPLE": "8"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation"], cwd=ROOT, env=environ, capture_output=True, text=True
    )
    total = re.search(r"^all +(\d+) +(\d+) +0 +0$", done.stdout, re.M)
    assert done.returncode == 0, done.stdout + done.stderr
    assert total, done.stdout
    # Some changes do not prepare.
    assert int(total[1]) == int(total[2]) >= 6


def test_what_is_changed_in_a_statement():
    text = (
        "select a, coalesce(b, 0) as b -- and nothing else\n"
        "from t\ninner join u on t.id = u.id\n"
        "where t.x > 1 and not t.y\norder by a, b desc;\n"
    )
    assert [mutant.change for mutant in sql.mutants("example", text)] == [
        *("coalesce(…) -> 0", "coalesce(…) -> b", "0 -> 1", "inner -> left", "= -> !="),
        *("without where", "where without t.x > 1", "where without not t.y", "> -> <", "> -> >=", "1 -> 2"),
        *("and -> or", "without not", "without order by", "order by without b desc", "order by without a"),
        *("a desc", "desc -> asc"),
    ]
    assert all(mutant.text != text for mutant in sql.mutants("example", text))


def test_every_survivor_that_is_explained_is_a_mutant_and_has_a_reason():
    for entry in tomllib.loads(SURVIVORS.read_text())["survivor"]:
        assert entry["why"]
        for file in entry["files"]:
            if file.startswith("sql/"):
                ids = {mutant.id() for mutant in sql.mutants(file, (ROOT / file).read_text())}
                assert set(entry["mutants"]) <= ids, file
