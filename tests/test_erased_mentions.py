"""Erasing a learner whom the subscription of another learner once named: no id of the erased learner stays there."""

import pytest

from tests.test_cli import run
from tests.test_learner_data import OTHER, rows
from tests.test_stripe import SECRET, T0, deliver, event, subscription
from tests.world import LEARNER, add_user, get


@pytest.mark.parametrize("events_of_one_second", [False, True])
def test_what_another_learners_subscription_said_of_the_learner_is_cleared(
    make_api, db, database_url, events_of_one_second
):
    for user_id in (LEARNER, OTHER):
        add_user(db, user_id, access=None)
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET)
    for number, user_id in enumerate((OTHER, LEARNER) if events_of_one_second else (LEARNER, OTHER)):
        created = T0 if events_of_one_second else T0 + number
        previous = {"status": "incomplete"} if events_of_one_second else {"metadata": {"userId": LEARNER}}
        deliver(api, event("updated", subscription(metadata={"userId": user_id}), created, previous))
    [(owner,)] = db.execute("select user_id::text from stripe_subscriptions").fetchall()
    erased, kept = (OTHER, LEARNER) if owner == LEARNER else (LEARNER, OTHER)
    access = get(api, "access", kept)
    assert access["full"]
    code, out, _ = run(database_url, "erase-user", USER=erased, CONFIRM="yes")
    assert (code, "stripe_subscriptions: 1\n" in out) == (0, True)
    assert not [row for found in rows(db).values() for row in found if erased in row]
    assert get(api, "access", kept) == access
