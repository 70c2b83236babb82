// <lesson-progress lesson-id="…">: the header of a lesson's page, with the state of the lesson, a button to mark it, and the
// progress of its module, of its course if it has one, and of everything.
import { bar, h, icon, set, sheet, write } from "./dom.js";
import { onRepeat, ProgressElement } from "./element.js";

const STYLES = sheet(`
  .header {
    display: grid; grid-template-columns: minmax(0, 1fr) auto; grid-auto-columns: minmax(8rem, 12rem);
    grid-auto-flow: column;
    gap: 0.25rem 1.25rem; align-items: center; min-block-size: 4.5rem; padding: 0.625rem 1rem;
    border: 1px solid var(--border); border-radius: var(--radius); background: var(--surface);
  }
  .state {
    display: flex; gap: 0.5rem; align-items: center; min-block-size: 2.8em; min-inline-size: 0; font-weight: 600;
    overflow-wrap: anywhere;
  }
  .state .icon { display: block; }
  .state span + span { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
  .state .icon { inline-size: 1.25rem; block-size: 1.25rem; color: var(--muted); }
  .completed .state .icon { color: var(--accent); stroke-width: 3; }
  .button { min-inline-size: 12rem; }
  .meter { align-self: start; min-inline-size: 0; }
  .meter p {
    display: flex; gap: 0.5rem; margin-block-end: 0.25rem; font-size: 0.8125rem; color: var(--muted);
    white-space: nowrap;
  }
  /* One line has room in any case, so that a tick moves nothing. */
  .meter .completion {
    display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
    min-block-size: 1.125rem; margin: 0.125rem 0 0; font-size: 0.75rem; line-height: 1.125rem; white-space: normal;
  }
  .meter .renewed { min-block-size: 2.25rem; }
  .meter .name { flex: 1; overflow: hidden; text-overflow: ellipsis; }
  .meter .value { color: var(--text); font-weight: 600; font-variant-numeric: tabular-nums; }
  .loading > * { visibility: hidden; }
  .three { grid-auto-columns: 9rem; }
  @container (width < 56rem) {
    .header { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); grid-auto-flow: row; row-gap: 0.625rem; }
  }
  /* Below the state and the button, three meters have a row of their own. */
  @container (width < 66rem) {
    .three { grid-template-columns: repeat(6, minmax(0, 1fr)); grid-auto-flow: row; row-gap: 0.625rem; }
    .three > * { grid-column: span 3; }
    .three .meter { grid-column: span 2; }
  }
  @container (width < 30rem) {
    .state, .button { grid-column: 1 / -1; }
    .three { column-gap: 0.75rem; }
    .three .meter { grid-column: span 3; }
    .three .meter:last-child { grid-column: 1 / -1; }
    .three .meter:last-child .completion { display: none; }
    .meter .completion { min-block-size: 2.25rem; -webkit-line-clamp: 3; }
    .meter .renewed { min-block-size: 3.375rem; }
  }
`);

const NOTHING = { percent: 0, completedCount: 0, totalCount: 0 };

export class LessonProgress extends ProgressElement {
  static observedAttributes = [...super.observedAttributes, "lesson-id"];

