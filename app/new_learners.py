"""NEW_LEARNERS: a person with a valid session who is not enrolled may become a learner, in the same call."""

import psycopg
from psycopg.rows import DictRow

from app.call import current_call
from app.database import statements
from app.database.statements import one
from app.service import current_service
from app.stripe.mirror import access_terms, attach_customer, lock_claimed_customers


def add_learner() -> bool:
    """Add what NEW_LEARNERS gives to the learner of this call. Return whether to ask the database once more.

    The caller has just found that the learner is not enrolled. Concurrent calls of one learner add each row once: the
    primary keys decide.
    """
    service = current_service()
    if service.settings.new_learners == "refuse":
        return False
    user_id = current_call().user_id
    found = one(service.pool.read("learners/missing", user_id=user_id))
    if found["enrolled"]:  # another call has added the learner meanwhile
        return True
    is_user = found["is_user"]
    enrolls = service.settings.new_learners == "add-free" and not found["was_enrolled"]
    if is_user and not enrolls:
        return False
    # Only the site writes its own users table. So the service does not add a person who is missing there.
    if not is_user and not one(service.pool.read("learners/rights"))["own_users"]:
        return False
    terms = access_terms(service.settings)

    def add(connection: psycopg.Connection[DictRow]) -> None:
        # Lock the customers before the row in users is added. An event from Stripe takes its locks in this order too.
        # With two orders there could be a deadlock.
        customers = lock_claimed_customers(connection, user_id)
        if not is_user:
            statements.run(connection, "learners/add", user_id=user_id)
        if enrolls:
            statements.run(connection, "learners/enroll", user_id=user_id)
        for customer_id in customers:
            attach_customer(connection, customer_id, terms)

    service.pool.transact("learners", add)
    return True
