"""Erasing a learner whom the subscription of another learner once named: no id of the erased learner stays there."""

import json
from uuid import UUID

import pytest

from app.user_ids import learner_id
from tests.test_cli import run
from tests.test_learner_data import OTHER, rows
from tests.test_stripe import SECRET, T0, deliver, event, subscription
from tests.world import LEARNER, add_user, get, uuid4


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
    assert erased not in json.dumps(get(api, "export", kept))
    access = get(api, "access", kept)
    assert access["full"]
    code, out, _ = run(database_url, "erase-user", USER=erased, CONFIRM="yes")
    assert (code, "stripe_subscriptions: 1\n" in out) == (0, True)
    assert not [row for found in rows(db).values() for row in found if erased in row]
    assert get(api, "access", kept) == access


def test_a_learner_with_an_id_of_the_sites_is_found_by_that_id_too(make_api, db, database_url):
    namespace = {"AUTH_USER_ID_NAMESPACE": uuid4(0xABC)}
    site_ids = ["clé-1", "cus2"]
    user_ids = [str(learner_id(site_id, UUID(uuid4(0xABC)))) for site_id in site_ids]
    for user_id in user_ids:
        add_user(db, user_id, access=None)
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET, **namespace)
    deliver(api, event("updated", subscription(metadata={"userId": site_ids[0]}), T0))
    moved = subscription(metadata={"userId": site_ids[1]})
    deliver(api, event("updated", moved, T0 + 1, {"metadata": {"userId": site_ids[0]}, "cancel_at": None}))
    code, out, _ = run(database_url, "export-user", USER=user_ids[1])
    assert code == 0
    assert json.loads(out)["stripe"]["subscriptions"][0]["previousAttributes"] == {"cancel_at": None}
    code, out, _ = run(database_url, "erase-user", USER=site_ids[0], CONFIRM="yes", **namespace)
    assert (code, "stripe_subscriptions: 1\n" in out) == (0, True)
    [(previous, owner)] = db.execute("select previous_attributes, user_id::text from stripe_subscriptions").fetchall()
    assert (previous, owner) == ({}, user_ids[1])


def test_a_customer_of_two_learners_is_not_to_be_deleted_at_stripe(make_api, db, database_url):
    for user_id in (LEARNER, OTHER):
        add_user(db, user_id, access=None)
    api = make_api(STRIPE_WEBHOOK_SECRET=SECRET)
    for user_id in (LEARNER, OTHER):
        state = subscription(metadata={"userId": user_id})
        deliver(api, event("updated", state | {"id": f"sub_{user_id}"}, T0))
    code, out, _ = run(database_url, "erase-user", USER=LEARNER, CONFIRM="yes")
    [line] = [line for line in out.splitlines() if line.startswith("the customer")]
    assert (code, "is another learner's too: do not delete it" in line) == (0, True)
    assert get(api, "access", OTHER)["full"]
    code, out, _ = run(database_url, "erase-user", USER=OTHER, CONFIRM="yes")
    [line] = [line for line in out.splitlines() if line.startswith("Stripe's next event")]
    assert (code, "see to this customer at Stripe first" in line) == (0, True)
