// The demo: who is signed in, which course is shown, which lesson's page is open, and what goes over the wire.
import { storeOf } from "/progress-ui/progress-ui.js";

const MAX_SHOWN = 50; // calls and events, in the drawer
const EVENTS_MS = 1000; // how often to ask for events

const list = document.querySelector("#call-list");
const { fetch } = window;

// Replace fetch before the components are on the page, so that the drawer shows every call of theirs. A site does not need
// this.
window.fetch = async (resource, options) => {
  const { pathname } = new URL(resource, location.href);
  const started = performance.now();
  try {
    const response = await fetch(resource, options);
    if (pathname.startsWith("/api/")) {
      const ms = performance.now() - started;
      const body = await response.clone().text();
      show(options?.method ?? "GET", pathname, response.status, ms, body);
    }
    return response;
  } catch (error) {
    show(options?.method ?? "GET", pathname, "–", performance.now() - started, String(error));
    throw error;
  }
};

// How many events the page knows. null until the first answer.
let knownEvents = null;

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function show(method, path, status, ms, body) {
  const item = element("li", status < 400 ? "" : "failed");
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const took = `${Math.round(ms)} ms`;
  summary.append(
    element("span", "method", method),
    element("span", "path", path),
    element("span", "status", status),
    element("span", "ms", took),
  );
  const text = element("pre", "", body ? pretty(body) : "(no body: nothing changed since its ETag)");
  text.tabIndex = 0; // it may scroll
  details.append(summary, text);
  item.append(details);
  list.prepend(item);
  while (list.children.length > MAX_SHOWN) list.lastElementChild.remove();
  document.querySelector("#last-call").textContent =
    `${method} ${path.replace("/api/progress", "…")} ${status} ${took}`;
  return item;
}

// Show the events that have reached the demo's receiver since the page was opened. The page of a site gets no events: they
// go to the site's own systems.
async function showEvents() {
  try {
    const query = knownEvents === null ? "" : `?after=${knownEvents}`;
    const { count, events } = await (await fetch(`/demo/events${query}`)).json();
    knownEvents = count;
    for (const { webhookId, receivedAt, event } of events) {
      const ms = Date.parse(receivedAt) - Date.parse(event.timestamp);
      show("EVENT", event.type, 204, ms, JSON.stringify({ "webhook-id": webhookId, ...event })).className = "event";
    }
  } catch {
    // The demo was stopped. It may come back.
  }
  setTimeout(showEvents, EVENTS_MS);
}

function pretty(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    return body;
  }
}

async function session(learner) {
  const signIn = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ learner }) };
  const response = await fetch("/demo/session", learner ? signIn : {});
  return response.json();
}

// The drawer begins open if there is room for it beside the dashboard.
document.querySelector("#calls").open = matchMedia("(width >= 72rem)").matches;

const course = document.createElement("course-progress");
const lesson = document.createElement("lesson-progress");
course.setAttribute("lesson-href", "#{lessonId}");
const hint = element("p", "hint", "Sell them access, as Stripe would say it, and come back: ");
hint.append(element("code", "", "make stripe-event FILE=app/demo/stripe/active.json"));
hint.slot = "no-access";
hint.hidden = true;
course.append(hint);

// Whom the cookie has signed in. The first visit signs a learner in.
const signedIn = session().then(({ learner }) => learner ?? session("full").then(() => "full"));
// The components show their outlines at once. They ask when the sign-in is done, and then with the cookie.
course.token = () => signedIn.then(() => null);

// What the components show. The page asks their store, so it needs no calls of its own.
let store;
let stop = () => {};
// The lesson whose header is shown if the address names none.
let lessonToContinueWith = null;

function choose(courseId) {
  lessonToContinueWith = null;
  stop();
  store = storeOf(undefined, courseId || null);
  stop = store.subscribe(open);
  for (const element of [course, lesson]) {
    if (courseId) element.setAttribute("course-id", courseId);
    else element.removeAttribute("course-id");
  }
}
choose(document.querySelector("#courses :checked").value);

document.querySelector("#courses").addEventListener("change", ({ target }) => {
  location.hash = ""; // the lesson may be in another course
  choose(target.value);
});
function showLearner(learner) {
  document.querySelector(`#learners [value="${learner}"]`).checked = true;
  hint.hidden = learner !== "none"; // the event is about this learner
}
document.querySelector("#learners").addEventListener("change", async ({ target }) => {
  await session(target.value);
  showLearner(target.value);
  course.reset(); // this also resets the lesson's header, because both elements use one store
});
signedIn.then(showLearner);

// The demo has no page for each lesson, so this shows a lesson's header on the one page. The id of the lesson is in the
// address. Without one, the lesson to continue with is shown. It stays when it is ticked, as the page of a lesson does.
function open() {
  const { lessons, next } = store.view;
  if (!lessons.has(lessonToContinueWith)) lessonToContinueWith = next?.lessonId ?? null;
  const lessonId = location.hash.slice(1) || lessonToContinueWith;
  lesson.setAttribute("lesson-id", lessonId ?? "");
  document.querySelector("#lesson-name").textContent = lessons.get(lessonId)?.title ?? "–";
}
addEventListener("hashchange", open);

document.querySelector("#dashboard").append(course);
document.querySelector("#lesson").append(lesson);
signedIn.then(showEvents);
