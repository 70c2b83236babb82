// What a learner has completed, shared by all components of a page that use one API, and how changes are sent.
import { Waiting } from "./waiting.js";

// The API is below the same root as these files, unless an element or a page names another one.
const DEFAULT_API = new URL("..", import.meta.url).href;

// Everything that the learner may take, in one call. What was once completed comes along, and so do the courses: the
// outline alone has their ids, but not their titles.
const OUTLINE = "outline?include=completions,courses";

// The service answers within DATABASE_TIMEOUT. An answer that takes longer than this was lost.
const TIMEOUT_MS = 20_000;

// If the service cannot be reached, try again after these times: first the shorter one, then each time twice as long.
const FIRST_RETRY_MS = 5_000;
const LAST_RETRY_MS = 60_000;

// With these codes the changes wait: the service was not reached, or it takes no more changes now. The learner can do
// nothing about it.
const MUST_WAIT = ["offline", "unreachable", "rate_limited"];

// These codes mean that the service has a fault. The same write may succeed later.
const TEMPORARY = ["unavailable", "internal_error"];

// These codes mean that every write would fail, not only this one. The changes behind it are given up too.
const FAILS_EVERY_WRITE = ["cross_site_request", ...TEMPORARY];

// These codes mean that the learner may no longer see what the page shows.
const SESSION_ENDED = ["unauthenticated", "not_enrolled"];

const services = new Map();
const stores = new Map();

/**
 * Return the store of the API at a URL: of one course, or of everything. Everybody who asks for the same gets the same
 * store. The stores of one API share the session, the completions, and the changes still to be sent.
 */
