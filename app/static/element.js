// What both elements have in common: the store, the labels, toggles, events, and the words that tell what happened.
import { h, icon, set, sheet, write } from "./dom.js";
import { complete, fill } from "./labels.js";
import { counts, storeOf } from "./store.js";

// The notice of a success stays this long, and longer while the pointer or the focus is on it.
const NOTICE_MS = 8000;
const CAN_BE_RETRIED = ["offline", "unreachable", "unavailable", "internal_error"];

const STYLES = sheet(`
  :host {
    display: block;
    margin-block: 0.75rem;
    container-type: inline-size;
    font-family: var(--progress-font, inherit);
    font-size: 1rem;
    line-height: 1.4;
    text-align: start;
    color: var(--text);
    --accent: var(--progress-accent, light-dark(#4338ca, #a5b4fc));
    --on-accent: var(--progress-on-accent, light-dark(#ffffff, #14122b));
    --text: var(--progress-text, light-dark(#1c1b22, #ecebf3));
    --muted: var(--progress-muted, light-dark(#5c5a68, #aeacbb));
    --surface: var(--progress-surface, light-dark(#ffffff, #1d1c26));
    --track: var(--progress-track, light-dark(#e2e1ea, #3a3847));
    --border: var(--progress-border, light-dark(#d8d6e2, #3a3847));
    --danger: var(--progress-danger, light-dark(#9f1239, #fda4af));
    --radius: var(--progress-radius, 0.75rem);
  }
  :host([hidden]), [hidden] { display: none !important; }
  *, ::before, ::after { box-sizing: border-box; }
  p, ul { margin: 0; padding: 0; list-style: none; }
  .unseen {
    position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden;
    clip-path: inset(50%); white-space: nowrap;
  }
  .icon {
    flex: none; inline-size: 1.125em; block-size: 1.125em; vertical-align: -0.2em;
    fill: none; stroke: currentColor; stroke-width: 2.2; stroke-linecap: round; stroke-linejoin: round;
  }
  button, a { font: inherit; color: inherit; }
  button { margin: 0; padding: 0; border: 0; background: none; text-align: inherit; cursor: pointer; }
  :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 0.25rem; }
  .button {
    display: inline-flex; align-items: center; justify-content: center; gap: 0.4em;
    min-block-size: 2.25rem; padding: 0.25rem 0.875rem; border: 1px solid var(--accent); border-radius: 0.5rem;
    background: var(--accent); color: var(--on-accent); font-weight: 600;
  }
  .button.quiet { background: transparent; color: var(--accent); }
  .button[aria-disabled="true"] {
    border-color: var(--border); background: transparent; color: var(--muted); cursor: default;
  }
  .bar { block-size: 0.375rem; border-radius: 1rem; background: var(--track); overflow: hidden; }
  .bar > i {
    display: block; block-size: 100%; inline-size: calc(var(--value, 0) * 1%); border-radius: inherit;
    background: var(--accent); transition: inline-size 0.35s ease-out;
  }
  .notice {
    position: fixed; z-index: 1000; inset-block-end: var(--progress-notice-bottom, 1rem); inset-inline: 1rem;
    display: flex; align-items: center; gap: 0.75rem;
    inline-size: fit-content; max-inline-size: min(34rem, calc(100vw - 2rem)); max-block-size: 60vh; overflow: auto;
    margin-inline: auto; padding: 0.625rem 0.875rem;
    border: 1px solid var(--border); border-inline-start: 0.25rem solid var(--accent); border-radius: 0.5rem;
    background: var(--surface); box-shadow: 0 0.5rem 1.5rem rgb(0 0 0 / 0.25); overflow-wrap: anywhere;
  }
  .notice.failed { border-inline-start-color: var(--danger); }
  .notice p { flex: 1; min-inline-size: 0; }
  .notice button {
    flex: none; min-inline-size: 1.75rem; min-block-size: 1.75rem; text-align: center; color: var(--accent);
    font-weight: 600;
  }
  .instead {
    display: flex; flex-wrap: wrap; align-items: center; gap: 0.5rem 1rem; padding: 1rem;
    border: 1px solid var(--border); border-radius: var(--radius); background: var(--surface);
    overflow-wrap: anywhere;
  }
  .instead p { font-weight: 600; }
  @media (prefers-reduced-motion: reduce) {
    * { transition: none !important; animation: none !important; }
  }
  @media (forced-colors: active) {
    .bar { border: 1px solid CanvasText; }
    .bar > i { background: Highlight; forced-color-adjust: none; }
  }
`);