  #header;
  #icon = h("span");
  #state = h("span", { id: "state" });
  #button = h("button", {
    type: "button",
    class: "button",
    part: "button",
    "aria-describedby": "state",
    onclick: this._onToggle(() => this.#lessonId),
  });
  #module = meter("module");
  #course = meter("course");
  #overall = meter("overall");

  constructor() {
    super(STYLES);
    const state = h("p", { class: "state", part: "state" }, this.#icon, this.#state);
    this.#header = h(
      "div",
      { class: "header", part: "header", role: "group" },
      state,
      this.#button,
      this.#module.box,
      this.#course.box,
      this.#overall.box,
    );
    this.#button.addEventListener("keydown", onRepeat);
    this.shadowRoot.prepend(this.#header);
  }

  get #lessonId() {
    return this.getAttribute("lesson-id")?.toLowerCase() ?? "";
  }

  _render() {
    const shown = this._isShown();
    const loading = this._store.view.status === "loading";
    set(this.#header, "hidden", !shown);
    this.#header.classList.toggle("loading", loading);
    set(this.#header, "aria-busy", loading && "true");
    // Render also while it is hidden, so that nothing of a learner who signed out is left in it.
    const lesson = this._store.view.lessons.get(this.#lessonId);
    const state = lesson?.state ?? (loading ? "available" : "locked");
    const shownState = lesson?.waiting ? "waiting" : state;
    for (const known of ["completed", "available", "locked", "waiting"])
      this.#header.classList.toggle(known, shownState === known);
    set(
      this.#header,
      "aria-label",
      this._label(...(lesson ? ["lesson", { lesson: lesson.title }] : [loading ? "loading" : "dashboard"])),
    );
    if (this.#icon.dataset.state !== shownState) {
      this.#icon.dataset.state = shownState;
      const icons = { completed: "check", available: "circle", locked: "lock", waiting: "clock" };
      this.#icon.replaceChildren(icon(icons[shownState]));
    }
    write(this.#state, this.#sentence(lesson, loading || !shown));
    set(this.#state, "title", this.#state.textContent);
    const action = this._label(state === "completed" ? "unmark" : "mark");
    write(this.#button, action);
    this.#button.classList.toggle("quiet", state === "completed");
    set(this.#button, "aria-label", lesson && `${action}: ${lesson.title}`);
    set(this.#button, "aria-disabled", state === "locked" && "true");
    this.#button.style.visibility = loading || lesson ? "" : "hidden";
    const module = lesson?.module ?? { title: "", ...NOTHING, lessons: [] };
    this.#module.box.style.visibility = loading || lesson ? "" : "hidden";
    const moduleCounts = this._shownCounts(module, module.lessons);
    this.#renderMeter(this.#module, module.title, this._label("module", { module: module.title }), moduleCounts);
    this.#renderCompletion(this.#module, module, module.lessons);
    // With course-id, the course keeps its room while it loads. The numbers of everything are then not known.
    const { _courseId: courseId } = this;
    const { course } = module;
    set(this.#course.box, "hidden", !courseId && !course);
    set(this.#overall.box, "hidden", courseId);
    this.#header.classList.toggle("three", Boolean(course) && !courseId);
    this.#course.box.style.visibility = loading || course ? "" : "hidden";
    const title = course?.title ?? "";
    const courseCounts = course ? this._courseCounts(course) : NOTHING;
    this.#renderMeter(this.#course, title, this._label("course", { course: title }), courseCounts);
    this.#renderCompletion(this.#course, course ?? NOTHING, course ? this._lessonsOf(course) : []);
    this.#renderMeter(this.#overall, this._label("overall"), this._label("overall"), this._overall());
  }

  #sentence(lesson, loading) {
    if (!lesson) return this._label(loading ? "loading" : "notYours");
    if (lesson.waiting) return this._label("waiting");
    if (lesson.state === "completed") return this._label("completedOn", { date: this._date(lesson.completedAt) });
    return this._label(lesson.state, { prerequisites: this._titles(lesson.prerequisites) });
  }

  #renderCompletion({ completion }, of, lessons) {
    write(completion, this._completion(of, lessons));
    // The second line stays when the last new lesson is ticked.
    if (of.newCount) completion.classList.add("renewed");
  }

  #renderMeter({ name, value, bar }, title, label, counts) {
    write(name, title);
    set(name, "title", title);
    write(value, this._percent(counts.percent));
    this._bar(bar, label, counts);
  }
}

function meter(part) {
  const name = h("span", { class: "name" });
  const value = h("span", { class: "value", part: `${part}-percent` });
  const line = bar();
  const completion = h("p", { class: "completion" });
  const box = h("div", { class: "meter", part }, h("p", {}, name, value), line, completion);
  return { box, name, value, bar: line, completion };
}