export function storeOf(api = DEFAULT_API, courseId = null) {
  const base = new URL(api, document.baseURI).href.replace(/\/*$/, "/");
  const course = courseId?.toLowerCase() || null;
  const key = `${base} ${course}`;
  if (!services.has(base)) services.set(base, new Service(base));
  if (!stores.has(key)) stores.set(key, new Store(services.get(base), course));
  return stores.get(key);
}

class Store {
  #service;
  #courseId;

  constructor(service, courseId) {
    this.#service = service;
    this.#courseId = courseId;
  }

  /**
   * A signed token, or a function that returns a token or a promise of one. `null` means the cookie. A renewed token of
   * the same learner changes nothing on the page. The next answer shows whether it is the same learner.
   */
  set token(token) {
    this.#service.token = token;
  }

  /**
   * What to show: status, overall, courses, modules in catalog order with their lessons, lessons by id, next, access,
   * saving, waiting. It is the same object until something in it changes, as React's useSyncExternalStore needs it.
   */
  get view() {
    return this.#service.view(this.#courseId);
  }

  /**
   * Call `listener` after each change of `view`. Returns a function that stops the calls. Each subscription asks the
   * service again, because it may belong to a new page, after a sign-in or after a click on a button of the site's own.
   */
  subscribe = (listener) => this.#service.subscribe(listener, this.#courseId);

  /**
   * Mark a lesson as completed, or take the mark back. `view` shows the change at once. Resolves when the change is
   * decided. While the service cannot be reached, or takes no more changes, the change waits:
   * `{ answer, opened, together }`: it is stored. `answer` is the service's answer, `opened` the lessons that the change
   * unlocked, `together` the number of marks that the same call stored;
   * `{ answer }`: it was stored, but a later change of the same lesson followed;
   * `{}`: nothing had to be sent;
   * `{ code, seconds, prerequisites }`: it was not stored.
   */
  want = (lessonId, completed) => this.#service.want(lessonId, completed, this.#courseId);

  /**
   * Unmark every lesson of a module. `view` shows it when the service has answered. Resolves to `{ answer }`, or to
   * `{ code, seconds }` if nothing was changed. It never waits for the service to be reached.
   */
  startOver = (moduleId) => this.#service.startOver(moduleId, this.#courseId);

  /**
   * Whether the browser keeps the changes that wait, so that they survive a reload: lesson ids, times and the learner's
   * tag. `false` also removes what is there.
   */
  set keepOffline(keepOffline) {
    this.#service.keepOffline = keepOffline;
  }

  /**
   * Return the changes that were kept before the reload, and that nobody has taken yet: `{ lessonId, settled }`.
   * `settled` resolves as the promise of `want()` does.
   */
  takeRestored = () => this.#service.takeRestored();

  /** Ask the service what has changed. It answers 304 if nothing has. Resolves when the answer is in `view`. */
  refresh = () => this.#service.refresh(this.#courseId);

  /** Forget everything and ask again, because somebody else signed in. */
  reset = () => this.#service.reset();
}

// What the stores of one API share. A course is named by its id; null means everything that the learner may take.
class Service {
  #base;
  #token = null;
  // The token of the last read. `undefined` means: ask again, whatever the token is.
  #lastToken;
  // The course of each listener.
  #listeners = new Map();
  // The courses that somebody asked for without listening.
  #asked = new Set();
  // For each course the view, and the view as text.
  #views = new Map();
  // The code with which the session ended, and for each course the answer with which it could not be read.
  #ended = null;
  #failures = new Map();
  // The Learner-Tag of the answers that are shown. A page may stay open while people sign out and in, so the store can
  // outlive a session. No write is sent while the tag is null.
  #tag = null;
  // Grows when a learner is forgotten. The answer to an earlier learner's write is then ignored.
  #session = 0;
  // Grows with each read. If two reads overlap, the answers to the later one count.
  #loads = 0;

  // For each course its modules, and for null those of everything.
  #documents = new Map();
  // The last answer to each GET, with its ETag. A 304 means that this answer is right again.
  #cached = {};
  #completedAt = new Map();
  // All known prerequisites of each lesson. The outline names only those that are still to be completed.
  #prerequisites = new Map();
  #courseTitles = new Map();
  // When the learner last completed each module and each course, by id. The answer to a write names what it completed.
  // A course may have the id of a module.
  #completions = { modules: new Map(), courses: new Map() };
  // The lessons that this page has seen completed. If one is unmarked, it is not a new lesson.
  #seenCompleted = new Set();
  // Whether to ask for the completions beside a course: they are not known yet, or the progress has changed since. An
  // outline brings them along.
  #completionsAreDue = true;
  // What the learner may do. It is read only when no available lesson is left, because only then it is shown.
  #access = null;
  // The answer to the last write. Its numbers are shown until anything else changes.
  #answer = null;

  // What the learner wants each lesson to be. Only one write is sent at a time, so that none overtakes another one.
  #waiting;
  #sending = false;
  // The loop that sends the changes. It is over when nothing is left to send, or when the changes have to wait.
  #sent = Promise.resolve();
  // The number of writes that were sent.
  #writes = 0;
  // Why the changes wait, and until when at least. null while nothing keeps them from being sent.
  #held = null;
  #retryMs = FIRST_RETRY_MS;
  #retryTimer = null;
  // The lessons whose last write got no answer, so that nobody knows whether it was stored.
  #unsure = new Set();
  #restored = [];
  // Until when new changes are refused. It is used only if none wait.
  #paused = { code: null, until: 0 };
  #refreshing = null;
  #stale = false;
  #scheduled = false;

  constructor(base) {
    this.#base = base;
    this.#waiting = new Waiting(base);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#catchUp());
    // The page comes back from the browser's back/forward cache, or the network comes back.
    addEventListener("pageshow", (event) => event.persisted && this.#catchUp());
    addEventListener("online", () => {
      this.#retryMs = FIRST_RETRY_MS;
      this.#catchUp();
    });
  }

  set token(token) {
    if (token === this.#token) return;
    this.#token = token;
    this.#schedule();
  }

  view(courseId) {
    if (!this.#views.has(courseId)) this.#renew(courseId);
    return this.#views.get(courseId).view;
  }

  subscribe(listener, courseId) {
    // A function of its own, so that two subscriptions of one listener stop separately.
    const call = () => listener();
    this.#listeners.set(call, courseId);
    this.view(courseId);
    this.#lastToken = undefined;
    this.#schedule();
    return () => {
      this.#listeners.delete(call);
    };
  }

  reset() {
    this.#loads += 1;
    this.#refreshing = null;
    this.#forget();
    this.#lastToken = undefined;
    if (this.#listeners.size) this.#schedule();
  }

  refresh(courseId) {
    if (courseId !== undefined) this.#asked.add(courseId);
    // An answer that is still on its way may be older than the change that the caller wants to see.
    this.#refreshing = this.#load();
    return this.#refreshing;
  }

  want(lessonId, completed, courseId) {
    const id = lessonId.toLowerCase();
    const seconds = Math.ceil((this.#paused.until - performance.now()) / 1000);
    if (seconds > 0) return Promise.resolve({ code: this.#paused.code, seconds });
    if (!this.#tag) {
      // Nobody is known to be signed in. Or a proxy removed the header: then nobody could tell whose session the write
      // arrives in.
      const { status } = this.view(courseId);
      this.refresh(courseId);
      return Promise.resolve({ code: status === "ready" ? "internal_error" : status });
    }
    const earlier = this.#waiting.get(id);
    if (earlier?.completed === completed) return earlier.settled;
    const locked = [...this.view(courseId).lessons.values()].filter(({ state }) => state === "locked");
    this.#asked.add(courseId);
    // Without a network, do not try now: the numbers would rise for a moment, and then fall again.
    if (!navigator.onLine && !this.#held && !this.#sending) this.#hold([], { code: "offline" });
    const change = this.#waiting.add(id, completed, this.#tag, { held: this.#held !== null });
    // A change that was sent is settled by its own answer.
    if (!earlier?.sent) earlier?.settle({});
    // From here on, this page computes the numbers itself.
    this.#answer = null;
    this.#publish();
    change.opened = locked
      .map(({ lessonId }) => this.view(courseId).lessons.get(lessonId))
      .filter((lesson) => lesson?.state === "available");
    if (!this.#held) this.#send();
    else if (!this.#sending) this.#dropWhatIsDecided();
    return change.settled;
  }

  async startOver(moduleId, courseId) {
    const id = moduleId.toLowerCase();
    const seconds = Math.ceil((this.#paused.until - performance.now()) / 1000);
    if (seconds > 0) return { code: this.#paused.code, seconds };
    const session = this.#session;
    // The changes before it come first. If they wait for the service, this would wait too, perhaps for days.
    while (this.#sending) await this.#sent;
    if (this.#held) {
      const left = Math.ceil((this.#held.until - performance.now()) / 1000);
      return { code: this.#held.code, seconds: Math.max(left, 0) };
    }
    if (session !== this.#session) return { code: "other_learner" };
    if (!this.#tag) return { code: this.view(courseId).status };
    this.#asked.add(courseId);
    const started = this.#startOver(id);
    this.#sent = started;
    return started;
  }

  async #startOver(moduleId) {
    this.#sending = true;
    this.#writes += 1;
    this.#publish();
    const session = this.#session;
    const answer = await this.#call("DELETE", `modules/${encodeURIComponent(moduleId)}`, { "Learner-Tag": this.#tag });
    const { document, code, seconds } = answer;
    if (!this.#isStillOurs(session, answer)) return { code: code ?? "other_learner" };
    if (document) {
      for (const [lessonId, module] of this.#listed())
        if (module.moduleId === moduleId) this.#completedAt.set(lessonId, null);
      this.#compare({ modules: [document.module], courses: [document.course], overall: document.overall });
    } else if (code === "rate_limited") {
      // Starting over does not wait: it must not happen behind the learner's back. The changes after it wait.
      this.#hold([], answer);
    } else {
      this.#pause(code, seconds);
      // The answer may be lost after the module was started over.
      this.#stale = true;
    }
    this.#sending = false;
    this.#publish();
    if (this.#waiting.size && !this.#held) this.#send();
    else this.#refreshIfStale();
    return document ? { answer: document } : { code, seconds };
  }

  set keepOffline(keepOffline) {
    this.#waiting.isKeeping = keepOffline;
    this.#restore();
  }

  takeRestored() {
    return this.#restored.splice(0);
  }

  // Take in what was kept before the page was loaded, once an answer has named the learner.
  #restore() {
    if (!this.#tag) return;
    const restored = this.#waiting.restore(this.#tag);
    if (!restored.length) return;
    for (const [lessonId, change] of restored) {
      change.opened = [];
      this.#restored.push({ lessonId, settled: change.settled });
    }
    this.#answer = null;
    this.#publish();
    this.#send();
  }

  // Wait for the end of the current task, because the page's own script may be about to set a token.
  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setTimeout(async () => {
      this.#scheduled = false;
      // React makes a new function at each render. Ask the service only if the function returns another token.
      if (this.#lastToken === undefined || (await this.#currentToken().catch(() => null)) !== this.#lastToken)
        this.refresh();
    });
  }

  #catchUp() {
    if (this.#held && this.#waiting.size && performance.now() >= this.#held.until) this.#send(); // it also reads
    else if (this.#listeners.size && !this.#scheduled) this.refresh();
  }

  async #load() {
    const courses = [...new Set([...this.#listeners.values(), ...this.#asked])];
    if (!courses.length) return undefined;
    const load = (this.#loads += 1);
    this.#stale = false;
    const writes = this.#writes;
    const startedDuringWrite = this.#sending;
    const replies = new Map(); // by path
    const ask = async (paths) => {
      const answers = await Promise.all(paths.map((path) => this.#get(path)));
      paths.forEach((path, at) => replies.set(path, answers[at]));
    };
    const hasOutline = courses.includes(null);
    let isDue = this.#completionsAreDue;
    await ask([...courses.map(pathOf), ...(isDue && !hasOutline ? ["completions"] : [])]);
    if (load === this.#loads) {
      const read = courses.map((courseId) => replies.get(pathOf(courseId)).document).filter(Boolean);
      const isNew = (path) => replies.get(path).document && replies.get(path).document !== this.#cached[path]?.document;
      isDue ||= courses.some((courseId) => isNew(pathOf(courseId)));
      const more = isDue && !hasOutline && !replies.has("completions") ? ["completions"] : [];
      if (read.some((document) => isFinished(document.overall ?? document))) more.push("access");
      await ask(more);
    }
    if (load !== this.#loads) return this.#refreshing;
    const answers = [...replies.values()];
    for (const { tag } of answers) if (tag) this.#waiting.answered(tag);
    const ended = answers.find(({ code }) => SESSION_ENDED.includes(code));
    if (answers.some((answer) => this.#isOfAnotherLearner(answer))) {
      this.#forget({ code: "other_learner" });
    } else if (!ended && (startedDuringWrite || writes !== this.#writes)) {
      // A write was answered meanwhile. Nobody can tell which of the answers is newer, so read again.
      this.#stale = true;
      return this.#refreshIfStale();
    }
    // The session changed between the reads.
    if (new Set(answers.map(({ tag }) => tag).filter(Boolean)).size > 1) return this.refresh();
    this.#asked.clear();
    if (ended) {
      this.#end(ended);
      return undefined;
    }
    this.#ended = null;
    for (const [path, answer] of replies) if (answer.document) this.#cached[path] = answer;
    // An old version of the service answers with the outline alone. What is known besides it then stays as it is.
    const outline = replies.get(OUTLINE)?.document;
    for (const { courseId, title } of outline?.courses ?? []) this.#courseTitles.set(courseId, title);
    for (const courseId of courses) this.#adopt(courseId, replies.get(pathOf(courseId)));
    this.#access = replies.get("access")?.document ?? null;
    const completions = outline?.completions ?? replies.get("completions")?.document;
    // If the answer was lost, the next read asks for it again.
    this.#completionsAreDue = isDue && !completions;
    if (completions) {
      this.#forgetCompletions();
      this.#complete([...completions.modules, ...completions.courses]);
    }
    if (courses.some((courseId) => replies.get(pathOf(courseId)).document)) this.#unsure.clear();
    this.#publish();
    this.#restore();
    // The service can be reached again.
    if (this.#held && answers.some(({ code }) => !code) && performance.now() >= this.#held.until) this.#send();
    return this.#refreshIfStale();
  }

  // Whether an answer shows that the page shows another learner.
  #isOfAnotherLearner({ document, tag }) {
    return this.#documents.size > 0 && (document || tag) && tag !== this.#tag;
  }

  // Remove everything about a learner, also the changes that wait: the next page may be another learner's. `outcome` is
  // what the waiting changes resolve to.
  #forget(outcome = {}) {
    const changes = this.#waiting.entries();
    this.#session += 1;
    this.#waiting.clear();
    clearTimeout(this.#retryTimer);
    this.#held = null;
    this.#unsure.clear();
    this.#restored = [];
    this.#tag = this.#access = this.#answer = this.#ended = null;
    this.#documents.clear();
    this.#failures.clear();
    this.#courseTitles.clear();
    this.#cached = {};
    this.#completionsAreDue = true;
    this.#completedAt.clear();
    this.#forgetCompletions();
    this.#seenCompleted.clear();
    this.#prerequisites.clear();
    this.#paused.until = 0;
    this.#sending = this.#stale = false;
    this.#publish(); // the elements remove their notices
    // What is kept is not lost: it is sent after the next sign-in of the same learner.
    for (const [, change] of changes)
      change.settle(change.kept && SESSION_ENDED.includes(outcome.code) ? {} : outcome);
  }

  // The learner signed out or lost access.
  #end({ code }) {
    if (this.#documents.size) this.#forget({ code });
    this.#ended = code;
    this.#publish();
  }

  // Take in the answer for a course, or for everything.
  #adopt(courseId, answer) {
    const { document, code } = answer;
    if (!document) {
      // While the service is away, the page goes on showing what it knows. If only one read succeeds, its answer is shown.
      if (code === "course_not_found") this.#documents.delete(courseId);
      if (!this.#documents.has(courseId)) this.#failures.set(courseId, answer);
      return;
    }
    this.#tag = answer.tag;
    this.#answer = null;
    this.#failures.delete(courseId);
    this.#documents.set(courseId, document);
    if (courseId) this.#courseTitles.set(courseId, document.title);
    const lessons = document.modules.flatMap((module) => module.lessons);
    // What keeps a lesson locked is not completed. It may be in another course, which is not read now.
    for (const { prerequisites } of lessons) for (const id of prerequisites) this.#completedAt.set(id, null);
    for (const { lessonId, completedAt } of lessons) this.#setCompletedAt(lessonId, completedAt);
    for (const { lessonId, prerequisites } of lessons) {
      const completed = (this.#prerequisites.get(lessonId) ?? []).filter((id) => this.#completedAt.get(id));
      this.#prerequisites.set(lessonId, [...new Set([...completed, ...prerequisites])]);
    }
  }

  #setCompletedAt(lessonId, completedAt) {
    this.#completedAt.set(lessonId, completedAt);
    if (completedAt) this.#seenCompleted.add(lessonId);
  }

  // Remember completions. A later one comes later in the list, and replaces an earlier one of the same module or course.
  #complete(completions) {
    for (const { moduleId, courseId, completedAt } of completions)
      if (moduleId) this.#completions.modules.set(moduleId, completedAt);
      else this.#completions.courses.set(courseId, completedAt);
  }

  #forgetCompletions() {
    this.#completions.modules.clear();
    this.#completions.courses.clear();
  }

  #send() {
    if (!this.#sending) this.#sent = this.#sendAll();
    return this.#sent;
  }

  async #sendAll() {
    clearTimeout(this.#retryTimer);
    this.#sending = true;
    const session = this.#session;
    for (;;) {
      this.#dropWhatIsDecided();
      if (!this.#waiting.size) {
        this.#held = null;
        break;
      }
      const changes = this.#waiting.next(this.#listed());
      for (const [, change] of changes) change.sent = true;
      this.#writes += 1;
      const answer = await this.#write(changes);
      if (!this.#isStillOurs(session, answer)) {
        for (const [, change] of changes) change.settle({}); // if a later change replaced it, nobody else settles it
        return;
      }
      if (this.#mustWait(answer)) {
        this.#hold(changes, answer);
        break;
      }
      this.#held = null;
      this.#retryMs = FIRST_RETRY_MS;
      for (const [lessonId] of changes) this.#unsure.delete(lessonId);
      if (answer.document) this.#written(changes, answer.document);
      else this.#refused(changes, answer);
      this.#publish();
    }
    this.#sending = false;
    this.#publish();
    this.#refreshIfStale();
  }

  // Remove the changes that need no write: the learner has changed the lesson back, or another tab has sent the change.
  #dropWhatIsDecided() {
    const elsewhere = this.#waiting.decidedElsewhere();
    if (elsewhere.length) this.#stale = true;
    const decided = this.#waiting
      .entries()
      .filter(([lessonId, { completed }]) => {
        const isKnown = this.#completedAt.has(lessonId) && !this.#unsure.has(lessonId);
        return (isKnown && completed === Boolean(this.#completedAt.get(lessonId))) || elsewhere.includes(lessonId);
      });
    if (!decided.length) return;
    this.#waiting.remove(decided.map(([lessonId]) => lessonId));
    if (!this.#waiting.size) this.#held = null;
    for (const [, change] of decided) change.settle({});
    this.#publish();
  }

  // Send some marks by one call, or one change alone. The tag says whose change it is: the session may be another one when
  // the request arrives. A change that had to wait has the time of its click. Any other change is stored as of now, by the
  // clock of the service.
  async #write(changes) {
    const [[lessonId, { completed, tag }]] = changes;
    const headers = { "Learner-Tag": tag };
    const marks = changes.map(([id, { completed, held, hasWrongTime, at }]) => ({
      lessonId: id,
      completedAt: completed && held && !hasWrongTime ? at : undefined,
    }));
    const [{ completedAt }] = marks;
    const path = `lessons/${encodeURIComponent(lessonId)}`;
    const answer = await (changes.length > 1
      ? this.#call("POST", "lessons", headers, { lessons: marks })
      : this.#call(completed ? "POST" : "DELETE", path, headers, completedAt && { completedAt }));
    // A click in the future, because the clock of this device is wrong: store the mark without a time. The clock of the
    // service cannot be asked before: a page of another origin may not read the header Date.
    const { errors } = answer;
    const wrong = changes.filter((_, at) => marks[at].completedAt && (errors?.lessons?.[at] ?? errors)?.completedAt);
    for (const [, change] of wrong) change.hasWrongTime = true;
    if (wrong.length) return this.#write(changes);
    // While a new version is rolled out, a host of the old version may answer, which does not have this call. So the
    // changes wait for a host of the new version.
    const isOld = changes.length > 1 && answer.code === "method_not_allowed";
    return isOld ? { ...answer, code: "unreachable" } : answer;
  }

  // Whether the session is still the one that a write was sent in. If not, this forgets the learner, and asks again.
  #isStillOurs(session, answer) {
    if (session === this.#session) {
      if (answer.tag) this.#waiting.answered(answer.tag);
      const isOfAnother = answer.code === "other_learner" || this.#isOfAnotherLearner(answer);
      if (isOfAnother) this.#forget({ code: "other_learner" });
      else if (SESSION_ENDED.includes(answer.code)) this.#end(answer);
      if (session !== this.#session) this.refresh();
    }
    return session === this.#session;
  }

  // Whether the changes wait after this answer. If the service has a fault, a change that the learner has just made is taken
  // back: the learner is there and can try again. Changes that had to wait before are not lost.
  #mustWait({ code }) {
    if (MUST_WAIT.includes(code)) return true;
    return TEMPORARY.includes(code) && this.#waiting.entries().some(([, { held }]) => held);
  }

  #hold(changes, { code, seconds = 0, isSent }) {
    for (const [lessonId, change] of changes) {
      change.sent = false;
      if (isSent) this.#unsure.add(lessonId);
      if (this.#waiting.get(lessonId) !== change) change.settle({}); // a later change replaced it
    }
    this.#waiting.hold();
    // After too many writes, what is shown is still right.
    if (code !== "rate_limited") this.#stale = true;
    this.#held = { code, until: performance.now() + seconds * 1000 };
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#send(), seconds * 1000 || this.#retryMs);
    if (!seconds) this.#retryMs = Math.min(2 * this.#retryMs, LAST_RETRY_MS);
  }

  #refreshIfStale() {
    // While the changes wait, a read waits too: the next answer to a write makes this page read.
    return this.#stale && !this.#sending && !this.#held ? this.refresh() : undefined;
  }

  // Take in the answer to some marks, or to one change.
  #written(changes, document) {
    const { results = [document], overall } = document;
    const modules = document.modules ?? [document.module];
    const courses = document.courses ?? [document.course];
    const together = results.filter(({ completed }) => completed).length;
    const listed = this.#listed();
    const lastMarked = results.findLastIndex(({ completed, lessonId }) => completed && listed.has(lessonId));
    this.#complete(document.completions ?? []);
    changes.forEach(([lessonId, change], at) => {
      const { completed, completedAt = null, code, prerequisites } = results[at];
      if (code) {
        this.#refused([[lessonId, change]], { code, prerequisites });
        return;
      }
      let answer = document;
      if (document.results) {
        // What the answer to this mark alone would be.
        const module = modules.find(({ moduleId }) => moduleId === listed.get(lessonId)?.moduleId);
        const course = courses.find(({ courseId }) => courseId === listed.get(lessonId)?.courseId);
        // What the call completed is told once.
        const { completions } = at === lastMarked ? document : {};
        answer = module && {
          lessonId,
          completed,
          completedAt,
          module,
          ...(course && { course }),
          overall,
          ...(completions && { completions }),
        };
      }
      this.#stored(lessonId, change, completedAt, { answer, together });
    });
    this.#compare({ modules, courses, overall });
  }

  #stored(lessonId, change, completedAt, { answer, together }) {
    this.#setCompletedAt(lessonId, completedAt);
    if (this.#waiting.get(lessonId) === change) {
      this.#waiting.remove([lessonId]);
      change.settle({ answer, opened: change.opened, together });
    } else {
      change.settle({ answer });
    }
  }

  // Show the numbers of an answer to a write, and find out whether the page has to read again.
  #compare(answer) {
    if (this.#waiting.size) return;
    for (const courseId of new Set(this.#listeners.values())) {
      if (!this.#documents.has(courseId)) continue;
      const { modules, overall, courses } = this.#derive(courseId);
      const isSame = (counts) =>
        counts.moduleId
          ? same(modules.find(({ moduleId }) => moduleId === counts.moduleId), counts)
          : same(courses.find(({ courseId }) => courseId === counts.courseId), counts);
      // If the totals differ, something was locked, unlocked or changed elsewhere, and has to be read again. A view
      // without the lesson cannot tell.
      if (![...answer.modules, ...answer.courses].every((counts) => !counts || isSame(counts))) this.#stale = true;
      if (!courseId && !same(overall, answer.overall)) this.#stale = true;
      // Nothing is left to do: read what the learner may do.
      if (isFinished(overall) && !this.#access) this.#stale = true;
    }
    this.#answer = answer;
  }

  #refused(changes, { code, seconds, prerequisites }) {
    const outcome = { code, seconds, prerequisites };
    for (const [lessonId, change] of changes)
      if (this.#waiting.get(lessonId) !== change) change.settle({}); // a later change replaced it
    const refused = changes.map(([lessonId]) => lessonId);
    const givenUp = this.#waiting
      .entries()
      .filter(([lessonId]) => FAILS_EVERY_WRITE.includes(code) || refused.includes(lessonId));
    this.#waiting.remove(givenUp.map(([lessonId]) => lessonId));
    // A lesson that was changed back meanwhile is as the learner wants it.
    for (const [lessonId, change] of givenUp)
      change.settle(change.completed === Boolean(this.#completedAt.get(lessonId)) ? {} : outcome);
    this.#pause(code, seconds);
    // The service knows something that this page does not.
    this.#stale = true;
  }

  #pause(code, seconds) {
    if (seconds) this.#paused = { code, until: performance.now() + seconds * 1000 };
  }

  // Return the module of each lesson of all that was read: { moduleId, courseId } by lesson.
  #listed() {
    const listed = new Map();
    for (const [ofCourse, { modules }] of this.#documents)
      for (const { moduleId, courseId = ofCourse, lessons } of modules)
        for (const { lessonId } of lessons) listed.set(lessonId, { moduleId, courseId });
    return listed;
  }

  // Make the view of a course, or of everything, from what the service said and from the changes that wait.
  #derive(ofCourse) {
    const isStored = (id) => Boolean(this.#completedAt.get(id));
    const isCompleted = (id) => this.#waiting.get(id)?.completed ?? isStored(id);
    // A change that is on its way counts already. While changes wait for the service, which may take days, the numbers
    // are those of what is stored.
    const isCounted = this.#held ? isStored : isCompleted;
    const openPrerequisites = (id, isDone) =>
      isDone(id) ? [] : this.#prerequisites.get(id).filter((prerequisite) => !isDone(prerequisite));
    const stateOf = (id, isDone) =>
      isDone(id) ? "completed" : openPrerequisites(id, isDone).length ? "locked" : "available";
    const countedStates = new Map(); // by lesson
    const count = (lessons) => countStates(lessons.map(({ lessonId }) => countedStates.get(lessonId)));
    // When the learner last completed a module or course with these lessons, and how many lessons are new since then. The
    // service does not say which lessons are new. What the learner unmarked is not, and nothing is after starting over: then
    // no lesson has a time from before the completion.
    const completion = (kind, id, lessons) => {
      const completedAt = this.#completions[kind].get(id) ?? null;
      const isKept = lessons.some((lesson) => lesson.completedAt && lesson.completedAt <= completedAt);
      const isNew = (lesson) => !lesson.completedAt && !this.#seenCompleted.has(lesson.lessonId);
      return { completedAt, newCount: completedAt && isKept ? lessons.filter(isNew).length : 0 };
    };
    const lessons = new Map();
    const courses = new Map();
    const lessonsOf = new Map(); // by course
    const modules = (this.#documents.get(ofCourse)?.modules ?? []).map((module) => {
      const courseId = ofCourse ?? module.courseId;
      const title = this.#courseTitles.get(courseId);
      if (title !== undefined && !courses.has(courseId)) {
        courses.set(courseId, { courseId, title });
        lessonsOf.set(courseId, []);
      }
      const course = courses.get(courseId) ?? null;
      const derived = { moduleId: module.moduleId, title: module.title, course, lessons: [] };
      for (const { lessonId, title } of module.lessons) {
        const change = this.#waiting.get(lessonId);
        const lesson = {
          lessonId,
          title,
          state: stateOf(lessonId, isCompleted),
          completedAt: isCounted(lessonId) ? (this.#completedAt.get(lessonId) ?? change.at) : null,
          waiting: change !== undefined,
          prerequisites: openPrerequisites(lessonId, isCompleted),
          module: derived,
        };
        countedStates.set(lessonId, this.#held ? stateOf(lessonId, isCounted) : lesson.state);
        derived.lessons.push(lesson);
        lessonsOf.get(courseId)?.push(lesson);
        lessons.set(lessonId, lesson);
      }
      return Object.assign(derived, count(derived.lessons), completion("modules", module.moduleId, derived.lessons));
    });
    for (const [courseId, course] of courses)
      Object.assign(course, count(lessonsOf.get(courseId)), completion("courses", courseId, lessonsOf.get(courseId)));
    const overall = count([...lessons.values()]);
    if (this.#answer) {
      for (const answered of this.#answer.modules)
        Object.assign(modules.find(({ moduleId }) => moduleId === answered.moduleId) ?? {}, answered);
      for (const answered of this.#answer.courses) Object.assign(courses.get(answered?.courseId) ?? {}, answered);
      if (!ofCourse) Object.assign(overall, this.#answer.overall);
    }
    // Everything in the view of a course is that course.
    if (courses.has(ofCourse)) Object.assign(overall, countsOf(courses.get(ofCourse)));
    const timeOf = ({ lessonId }) =>
      isCompleted(lessonId) ? (this.#completedAt.get(lessonId) ?? this.#waiting.get(lessonId).at) : null;
    const next = following([...lessons.values()], timeOf);
    const failure = this.#failures.get(ofCourse);
    return {
      status: this.#ended ?? failure?.code ?? (this.#documents.has(ofCourse) ? "ready" : "loading"),
      seconds: failure?.seconds ?? 0,
      overall,
      courses: [...courses.values()],
      modules,
      lessons,
      next,
      access: this.#access,
      saving: this.#sending || this.#waiting.size > 0,
      waiting: this.#held && this.#waiting.size ? { count: this.#waiting.size, code: this.#held.code } : null,
    };
  }

  // Make the view anew. Returns whether it is another one.
  #renew(courseId) {
    const view = this.#derive(courseId);
    // A listener that subscribes at each render would otherwise never come to an end: each subscription reads, each
    // read would make a new view, and each new view a render. (A lesson's module holds the lesson.)
    const text = JSON.stringify(view, (key, value) => (key === "module" ? undefined : value));
    if (text === this.#views.get(courseId)?.text) return false;
    this.#views.set(courseId, { view, text });
    return true;
  }

  #publish() {
    // All views first, because a listener may look at any of them.
    const changed = [...this.#views.keys()].filter((courseId) => this.#renew(courseId));
    // A copy, because a listener may subscribe again: a loop over the set itself would never end.
    for (const [listener, courseId] of [...this.#listeners]) {
      if (!changed.includes(courseId) || !this.#listeners.has(listener)) continue; // another listener has stopped it
      try {
        listener();
      } catch (error) {
        reportError(error); // a failing listener must not stop the others, nor the writes
      }
    }
  }

  // A 304 may be for another learner with the same progress. The cached document is then that learner's too.
  async #get(name) {
    const cached = this.#cached[name];
    const answer = await this.#call("GET", name, cached ? { "If-None-Match": cached.etag } : {});
    return answer.document || answer.code ? answer : { ...cached, tag: answer.tag };
  }

  async #currentToken() {
    return (typeof this.#token === "function" ? await this.#token() : this.#token) ?? null;
  }

  // Return { document, tag, etag }, or { code, seconds, prerequisites, errors, tag }, or { tag } for a 304. `isSent`: nobody knows
  // what became of the request.
  async #call(method, path, headers, body) {
    const isSent = navigator.onLine;
    try {
      const token = await this.#currentToken();
      if (method === "GET") this.#lastToken = token;
      const response = await fetch(`${this.#base}api/progress/${path}`, {
        method,
        headers: {
          ...headers,
          ...(token && { Authorization: `Bearer ${token}` }),
          ...(body && { "Content-Type": "application/json" }),
        },
        body: body && JSON.stringify(body),
        credentials: token ? "omit" : "include",
        cache: "no-store", // this code keeps the ETags itself; the browser's cache would show each 304 as a 200
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      const tag = response.headers.get("Learner-Tag");
      if (response.status === 304) return { tag };
      const document = await response.json();
      if (response.ok) return { document, tag, etag: response.headers.get("ETag") };
      return {
        tag,
        code: document.code ?? "internal_error",
        seconds: Number(response.headers.get("Retry-After")) || (document.code === "unavailable" ? 2 : 0),
        prerequisites: document.prerequisites,
        errors: document.errors,
        isSent: response.status >= 500,
      };
    } catch {
      return { code: navigator.onLine ? "unreachable" : "offline", isSent };
    }
  }
}

function pathOf(courseId) {
  return courseId ? `courses/${encodeURIComponent(courseId)}` : OUTLINE;
}

// The counts of lessons in these states as the service makes them (contract §2): a locked lesson does not count.
function countStates(states) {
  const of = (state) => states.filter((each) => each === state).length;
  return { ...counts(of("completed"), states.length - of("locked")), lockedCount: of("locked") };
}

/** Return percent, completedCount and totalCount. The percent is rounded down, as the service does it (contract §2). */
export function counts(completedCount, totalCount) {
  return { percent: totalCount ? Math.floor((100 * completedCount) / totalCount) : 0, completedCount, totalCount };
}

/** Return whether no lesson is available: each one is completed or locked. */
export function isFinished({ completedCount, totalCount }) {
  return completedCount === totalCount;
}

function countsOf({ percent, completedCount, totalCount }) {
  return { percent, completedCount, totalCount };
}

function same(ours, theirs) {
  return ours?.completedCount === theirs?.completedCount && ours?.totalCount === theirs?.totalCount;
}

// Return the lesson that GET /api/progress/next would name: the first available lesson after the most recently completed
// one. If there is none after it, return the first available lesson of all. `timeOf` says when a lesson was completed.
function following(lessons, timeOf) {
  let latest = -1;
  lessons.forEach((lesson, at) => {
    if (timeOf(lesson) && (latest < 0 || timeOf(lesson) >= timeOf(lessons[latest]))) latest = at;
  });
  const isAvailable = ({ state }) => state === "available";
  return lessons.slice(latest + 1).find(isAvailable) ?? lessons.find(isAvailable) ?? null;
}