export class ProgressElement extends HTMLElement {
  // These are properties. An attribute of the same name has no effect, and the console says so.
  static properties = ["token", "labels"];
  static observedAttributes = ["api", "course-id", "count", "keep-offline", "lang", ...this.properties];
  // See progress-ui.js: a second copy of the script gives its callers the stores of the first copy.
  static storeOf = storeOf;

  #token;
  #labels = complete();
  #unsubscribe = null;
  #notice;
  #live = h("p", { class: "unseen", role: "status" });
  #noticeTimer = null;
  #announceTimer = null;
  #lastStatus = null;
  #undoAction;
  #focusBefore;
  // The titles of the lessons that the learner changed in this element, by id, until the change is decided or the learner
  // is told that it waits.
  #changed = new Map();

  constructor(styles) {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [STYLES, styles];
    this.#notice = {
      // Hidden from screen readers: the live region has the same words, and it does not repeat the countdown.
      text: h("p", { "aria-hidden": "true" }),
      undo: h("button", { type: "button", onclick: (event) => this.#undo(event) }),
      dismiss: h("button", { type: "button", onclick: () => this.#dismiss() }, icon("close")),
    };
    const { text, undo, dismiss } = this.#notice;
    this.#notice.box = h("div", { class: "notice", part: "notice", hidden: true }, text, undo, dismiss);
    this.#notice.box.addEventListener("keydown", (event) => event.key === "Escape" && this.#dismiss());
    // Shown instead of progress: a sentence, the page's own element for this case, and a button to try again.
    this._instead = {
      text: h("p"),
      retry: h("button", {
        type: "button",
        class: "button quiet",
        part: "button",
        onclick: () => this._store.refresh(),
      }),
    };
    this._instead.box = h(
      "div",
      { class: "instead", part: "instead", hidden: true },
      this._instead.text,
      h("slot", { name: "signed-out" }),
      h("slot", { name: "no-access" }),
      this._instead.retry,
    );
    this.shadowRoot.append(this._instead.box, this.#notice.box, this.#live);
  }

  connectedCallback() {
    // A page may set a property before the script has run. The value is then an own property of the element, which hides
    // the setter. Hand it to the setter.
    for (const name of this.constructor.properties) {
      if (Object.hasOwn(this, name)) {
        const value = this[name];
        delete this[name];
        this[name] = value;
      }
    }
    this.#connect();
  }

  disconnectedCallback() {
    this.#unsubscribe?.();
    this.#unsubscribe = null;
    this.#clearMessages();
  }

  attributeChangedCallback(name, _, value) {
    if (this.constructor.properties.includes(name)) {
      if (value === null) return;
      const why = name === "token" ? " Everybody who sees the page's HTML can read the attribute." : "";
      console.warn(`<${this.localName}>: the attribute "${name}" has no effect. Set the property .${name}.${why}`);
      return;
    }
    if (["api", "course-id"].includes(name) && this.#unsubscribe) this.#connect();
    else if (name === "keep-offline" && this.#unsubscribe) this._store.keepOffline = this._has(name);
    else this._update();
  }

  /** A signed token, or a function that returns a token or a promise of one, for pages without the cookie. Write-only. */
  set token(token) {
    // An element without a token must not take away the token that another element of the page has given the store.
    if (token === this.#token) return;
    this.#token = token;
    if (this.#unsubscribe) this._store.token = token;
  }

  /** Words instead of the English ones: see labels.js. */
  set labels(labels) {
    this.#labels = complete(labels);
    this._update();
  }

  get labels() {
    return this.#labels;
  }

  /** Ask the service what has changed, for instance after the learner bought access. */
  refresh() {
    return this._store.refresh();
  }

  /** Forget everything and ask again, because somebody else signed in. */
  reset() {
    this._store.reset();
  }

  #connect() {
    this.#unsubscribe?.();
    this._store = storeOf(this.getAttribute("api") ?? undefined, this._courseId);
    if (this.#token !== undefined) this._store.token = this.#token;
    // An element without the attribute must not switch off what another element of the page has switched on.
    if (this._has("keep-offline")) this._store.keepOffline = true;
    this.#unsubscribe = this._store.subscribe(() => this.#update());
    this._render();
  }

  #update() {
    this._render();
    this.#tellWhatWaits();
    for (const { lessonId, settled } of this._store.takeRestored()) this.#tellRefusal(lessonId, settled);
  }

  /** Render again, unless the element is not on a page yet. Then it renders when it is. */
  _update() {
    if (this.#unsubscribe) this._render();
  }

  /** The only course that the element shows, or null: it shows everything. */
  get _courseId() {
    return this.getAttribute("course-id")?.toLowerCase() || null;
  }

  /** Whether a boolean attribute is set. React 18 writes the value `false` as text. */
  _has(name) {
    return (this.getAttribute(name) ?? "false") !== "false";
  }

  get #language() {
    const tag = this.closest("[lang]")?.lang;
    try {
      return Intl.getCanonicalLocales(tag || "en")[0];
    } catch {
      return "en"; // the attribute is not a language tag
    }
  }

  _label(name, values = {}) {
    return fill(this.#labels[name], values, this.#language);
  }

  /**
   * The counts to show, of a module, of a course or of everything, with its lessons. The service does not count locked lessons. With
   * count="all" they count as still to do, so that a mark never lowers the percent.
   */
  _shownCounts(given, lessons) {
    if (this.getAttribute("count") !== "all") return given;
    return counts(lessons.filter(({ completedAt }) => completedAt).length, lessons.length);
  }

  /** The counts to show of the element's course, or of everything that the learner may take. */
  _overall() {
    const { overall, lessons } = this._store.view;
    return this._shownCounts(overall, [...lessons.values()]);
  }

  /** The counts to show of a course in the view. */
  _courseCounts(course) {
    return this._shownCounts(course, this._lessonsOf(course));
  }

  _counts({ completedCount, totalCount }) {
    return this._label("counts", { completedCount, count: totalCount });
  }

  _percent(percent) {
    return new Intl.NumberFormat(this.#language, { style: "percent" }).format(percent / 100);
  }

  _date(timestamp) {
    return new Intl.DateTimeFormat(this.#language, { dateStyle: "medium" }).format(new Date(timestamp));
  }

  /** When the learner completed a module or a course, and what is new since then. Empty if they never completed it. */
  _completion({ completedAt, newCount }, lessons) {
    if (!completedAt) return "";
    const date = this._date(completedAt);
    if (newCount) return this._label("completedNew", { date, count: newCount });
    return this._label(lessons.every((lesson) => lesson.completedAt) ? "completedOn" : "lastCompletedOn", { date });
  }

  /** The lessons of a course in the view. */
  _lessonsOf(course) {
    return [...this._store.view.lessons.values()].filter(({ module }) => module.course === course);
  }

  /** The titles of lessons, as a list in the page's language. */
  _titles(lessonIds) {
    return this._join(lessonIds.map((id) => this._title(id)));
  }

  /** The title of a lesson. A lesson that is not in the view has no title here, but a label. */
  _title(lessonId) {
    const title = this._store.view.lessons.get(lessonId)?.title;
    if (title !== undefined) return this._label("quoted", { title });
    // Not in the view of everything: the learner has no access to it. Of one course: it may also be in another course.
    return this._label(this._courseId ? "notListed" : "elsewhere");
  }

  _join(words) {
    return new Intl.ListFormat(this.#language).format([...new Set(words)]);
  }

  /** Make a progressbar show counts, under a name. */
  _bar(node, name, counts) {
    node.style.setProperty("--value", counts.percent);
    set(node, "aria-label", name);
    set(node, "aria-valuenow", counts.percent);
    set(node, "aria-valuetext", `${this._percent(counts.percent)}, ${this._counts(counts)}`);
  }

  /** If there is no progress to show, show why. Returns whether there is progress, or may be soon. */
  _isShown() {
    const { status } = this._store.view;
    const shown = ["loading", "ready"].includes(status);
    const { box, text, retry } = this._instead;
    set(box, "hidden", shown);
    set(box.querySelector('slot[name="signed-out"]'), "hidden", status !== "unauthenticated");
    set(box.querySelector('slot[name="no-access"]'), "hidden", !["not_enrolled", "course_not_found"].includes(status));
    set(retry, "hidden", !CAN_BE_RETRIED.includes(status));
    if (!shown) {
      write(text, this._label(status in this.#labels ? status : "internal_error"));
      write(retry, this._label("retry"));
      // A notice that is open says why a change was not saved, which is the same reason.
      if (this.#lastStatus !== status && this.#notice.box.hidden) this._announce(text.textContent);
    }
    // Messages of the last session go. A message that comes while the next session loads stays.
    if (status === "loading" && this.#lastStatus !== status) this.#clearMessages();
    this.#lastStatus = status;
    write(this.#notice.undo, this._label("undo"));
    set(this.#notice.dismiss, "aria-label", this._label("dismiss"));
    return shown;
  }

  /** Return the click handler of a lesson's toggle. It ignores the second click of a double click. */
  _onToggle(lesson) {
    return (event) => {
      if (event.detail > 1) return;
      const current = this._store.view.lessons.get(lesson());
      if (current) this._toggle(current);
    };
  }

  async _toggle({ lessonId, title, state, prerequisites }) {
    if (state === "locked") {
      this.#fail(title, { code: "lesson_locked", prerequisites });
      return;
    }
    const completed = state !== "completed";
    this.#changed.set(lessonId, title);
    const outcome = await this._store.want(lessonId, completed);
    this.#changed.delete(lessonId);
    // An element that has left the page still tells its own listeners.
    if (outcome.answer) this._dispatch("progress-change", outcome.answer);
    const completions = outcome.answer?.completions;
    if (completions) this._dispatch("progress-complete", { completions });
    if (!this.#unsubscribe) return;
    if (outcome.code) this.#fail(title, outcome);
    else if (outcome.opened) this.#succeed(lessonId, title, completed, outcome);
  }

  // Tell the learner that a change waits for the service, once.
  #tellWhatWaits() {
    const { waiting, lessons } = this._store.view;
    if (!waiting) return;
    for (const [lessonId, lesson] of this.#changed) {
      this.#changed.delete(lessonId);
      if (!lessons.get(lessonId)?.waiting) continue; // the learner has changed it back
      const reason = this._label(waiting.code in this.#labels ? waiting.code : "internal_error");
      this._tell(this._label("waits", { lesson, reason }));
    }
  }

  // A change that was kept before a reload has no element that the learner clicked.
  async #tellRefusal(lessonId, settled) {
    const title = this._store.view.lessons.get(lessonId)?.title ?? this._label("notListed");
    const outcome = await settled;
    if (outcome.code && this.#unsubscribe) this.#fail(title, outcome);
  }

  /** Show a sentence in a notice, and let screen readers say it. */
  _tell(text) {
    this.#show(text, false);
    this.#hideLater();
    this._announce(text);
  }

  /** Dispatch an event that the page hears on this element and on each element around it. Returns false if cancelled. */
  _dispatch(name, detail, options) {
    return this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true, ...options }));
  }

  /** Whether a notice shows each success, with a button to undo it. Screen readers hear it in any case. */
  _showsSuccess() {
    return false;
  }

  #succeed(lessonId, title, completed, { opened, together }) {
    if (together > 1) {
      this._tell(this._label("markedTogether", { count: together }));
      return;
    }
    const told = [this._label(completed ? "marked" : "unmarked", { lesson: title })];
    if (opened.length) told.push(this._label("opened", { count: opened.length }));
    const module = this._store.view.lessons.get(lessonId)?.module;
    if (module) {
      const values = {
        module: module.title,
        modulePercent: this._percent(this._shownCounts(module, module.lessons).percent),
        overallPercent: this._percent(this._overall().percent),
      };
      // In the view of one course, the percent of everything is that of the course.
      const course = { course: module.course?.title, coursePercent: values.overallPercent };
      const now = this._courseId ? this._label("nowInCourse", { ...values, ...course }) : this._label("now", values);
      this._announce([...told, now].join(" "));
    } else this._announce(told.join(" "));
    if (!this._showsSuccess()) {
      this.#hide();
      return;
    }
    this.#show(
      told.join(" "),
      false,
      this._onToggle(() => lessonId),
    );
    this.#hideLater();
  }

  #hideLater() {
    const hide = () => {
      if (this.#notice.box.matches(":hover, :focus-within")) this.#hideLater();
      else this.#hide();
    };
    this.#noticeTimer = setTimeout(hide, NOTICE_MS);
  }

  #fail(lesson, outcome) {
    this._fail("notSaved", { lesson }, outcome);
  }

  /** Say in a notice that nothing was changed, and why, with a label that has {reason}. */
  _fail(label, values, { code, seconds = 0, prerequisites = [] }) {
    const why = this.#labels.why[code] ?? this.#labels.why.internal_error;
    const text = (seconds) => {
      // This text has no title of a lesson: the learner who has signed in meanwhile may not be allowed to see the lesson.
      if (code === "other_learner") return this._label("otherLearner");
      const reason = fill(why, { seconds, prerequisites: this._titles(prerequisites) }, this.#language);
      return this._label(label, { ...values, reason });
    };
    this.#show(text(seconds), true);
    this._announce(text(seconds));
    if (!seconds) return;
    const until = performance.now() + seconds * 1000;
    this.#noticeTimer = setInterval(() => {
      const left = Math.ceil((until - performance.now()) / 1000);
      if (left > 0) {
        write(this.#notice.text, text(left));
        return;
      }
      clearInterval(this.#noticeTimer);
      this.#show(this._label("goOn"), false);
      this._announce(this._label("goOn"));
    }, 200);
  }

  #show(text, failed, undo) {
    clearInterval(this.#noticeTimer);
    const { box, text: paragraph } = this.#notice;
    write(paragraph, text);
    box.classList.toggle("failed", failed);
    set(this.#notice.undo, "hidden", !undo);
    this.#undoAction = undo;
    this.#focusBefore = this.shadowRoot.activeElement ?? this.#focusBefore;
    set(box, "hidden", false);
  }

  #undo(event) {
    this.#undoAction(event);
    this.#dismiss();
  }

  #dismiss() {
    // Give the focus back to the button that caused the notice. Otherwise it would go to the top of the page.
    if (this.#focusBefore?.isConnected) this.#focusBefore.focus();
    this.#hide();
  }

  #hide() {
    clearInterval(this.#noticeTimer);
    set(this.#notice.box, "hidden", true);
  }

  #clearMessages() {
    this.#hide();
    write(this.#notice.text, "");
    this._announce("");
  }

  _announce(text) {
    // Empty the live region first. Otherwise a screen reader would not repeat the same words.
    write(this.#live, "");
    clearTimeout(this.#announceTimer);
    this.#announceTimer = setTimeout(() => write(this.#live, text), 50);
  }
}

/** The keydown handler of a toggle: a key that is held down counts once. */
export function onRepeat(event) {
  if (event.repeat && [" ", "Enter"].includes(event.key)) event.preventDefault();
}
