"""The components work out from the outline what to continue with. It must be what the service says: contract §3."""

from tests.proof.test_model import HEADERS
from tests.proof.test_worlds import build, draw

# Fixtures are found by their names.
from tests.system.test_face import service, site, start, visit  # noqa: F401

WORLDS = 16
# For one learner: what the store of everything and of each course continues with, and what the service says.
COMPARE = """async ([service, authorization, courses]) => {
    const { storeOf } = await import(`${service}/progress-ui/progress-ui.js`);
    const says = async (path) => {
        const answer = await fetch(`${service}/api/progress/${path}`, { headers: { Authorization: authorization } });
        return answer.ok ? answer.json() : {};
    };
    storeOf().token = authorization.replace("Bearer ", "");
    storeOf().reset();
    const found = [];
    for (const courseId of [null, ...courses]) {
        const store = storeOf(undefined, courseId);
        await store.refresh();
        const says_next = courseId ? (await says(`courses/${courseId}`)).next : await says("next");
        const { next } = store.view;
        found.push([
            { lessonId: next?.lessonId ?? null, moduleId: next?.module.moduleId ?? null },
            { lessonId: says_next?.lessonId ?? null, moduleId: says_next?.moduleId ?? null },
        ]);
    }
    return found;
}"""


def test_what_to_continue_with_is_what_the_service_says_in_worlds_drawn_at_random(visit, db, empty_tables):  # noqa: F811
    shown = visit(body="", session={}, wait=False)
    named = 0
    for seed in range(WORLDS):
        empty_tables()
        catalog, learners = draw(seed)
        build(db, catalog, learners)
        for learner in learners:
            authorization = HEADERS[learner]["Authorization"]
            found = shown.page.evaluate(COMPARE, [shown.service, authorization, list(catalog.courses)])
            for ours, theirs in found:
                assert ours == theirs, (seed, learner)
                named += ours["lessonId"] is not None
    assert named > WORLDS  # the worlds are worth the look
