// What a learner has completed, as all components of a page that talk to one API see it, and the writes to come.

// Where the API is unless an element says so: below the same root as these files.
export const DEFAULT_API = new URL("..", import.meta.url).href;

// Milliseconds. The service answers within DATABASE_TIMEOUT; what takes longer than this was lost.
const TIMEOUT = 20_000;

// What refuses every write, not one lesson's alone: those that wait are given up too.
const FOR_ALL = ["cross_site_request", "rate_limited", "unavailable", "internal_error", "offline", "unreachable"];

// What says that the learner may not see any more what is shown.
const ENDED = ["unauthenticated", "not_enrolled"];

const stores = new Map();

/** The store of the API at a URL, the same one for all who ask. */
export function storeOf(api) {
  const base = new URL(api, document.baseURI).href.replace(/\/*$/, "/");
  if (!stores.has(base)) stores.set(base, new Store(base));
  return stores.get(base);
}

class Store {
  #base;
  #token = null;
  // What the last question went with; undefined: whatever the token is, there is something to ask.
  #sentToken;
  #listeners = new Set();
  #status = "loading";
  #seconds = 0;
  #view;
  // The Learner-Tag of the answer that all of this came with. A store outlives sign-outs and sign-ins: a page of today's
  // frameworks is not loaded anew for them. While it is null no write is sent.
  #tag = null;
  // Counts the learners that were forgotten: an answer to an earlier one's write is nobody's.
  #session = 0;
  // Counts the questions: of two that overlap, the answer to the later one is right.
  #loads = 0;

  #outline = null;
  // The last answer to each GET with its ETag: what a 304 says is still so, whatever was written meanwhile.
  #kept = {};
  #completedAt = new Map();
  // What a lesson needs, as far as it was ever told: the outline names only what is still to be completed.
  #needs = new Map();
  #next = null;
  // The numbers of the last answer to a write; they hold until anything else changes.
  #answer = null;

  // What the learner wants each lesson to be, in the order of asking: one at a time is sent, so that none overtakes.
  #wishes = new Map();
  #sending = false;
  #sent = 0;
  #paused = { code: null, until: 0 };
  #refreshing = null;
  #stale = false;
  #scheduled = false;

  constructor(base) {
    this.#base = base;
    this.#derive();
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#catchUp());
    // From the browser's memory of pages that were left, and after a time without a network.
    addEventListener("pageshow", (event) => event.persisted && this.#catchUp());
    addEventListener("online", () => this.#catchUp());
  }

  /**
   * A signed token, or a function that returns one or a promise of one; null: the cookie. A renewed token of the same
   * learner changes nothing that is shown; whether it is the same learner's, the next answer tells.
   */
  set token(token) {
    if (token === this.#token) return;
    this.#token = token;
    this.#schedule();
  }

  /** What to show: status, overall, modules in catalog order with their lessons, lessons by id, next. */
  get view() {
    return this.#view;
  }

  /**
   * Call `listener` after each change; returns how to stop. It asks again, whatever is known: an element that appears on
   * a page may be another page's, after somebody signed in or a button of the site marked a lesson.
   */
  subscribe(listener) {
    this.#listeners.add(listener);
    this.#sentToken = undefined;
    this.#schedule();
    return () => this.#listeners.delete(listener);
  }

  /** Forget everything and ask anew: somebody else signed in. */
  reset() {
    this.#loads += 1;
    this.#refreshing = null;
    this.#forget();
    this.#sentToken = undefined;
    if (this.#listeners.size) this.#schedule();
  }

  /** Ask what changed elsewhere: 304 if nothing did. */
  refresh() {
    // Not the answer that is still awaited: it may have been made before what the caller wants to see.
    this.#refreshing = this.#load();
    return this.#refreshing;
  }

  /**
   * Make a lesson completed, or not. It shows at once; the promise is of what became of it: {} or { opened } once it is
   * stored (`opened`: lessons that it unlocked), or why it was not: { code, seconds, prerequisites }.
   */
  want(lessonId, completed) {
    const seconds = Math.ceil((this.#paused.until - performance.now()) / 1000);
    if (seconds > 0) return Promise.resolve({ code: this.#paused.code, seconds });
    if (!this.#tag) {
      // The header was lost on the way: nobody could tell whose session the write arrives in.
      this.refresh();
      return Promise.resolve({ code: "internal_error" });
    }
    const earlier = this.#wishes.get(lessonId);
    if (earlier?.completed === completed) return earlier.settled;
    const locked = this.#view.modules.flatMap(({ lessons }) => lessons.filter(({ state }) => state === "locked"));
    const wish = { completed, at: new Date().toISOString(), tag: this.#tag };
    wish.settled = new Promise((resolve) => (wish.settle = resolve));
    earlier?.settle({});
    this.#wishes.set(lessonId, wish);
    this.#answer = this.#next = null; // from now on by the same rules, from what is known here
    this.#publish();
    wish.opened = locked.filter((lesson) => this.#view.lessons.get(lesson.lessonId).state === "available");
    this.#send();
    return wish.settled;
  }

  // Not at once: a page's own script may be about to set a token.
  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setTimeout(async () => {
      this.#scheduled = false;
      // React makes a new function at each render. It is only worth a question if it returns another token.
      if (this.#sentToken === undefined || (await this.#currentToken().catch(() => null)) !== this.#sentToken)
        this.refresh();
    });
  }

  #catchUp() {
    if (this.#listeners.size && !this.#scheduled) this.refresh();
  }

  async #load() {
    const load = (this.#loads += 1);
    const sent = this.#sent;
    const isBesideAWrite = this.#sending;
    const [outline, next] = await Promise.all([this.#get("outline"), this.#get("next")]);
    if (load !== this.#loads) return this.#refreshing;
    const ended = [outline, next].find(({ code }) => ENDED.includes(code));
    if (this.#isAnothers(outline) || this.#isAnothers(next)) {
      this.#forget({ code: "other_learner" });
    } else if (!ended && (isBesideAWrite || sent !== this.#sent)) {
      // Asked before a write was answered: nobody can tell which of the two answers is newer.
      this.#stale = true;
      return this.#again();
    }
    // The session changed between the two.
    if (outline.tag && next.tag && outline.tag !== next.tag) return this.refresh();
    if (ended) {
      this.#end(ended);
      return undefined;
    }
    // What is known goes on being shown while the service is away; of two answers that one which came is shown.
    if (outline.document) {
      this.#status = "ready";
      this.#tag = outline.tag;
      this.#kept.outline = outline;
      this.#take(outline.document);
    } else if (!this.#outline) {
      this.#status = outline.code;
      this.#seconds = outline.seconds ?? 0;
    }
    if (next.document) this.#kept.next = next;
    this.#next = next.document ?? null;
    this.#publish();
    return this.#again();
  }

  // Whether an answer shows that what is known is not its learner's.
  #isAnothers({ document, tag }) {
    return this.#outline !== null && (document || tag) && tag !== this.#tag;
  }

  // Nothing of a learner may stay, neither what is shown nor what is waiting to be sent: the next page that is seen may
  // be another learner's. `outcome` is what becomes of the wishes.
  #forget(outcome = {}) {
    const wishes = [...this.#wishes.values()];
    this.#session += 1;
    this.#wishes.clear();
    this.#tag = this.#outline = this.#next = this.#answer = null;
    this.#kept = {};
    this.#completedAt.clear();
    this.#needs.clear();
    this.#paused.until = 0;
    this.#sending = this.#stale = false;
    this.#status = "loading";
    this.#publish(); // the elements take back what they told the learner
    for (const wish of wishes) wish.settle(outcome);
  }

  // The learner has signed out, or has no access any more.
  #end({ code }) {
    if (this.#outline) this.#forget({ code });
    this.#status = code;
    this.#publish();
  }

  #take(outline) {
    this.#outline = outline.modules;
    this.#answer = null;
    const known = this.#needs;
    const lessons = outline.modules.flatMap((module) => module.lessons);
    this.#completedAt = new Map(lessons.map(({ lessonId, completedAt }) => [lessonId, completedAt]));
    this.#needs = new Map(
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
    while (this.#wishes.size) {
      const [lessonId, wish] = this.#wishes.entries().next().value;
      if (wish.completed === Boolean(this.#completedAt.get(lessonId))) {
        this.#wishes.delete(lessonId); // it was changed back before anything was sent
        wish.settle({});
        continue;
      }
      this.#sent += 1;
      const method = wish.completed ? "POST" : "DELETE";
      // Whose wish it is: the session may be another one by the time that the request arrives.
      const headers = { "Learner-Tag": wish.tag };
      const answer = await this.#call(method, `lessons/${encodeURIComponent(lessonId)}`, headers);
      if (session !== this.#session) return;
      const isAnothers = answer.code === "other_learner" || this.#isAnothers(answer);
      if (isAnothers) this.#forget({ code: "other_learner" });
      else if (ENDED.includes(answer.code)) this.#end(answer);
      if (session !== this.#session) {
        this.refresh();
        return;
      }
      if (answer.document) this.#stored(lessonId, wish, answer.document);
      else this.#refused(lessonId, answer);
      this.#publish();
    }
    this.#sending = false;
    this.#publish();
    this.#again();
  }

  #again() {
    if (!this.#stale || this.#sending) return undefined;
    this.#stale = false;
    return this.refresh();
  }

  #stored(lessonId, wish, answer) {
    this.#completedAt.set(lessonId, answer.completedAt);
    if (this.#wishes.get(lessonId) === wish) this.#wishes.delete(lessonId);
    wish.settle({ opened: wish.opened });
    if (this.#wishes.size) return;
    this.#answer = answer;
    this.#derive({ asAnswered: false });
    const guess = this.#view.modules.find(({ moduleId }) => moduleId === answer.module.moduleId);
    // Other totals than ours: something is locked, unlocked or changed elsewhere that we could not know of.
    if (!same(guess, answer.module) || !same(this.#view.overall, answer.overall)) this.#stale = true;
  }

  #refused(lessonId, answer) {
    const given = FOR_ALL.includes(answer.code) ? [...this.#wishes.keys()] : [lessonId];
    for (const id of given) {
      const wish = this.#wishes.get(id);
      // Changed back while it was being refused, it is as was wanted.
      wish.settle(wish.completed === Boolean(this.#completedAt.get(id)) ? {} : answer);
      this.#wishes.delete(id);
    }
    if (answer.seconds) this.#paused = { code: answer.code, until: performance.now() + answer.seconds * 1000 };
    // Nothing is wrong with what is shown if it was too much at once; else it is not what the service knows. Without a
    // network that must wait until there is one.
    if (!["rate_limited", "offline"].includes(answer.code)) this.#stale = true;
  }

  #derive({ asAnswered = true } = {}) {
    const isCompleted = (id) => this.#wishes.get(id)?.completed ?? Boolean(this.#completedAt.get(id));
    const lessons = new Map();
    const modules = (this.#outline ?? []).map((module) => {
      const derived = { moduleId: module.moduleId, title: module.title, lessons: [] };
      for (const { lessonId, title } of module.lessons) {
        const completed = isCompleted(lessonId);
        const prerequisites = completed ? [] : this.#needs.get(lessonId).filter((id) => !isCompleted(id));
        const state = completed ? "completed" : prerequisites.length ? "locked" : "available";
        const completedAt = completed ? (this.#completedAt.get(lessonId) ?? this.#wishes.get(lessonId).at) : null;
        const lesson = { lessonId, title, state, completedAt, prerequisites, module: derived };
        derived.lessons.push(lesson);
        lessons.set(lessonId, lesson);
      }
      return Object.assign(derived, count(derived.lessons));
    });
    const overall = count([...lessons.values()]);
    if (this.#answer && asAnswered) {
      Object.assign(overall, this.#answer.overall);
      Object.assign(
        modules.find(({ moduleId }) => moduleId === this.#answer.module.moduleId) ?? {},
        this.#answer.module,
      );
    }
    const told = lessons.get(this.#next?.lessonId);
    const next = told?.state === "available" ? told : following([...lessons.values()]);
    const saving = this.#sending || this.#wishes.size > 0;
    this.#view = { status: this.#status, seconds: this.#seconds, overall, modules, lessons, next, saving };
  }

  #publish() {
    this.#derive();
    for (const listener of this.#listeners) listener();
  }

  // A 304 may be for another learner who has done the same: the document is then theirs too.
  async #get(name) {
    const kept = this.#kept[name];
    const answer = await this.#call("GET", name, kept ? { "If-None-Match": kept.etag } : {});
    return answer.document || answer.code ? answer : { ...kept, tag: answer.tag };
  }

  async #currentToken() {
    return (typeof this.#token === "function" ? await this.#token() : this.#token) ?? null;
  }

  async #call(method, path, headers) {
    try {
      const token = await this.#currentToken();
      if (method === "GET") this.#sentToken = token;
      const response = await fetch(`${this.#base}api/progress/${path}`, {
        method,
        headers: token ? { ...headers, Authorization: `Bearer ${token}` } : headers,
        credentials: token ? "omit" : "include",
        cache: "no-store", // the ETag is ours: the browser's own cache would show every 304 as a 200
        signal: AbortSignal.timeout(TIMEOUT),
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

// As the service counts (contract §2): a locked lesson does not count, and the percent is rounded down.
function count(lessons) {
  const of = (state) => lessons.filter((lesson) => lesson.state === state).length;
  return { ...counts(of("completed"), lessons.length - of("locked")), lockedCount: of("locked") };
}

/** The three numbers as the service makes them of two. */
export function counts(completedCount, totalCount) {
  return { percent: totalCount ? Math.floor((100 * completedCount) / totalCount) : 0, completedCount, totalCount };
}

function same(ours, theirs) {
  return ours?.completedCount === theirs.completedCount && ours.totalCount === theirs.totalCount;
}

// As GET /api/progress/next: the first available lesson after the most recently completed one, else from the start.
function following(lessons) {
  let latest = -1;
  lessons.forEach(({ completedAt }, at) => {
    if (completedAt && (latest < 0 || completedAt >= lessons[latest].completedAt)) latest = at;
  });
  const isAvailable = ({ state }) => state === "available";
  return lessons.slice(latest + 1).find(isAvailable) ?? lessons.find(isAvailable) ?? null;
}
