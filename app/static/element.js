// What the two elements have in common: their store, their labels, what a toggle does, and how they say what happened.
import { h, icon, set, sheet, write } from "./dom.js";
import { complete, fill } from "./labels.js";
import { DEFAULT_API, storeOf } from "./store.js";

// Milliseconds that the notice of a success stays, unless it is pointed at or has the focus.
const NOTICE = 8000;
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
  static observedAttributes = ["api", "lang"];

  #token;
  #labels = complete();
  #unsubscribe = null;
  #notice;
  #live = h("p", { class: "unseen", role: "status" });
  #timer = null;
  #said = null;
  #saying = null;

  constructor(styles) {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [STYLES, styles];
    this.#notice = {
      text: h("p", { "aria-hidden": "true" }), // what is said to a screen reader is not said again each second
      undo: h("button", { type: "button", onclick: (event) => this.#undo(event) }),
      dismiss: h("button", { type: "button", onclick: () => this.#dismiss() }, icon("close")),
    };
    const { text, undo, dismiss } = this.#notice;
    this.#notice.box = h("div", { class: "notice", part: "notice", hidden: true }, text, undo, dismiss);
    this.#notice.box.addEventListener("keydown", (event) => event.key === "Escape" && this.#dismiss());
    // What there is instead of progress: a sentence, the page's own words to it, and another try.
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
    // Set before these files were there, they are the element's own and hide the ones below.
    for (const name of ["token", "labels"]) {
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
    this.#forget();
  }

  attributeChangedCallback(name) {
    if (!this.#unsubscribe) return;
    if (name === "api") this.#connect();
    else this._render();
  }

  /** A signed token, or a function that returns one or a promise of one, for pages without the cookie. Write-only. */
  set token(token) {
    this.#token = token;
    if (this.#unsubscribe) this._store.token = token;
  }

  /** Words instead of the English ones: see labels.js. */
  set labels(labels) {
    this.#labels = complete(labels);
    if (this.#unsubscribe) this._render();
  }

  get labels() {
    return this.#labels;
  }

  /** Ask the service what changed; a page whose learner has just bought access calls it. */
  refresh() {
    return this._store.refresh();
  }

  /** Forget everything and ask anew; a page where somebody else signed in calls it. */
  reset() {
    this._store.reset();
  }

  #connect() {
    this.#unsubscribe?.();
    this._store = storeOf(this.getAttribute("api") ?? DEFAULT_API);
    if (this.#token !== undefined) this._store.token = this.#token;
    this.#unsubscribe = this._store.subscribe(() => this._render());
    this._render();
  }

  get #language() {
    const tag = this.closest("[lang]")?.lang;
    try {
      return Intl.getCanonicalLocales(tag || "en")[0];
    } catch {
      return "en"; // not a language
    }
  }

  _label(name, values = {}) {
    return fill(this.#labels[name], values, this.#language);
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

  /** The titles of lessons, as a list in the page's language; what is not among the learner's lessons has none. */
  _titles(lessonIds) {
    return this._join(lessonIds.map((id) => this._title(id)));
  }

  _title(lessonId) {
    const title = this._store.view.lessons.get(lessonId)?.title;
    return title === undefined ? this.#labels.elsewhere : this._label("quoted", { title });
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

  /** Show why there is no progress to show, or that there is; returns whether there is, or may soon be. */
  _isShown() {
    const { status } = this._store.view;
    const shown = ["loading", "ready"].includes(status);
    const { box, text, retry } = this._instead;
    set(box, "hidden", shown);
    set(box.querySelector('slot[name="signed-out"]'), "hidden", status !== "unauthenticated");
    set(box.querySelector('slot[name="no-access"]'), "hidden", status !== "not_enrolled");
    set(retry, "hidden", !CAN_BE_RETRIED.includes(status));
    if (!shown) {
      write(text, this._label(status in this.#labels ? status : "internal_error"));
      write(retry, this._label("retry"));
      // Why something was not saved comes first, and says the same.
      if (this.#said !== status && this.#notice.box.hidden) this._say(text.textContent);
    }
    // What was told was another session's. What is told now, while the next one's is loading, stays.
    if (status === "loading" && this.#said !== status) this.#forget();
    this.#said = status;
    write(this.#notice.undo, this._label("undo"));
    set(this.#notice.dismiss, "aria-label", this._label("dismiss"));
    return shown;
  }

  /** What a click on a lesson's toggle does. The second click of a double one, and a key held down, do nothing. */
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
    const outcome = await this._store.want(lessonId, completed);
    if (!this.#unsubscribe) return; // what became of it, the next element to appear shows
    if (outcome.code) this.#fail(title, outcome);
    else if (outcome.opened) this.#succeed(lessonId, title, completed, outcome.opened.length);
  }

  /** Whether a success is told to the eye too, with a way back. */
  _tellsSuccess() {
    return false;
  }

  #succeed(lessonId, title, completed, opened) {
    const told = [this._label(completed ? "marked" : "unmarked", { lesson: title })];
    if (opened) told.push(this._label("opened", { count: opened }));
    const { lessons, overall } = this._store.view;
    const module = lessons.get(lessonId)?.module;
    const percents = {
      overallPercent: this._percent(overall.percent),
      modulePercent: this._percent(module?.percent ?? 0),
    };
    this._say([...told, module && this._label("now", { module: module.title, ...percents })].join(" "));
    if (!this._tellsSuccess()) {
      this.#hide();
      return;
    }
    this.#show(
      told.join(" "),
      false,
      this._onToggle(() => lessonId),
    );
    const hide = () => {
      if (this.#notice.box.matches(":hover, :focus-within")) this.#timer = setTimeout(hide, NOTICE);
      else this.#hide();
    };
    this.#timer = setTimeout(hide, NOTICE);
  }

  #fail(title, { code, seconds = 0, prerequisites = [] }) {
    const why = this.#labels.why[code] ?? this.#labels.why.internal_error;
    const text = (seconds) => {
      // Without the lesson, which the other learner may know nothing of.
      if (code === "other_learner") return this._label("otherLearner");
      const values = { seconds, prerequisites: this._titles(prerequisites) };
      return this._label("notSaved", { lesson: title, reason: fill(why, values, this.#language) });
    };
    this.#show(text(seconds), true);
    this._say(text(seconds));
    if (!seconds) return;
    const until = performance.now() + seconds * 1000;
    this.#timer = setInterval(() => {
      const left = Math.ceil((until - performance.now()) / 1000);
      if (left > 0) {
        write(this.#notice.text, text(left));
        return;
      }
      clearInterval(this.#timer);
      this.#show(this._label("goOn"), false);
      this._say(this._label("goOn"));
    }, 200);
  }

  #show(text, failed, undo) {
    clearInterval(this.#timer);
    const { box, text: paragraph } = this.#notice;
    write(paragraph, text);
    box.classList.toggle("failed", failed);
    set(this.#notice.undo, "hidden", !undo);
    this.#undone = undo;
    this.#before = this.shadowRoot.activeElement ?? this.#before;
    set(box, "hidden", false);
  }

  #undone;
  #before;

  #undo(event) {
    this.#undone(event);
    this.#dismiss();
  }

  #dismiss() {
    // The focus goes back to where the notice came from, not to the top of the page.
    if (this.#before?.isConnected) this.#before.focus();
    this.#hide();
  }

  #hide() {
    clearInterval(this.#timer);
    set(this.#notice.box, "hidden", true);
  }

  // Take back everything that was told.
  #forget() {
    this.#hide();
    write(this.#notice.text, "");
    this._say("");
  }

  _say(text) {
    // Emptied first: the same words twice are said twice.
    write(this.#live, "");
    clearTimeout(this.#saying);
    this.#saying = setTimeout(() => write(this.#live, text), 50);
  }
}

/** For the keydown of a toggle: a key that is held down is one press. */
export function onRepeat(event) {
  if (event.repeat && [" ", "Enter"].includes(event.key)) event.preventDefault();
}
