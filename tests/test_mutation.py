"""What `make mutate` changes in a statement."""

from tests.mutation import sql


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
