"""Many marks are single marks in an order that the prerequisites allow, whatever the order of the list (contract §3).

The catalogs here are larger and have more prerequisites than those of test_model.py, where calls of all kinds change
small ones.
"""

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import DEEP, MODES
from tests.proof.model import Catalog, Learner, Lesson, Module, Subscription
from tests.world import add_lesson, add_module, add_user, bearer, complete, completions, ok, require, uuid4

MANY, ONE_BY_ONE, ANOTHER_ORDER = LEARNERS = [uuid4(number) for number in (0xA, 0xB, 0xC)]
NUMBERS = range(0x20, 0x20 + 30)
AT = "2026-01-01T00:00:00.000Z"
PATH = "/api/progress/lessons"

numbers = st.sampled_from(NUMBERS)
# From a lesson to what it needs. In `downward` pairs there is no cycle; the numbers say nothing to the service.
downward = st.sets(st.tuples(numbers, numbers).filter(lambda pair: pair[0] > pair[1]), max_size=60)
any_pairs = st.sets(st.tuples(numbers, numbers).filter(lambda pair: pair[0] != pair[1]), max_size=40)
chain = {(number + 1, number) for number in NUMBERS[:-1]}


@settings(max_examples=500 if DEEP else 40, suppress_health_check=list(HealthCheck))
@example(mode=MODES[0], pairs=chain, unpublished=set(), done=set(), listed=[*NUMBERS][::-1], shuffled=[*NUMBERS])
@given(
    mode=st.sampled_from(MODES),
    pairs=downward | any_pairs | st.just(chain),
    unpublished=st.sets(numbers, max_size=3),
    done=st.sets(numbers, max_size=5),
    listed=st.permutations(NUMBERS).flatmap(lambda order: st.integers(1, len(order)).map(lambda size: order[:size])),
    shuffled=st.permutations(NUMBERS),
)
def test_many_marks_are_single_marks_in_an_allowed_order(
    apps, db, empty_tables, mode, pairs, unpublished, done, listed, shuffled
):
    empty_tables()
    add_module(db, 1)
    for number in NUMBERS:
        add_lesson(db, 1, number, published=number not in unpublished)
    for lesson, needed in pairs:
        require(db, lesson, needed)
    for user_id in LEARNERS:
        add_user(db, user_id)
        complete(db, *done, user_id=user_id)
    api = apps[mode].test_client(use_cookies=False)

    def many(user_id, lessons):
        entries = [{"lessonId": uuid4(number), "completedAt": AT} for number in lessons]
        return ok(api.post(PATH, headers=bearer(user_id), json={"lessons": entries}))

    answer = many(MANY, listed)
    # The list's own order does not matter.
    other = many(ANOTHER_ORDER, [number for number in shuffled if number in listed])
    assert sorted(other.pop("results"), key=str) == sorted(answer["results"], key=str)
    assert other == {name: part for name, part in answer.items() if name != "results"}
    # Single marks, of the service itself: again and again, until no more of them succeeds.
    left, before = [uuid4(number) for number in shuffled if number in listed], None
    while left != before:
        before = left
        answers = {
            one: api.post(f"{PATH}/{one}", headers=bearer(ONE_BY_ONE), json={"completedAt": AT}).get_json()
            for one in left
        }
        left = [one for one in left if "code" in answers[one]]
    for result in answer["results"]:
        single = answers.get(result["lessonId"], {}) if not result["completed"] else {}
        assert (result["lessonId"] in left) == (not result["completed"])
        assert [result.get(name) for name in ("code", "prerequisites")] == [
            single.get(name) for name in ("code", "prerequisites")
        ]
    stored = {user_id: [row[1:] for row in completions(db) if row[0] == user_id] for user_id in LEARNERS}
    assert stored[MANY] == stored[ONE_BY_ONE] == stored[ANOTHER_ORDER]
    # The model says the same.
    at = datetime(2026, 1, 1, tzinfo=UTC)
    catalog = Catalog(
        {uuid4(1): Module("", 1)},
        {uuid4(number): Lesson(uuid4(1), "", number, number not in unpublished, False) for number in NUMBERS},
        {(uuid4(lesson), uuid4(needed)) for lesson, needed in pairs},
    )
    subscription = Subscription("active", datetime.now(UTC) + timedelta(days=1))
    model = Learner(catalog, subscription, completed=dict.fromkeys(map(uuid4, done), at))
    assert model.mark_lessons(dict.fromkeys(map(uuid4, listed), at)) == answer
    # The counts are those of the next reads.
    assert ok(api.get("/api/progress/summary", headers=bearer(MANY))) == answer["overall"]
