// What a learner has completed, shared by all components of a page that use one API, and the changes still to be sent.

// The API is below the same root as these files, unless an element or a page names another one.
const DEFAULT_API = new URL("..", import.meta.url).href;

// The service answers within DATABASE_TIMEOUT. An answer that takes longer than this was lost.
const TIMEOUT_MS = 20_000;

// These codes mean that every write would fail, not only this one. The changes that wait are given up too.
const FAILS_EVERY_WRITE = [
  "cross_site_request",
  "rate_limited",
  "unavailable",
  "internal_error",
  "offline",
  "unreachable",
];

// These codes mean that the learner may no longer see what the page shows.
const SESSION_ENDED = ["unauthenticated", "not_enrolled"];

const stores = new Map();

/** Return the store of the API at a URL. Everybody who asks for one API gets the same store. */
export function storeOf(api = DEFAULT_API) {
  const base = new URL(api, document.baseURI).href.replace(/\/*$/, "/");
  if (!stores.has(base)) stores.set(base, new Store(base));
  return stores.get(base);
}

class Store {
  #base;
  #token = null;
  // The token of the last read. `undefined` means: ask again, whatever the token is.
  #lastToken;
  #listeners = new Set();
  #status = "loading";
  #seconds = 0;
  #view;
  #viewText;
  // The Learner-Tag of the answers that are shown. A page may stay open while people sign out and in, so the store can
  // outlive a session. No write is sent while the tag is null.
  #tag = null;
  // Grows when a learner is forgotten. The answer to an earlier learner's write is then ignored.
  #session = 0;
  // Grows with each read. If two reads overlap, the answers to the later one count.
  #loads = 0;

  #outline = null;
  // The last answer to each GET, with its ETag. A 304 means that this answer is right again.
  #cached = {};
  #completedAt = new Map();
  // All known prerequisites of each lesson. The outline names only those that are still to be completed.
  #prerequisites = new Map();
  #next = null;
  // What the learner may do. It is read only when no available lesson is left, because only then it is shown.
  #access = null;
  // The answer to the last write. Its numbers are shown until anything else changes.
  #answer = null;

  // What the learner wants each lesson to be, in the order of the clicks. Only one change is sent at a time, so that no
  // write overtakes another one.
  #pending = new Map();
  #sending = false;
  // The number of writes that were sent.
  #writes = 0;
  #paused = { code: null, until: 0 };
  #refreshing = null;
  #stale = false;
  #scheduled = false;

  constructor(base) {
    this.#base = base;
    this.#publish();
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#catchUp());
    // The page comes back from the browser's back/forward cache, or the network comes back.
    addEventListener("pageshow", (event) => event.persisted && this.#catchUp());
    addEventListener("online", () => this.#catchUp());
  }

  /**
   * A signed token, or a function that returns a token or a promise of one. `null` means the cookie. A renewed token of
   * the same learner changes nothing on the page. The next answer shows whether it is the same learner.
   */
  set token(token) {
    if (token === this.#token) return;
    this.#token = token;
    this.#schedule();
  }

  /**
   * What to show: status, overall, modules in catalog order with their lessons, lessons by id, next, access, saving. It
   * is the same object until something in it changes, as React's useSyncExternalStore needs it.
   */
  get view() {
    return this.#view;
  }

  /**
   * Call `listener` after each change of `view`. Returns a function that stops the calls. Each subscription asks the
   * service again, because it may belong to a new page, after a sign-in or after a click on a button of the site's own.
   */
  subscribe = (listener) => {
    // A function of its own, so that two subscriptions of one listener stop separately.
    const call = () => listener();
    this.#listeners.add(call);
    this.#lastToken = undefined;
    this.#schedule();
    return () => {
      this.#listeners.delete(call);
    };
  };

  /** Forget everything and ask again, because somebody else signed in. */
  reset = () => {
    this.#loads += 1;
    this.#refreshing = null;
    this.#forget();
    this.#lastToken = undefined;
    if (this.#listeners.size) this.#schedule();
  };

  /** Ask the service what has changed. It answers 304 if nothing has. Resolves when the answer is in `view`. */
  refresh = () => {
    // An answer that is still on its way may be older than the change that the caller wants to see.
    this.#refreshing = this.#load();
    return this.#refreshing;
  };

  /**
   * Mark a lesson as completed, or take the mark back. `view` shows the change at once. Resolves when the change is
   * decided:
   * `{ answer, opened }`: it is stored. `answer` is the service's answer, `opened` the lessons that the change unlocked;
   * `{ answer }`: it was stored, but a later change of the same lesson followed;
   * `{}`: nothing had to be sent;
   * `{ code, seconds, prerequisites }`: it was not stored.
   */
  want = (lessonId, completed) => {
    const id = lessonId.toLowerCase();
    const seconds = Math.ceil((this.#paused.until - performance.now()) / 1000);
    if (seconds > 0) return Promise.resolve({ code: this.#paused.code, seconds });
    if (!this.#tag) {
      // Nobody is known to be signed in. Or a proxy removed the header: then nobody could tell whose session the write
      // arrives in.
      this.refresh();
      return Promise.resolve({ code: this.#status === "ready" ? "internal_error" : this.#status });
    }
    const earlier = this.#pending.get(id);
    if (earlier?.completed === completed) return earlier.settled;
    const locked = [...this.#view.lessons.values()].filter(({ state }) => state === "locked");
    const change = { completed, at: new Date().toISOString(), tag: this.#tag, sent: false };
    change.settled = new Promise((resolve) => (change.settle = resolve));
    // A change that was sent is settled by its own answer.
    if (!earlier?.sent) earlier?.settle({});
    this.#pending.set(id, change);
    this.#answer = this.#next = null; // from here on, this page computes both itself
    this.#publish();
    change.opened = locked
      .map(({ lessonId }) => this.#view.lessons.get(lessonId))
      .filter(({ state }) => state === "available");
    this.#send();
    return change.settled;
  };

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
    if (this.#listeners.size && !this.#scheduled) this.refresh();
  }

  async #load() {
    const load = (this.#loads += 1);
    const writes = this.#writes;
    const startedDuringWrite = this.#sending;
    const answers = await Promise.all([this.#get("outline"), this.#get("next")]);
    const [outline, next] = answers;
    if (load === this.#loads && outline.document && isFinished(outline.document.overall))
      answers.push(await this.#get("access"));
    if (load !== this.#loads) return this.#refreshing;
    const access = answers[2];
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
    if (ended) {
      this.#end(ended);
      return undefined;
    }
    // While the service is away, the page goes on showing what it knows. If only one read succeeds, its answer is shown.
    if (outline.document) {
      this.#status = "ready";
      this.#tag = outline.tag;
      this.#cached.outline = outline;
      this.#adopt(outline.document);
    } else if (!this.#outline) {
      this.#status = outline.code;
      this.#seconds = outline.seconds ?? 0;
    }
    if (next.document) this.#cached.next = next;
    this.#next = next.document ?? null;
    if (access?.document) this.#cached.access = access;
    this.#access = access?.document ?? null;
    this.#publish();
    return this.#refreshIfStale();
  }

  // Whether an answer shows that the page shows another learner.
  #isOfAnotherLearner({ document, tag }) {
    return this.#outline !== null && (document || tag) && tag !== this.#tag;
  }

  // Remove everything about a learner, also the changes that wait: the next page may be another learner's. `outcome` is
  // what the waiting changes resolve to.
  #forget(outcome = {}) {
    const changes = [...this.#pending.values()];
    this.#session += 1;
    this.#pending.clear();
    this.#tag = this.#outline = this.#next = this.#access = this.#answer = null;
    this.#cached = {};
    this.#completedAt.clear();
    this.#prerequisites.clear();
    this.#paused.until = 0;
    this.#sending = this.#stale = false;
    this.#status = "loading";
    this.#publish(); // the elements remove their notices
    for (const change of changes) change.settle(outcome);
  }

  // The learner signed out or lost access.
  #end({ code }) {
    if (this.#outline) this.#forget({ code });
    this.#status = code;
    this.#publish();
  }

  #adopt(outline) {
    this.#outline = outline.modules;
    this.#answer = null;
    const known = this.#prerequisites;
    const lessons = outline.modules.flatMap((module) => module.lessons);
    this.#completedAt = new Map(lessons.map(({ lessonId, completedAt }) => [lessonId, completedAt]));
    this.#prerequisites = new Map(
      lessons.map(({ lessonId, prerequisites }) => {
        const completed = (known.get(lessonId) ?? []).filter((id) => this.#completedAt.get(id));
        return [lessonId, [...new Set([...completed, ...prerequisites])]];
      }),
    );
  }

  async #send() {
    if (this.#sending) return;
    this.#sending = true;
    const session = this.#session;
    while (this.#pending.size) {
      const [lessonId, change] = this.#pending.entries().next().value;
      if (change.completed === Boolean(this.#completedAt.get(lessonId))) {
        this.#pending.delete(lessonId); // the learner changed it back before it was sent
        change.settle({});
        continue;
      }
      change.sent = true;
      this.#writes += 1;
      const method = change.completed ? "POST" : "DELETE";
      // The tag says whose change it is: the session may be another one when the request arrives.
      const headers = { "Learner-Tag": change.tag };
      const answer = await this.#call(method, `lessons/${encodeURIComponent(lessonId)}`, headers);
      if (session === this.#session) {
        const isOfAnother = answer.code === "other_learner" || this.#isOfAnotherLearner(answer);
        if (isOfAnother) this.#forget({ code: "other_learner" });
        else if (SESSION_ENDED.includes(answer.code)) this.#end(answer);
        if (session !== this.#session) this.refresh();
      }
      if (session !== this.#session) {
        change.settle({}); // if a later change replaced it, nobody else settles it
        return;
      }
      if (answer.document) this.#stored(lessonId, change, answer.document);
      else this.#refused(lessonId, change, answer);
      this.#publish();
    }
    this.#sending = false;
    this.#publish();
    this.#refreshIfStale();
  }

  #refreshIfStale() {
    if (!this.#stale || this.#sending) return undefined;
    this.#stale = false;
    return this.refresh();
  }

  #stored(lessonId, change, answer) {
    this.#completedAt.set(lessonId, answer.completedAt);
    if (this.#pending.get(lessonId) === change) {
      this.#pending.delete(lessonId);
      change.settle({ answer, opened: change.opened });
    } else {
      change.settle({ answer });
    }
    if (this.#pending.size) return;
    const { modules, overall } = this.#derive();
    this.#answer = answer;
    const guess = modules.find(({ moduleId }) => moduleId === answer.module.moduleId);
    // If the totals differ, something was locked, unlocked or changed elsewhere. The outline has to be read again.
    if (!same(guess, answer.module) || !same(overall, answer.overall)) this.#stale = true;
    // Nothing is left to do: read what the learner may do.
    if (isFinished(answer.overall) && !this.#access) this.#stale = true;
  }

  #refused(lessonId, change, { code, seconds, prerequisites }) {
    const outcome = { code, seconds, prerequisites };
    if (this.#pending.get(lessonId) !== change) change.settle({}); // a later change replaced it
    const givenUp = FAILS_EVERY_WRITE.includes(code) ? [...this.#pending.keys()] : [lessonId];
    for (const id of givenUp) {
      const waiting = this.#pending.get(id);
      // A lesson that was changed back meanwhile is as the learner wants it.
      waiting.settle(waiting.completed === Boolean(this.#completedAt.get(id)) ? {} : outcome);
      this.#pending.delete(id);
    }
    if (seconds) this.#paused = { code, until: performance.now() + seconds * 1000 };
    // After too many writes, what is shown is still right. Without a network, a read must wait for the network. In all
    // other cases the service knows something that this page does not.
    if (!["rate_limited", "offline"].includes(code)) this.#stale = true;
  }

  // Make the view from what the service said and from the changes that wait.
  #derive() {
    const isCompleted = (id) => this.#pending.get(id)?.completed ?? Boolean(this.#completedAt.get(id));
    const lessons = new Map();
    const modules = (this.#outline ?? []).map((module) => {
      const derived = { moduleId: module.moduleId, title: module.title, lessons: [] };
      for (const { lessonId, title } of module.lessons) {
        const completed = isCompleted(lessonId);
        const prerequisites = completed ? [] : this.#prerequisites.get(lessonId).filter((id) => !isCompleted(id));
        const state = completed ? "completed" : prerequisites.length ? "locked" : "available";
        const completedAt = completed ? (this.#completedAt.get(lessonId) ?? this.#pending.get(lessonId).at) : null;
        const lesson = { lessonId, title, state, completedAt, prerequisites, module: derived };
        derived.lessons.push(lesson);
        lessons.set(lessonId, lesson);
      }
      return Object.assign(derived, count(derived.lessons));
    });
    const overall = count([...lessons.values()]);
    if (this.#answer) {
      Object.assign(overall, this.#answer.overall);
      Object.assign(
        modules.find(({ moduleId }) => moduleId === this.#answer.module.moduleId) ?? {},
        this.#answer.module,
      );
    }
    const named = lessons.get(this.#next?.lessonId);
    const next = named?.state === "available" ? named : following([...lessons.values()]);
    const saving = this.#sending || this.#pending.size > 0;
    const access = this.#access;
    return { status: this.#status, seconds: this.#seconds, overall, modules, lessons, next, access, saving };
  }

  #publish() {
    const view = this.#derive();
    // A listener that subscribes at each render would otherwise never come to an end: each subscription reads, each
    // read would make a new view, and each new view a render. (A lesson's module holds the lesson.)
    const text = JSON.stringify(view, (key, value) => (key === "module" ? undefined : value));
    if (text === this.#viewText) return;
    this.#viewText = text;
    this.#view = view;
    // A copy, because a listener may subscribe again: a loop over the set itself would never end.
    for (const listener of [...this.#listeners]) {
      if (!this.#listeners.has(listener)) continue; // another listener has stopped it
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

  async #call(method, path, headers) {
    try {
      const token = await this.#currentToken();
      if (method === "GET") this.#lastToken = token;
      const response = await fetch(`${this.#base}api/progress/${path}`, {
        method,
        headers: token ? { ...headers, Authorization: `Bearer ${token}` } : headers,
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
      };
    } catch {
      return { code: navigator.onLine ? "unreachable" : "offline" };
    }
  }
}

// The counts of lessons as the service makes them (contract §2): a locked lesson does not count.
function count(lessons) {
  const of = (state) => lessons.filter((lesson) => lesson.state === state).length;
  return { ...counts(of("completed"), lessons.length - of("locked")), lockedCount: of("locked") };
}

/** Return percent, completedCount and totalCount. The percent is rounded down, as the service does it (contract §2). */
export function counts(completedCount, totalCount) {
  return { percent: totalCount ? Math.floor((100 * completedCount) / totalCount) : 0, completedCount, totalCount };
}

/** Return whether no lesson is available: each one is completed or locked. */
export function isFinished({ completedCount, totalCount }) {
  return completedCount === totalCount;
}

function same(ours, theirs) {
  return ours?.completedCount === theirs.completedCount && ours.totalCount === theirs.totalCount;
}

// Return the lesson that GET /api/progress/next would name: the first available lesson after the most recently completed
// one. If there is none after it, return the first available lesson of all.
function following(lessons) {
  let latest = -1;
  lessons.forEach(({ completedAt }, at) => {
    if (completedAt && (latest < 0 || completedAt >= lessons[latest].completedAt)) latest = at;
  });
  const isAvailable = ({ state }) => state === "available";
  return lessons.slice(latest + 1).find(isAvailable) ?? lessons.find(isAvailable) ?? null;
}
