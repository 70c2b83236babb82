// <course-progress>: how far a learner is in one course or in everything, the lesson to continue with, what is locked and why, and a checklist for each
// module. docs/front-end.md lists its attributes, properties, methods, events and slots.
import { bar, h, icon, ring, set, sheet, write } from "./dom.js";
import { onRepeat, ProgressElement } from "./element.js";
import { counts, isFinished } from "./store.js";

// The card of locked lessons names this many of them.
const NAMED_LOCKED_LESSONS = 2;
// With more modules than this, each module is a line shorter.
const MAX_ROOMY_MODULES = 40;
const PLACEHOLDERS = 12;

const STYLES = sheet(`
  .top { display: grid; grid-template-columns: minmax(19rem, 1fr) 1.2fr 1.5fr; gap: 0.75rem; }
  /* The heights do not depend on the content: a tick must not move what the learner is about to click. */
  .card {
    block-size: 9.5rem; padding: 0.75rem 1rem; border: 1px solid var(--border); border-radius: var(--radius);
    background: var(--surface); min-inline-size: 0;
  }
  .overall > div:last-child { min-inline-size: 0; }
  .overall .eyebrow { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
  .eyebrow { color: var(--muted); font-size: 0.8125rem; font-weight: 600; }
  .overall { display: flex; align-items: center; gap: 1rem; }
  .ring { position: relative; flex: none; inline-size: 5.5rem; block-size: 5.5rem; }
  .ring svg { display: block; inline-size: 100%; block-size: 100%; transform: rotate(-90deg); }
  .ring circle { fill: none; stroke-width: 12; stroke: var(--track); }
  .ring .fill {
    stroke: var(--accent); stroke-dasharray: calc(var(--value, 0) * 1px) 100px;
    transition: stroke-dasharray 0.35s ease-out;
  }
  .percent {
    position: absolute; inset: 0; display: grid; place-content: center; font-size: 1.25rem; font-weight: 700;
    font-variant-numeric: tabular-nums;
  }
  .counts { font-weight: 600; }
  .overall .locked-count { color: var(--muted); font-size: 0.875rem; }
  .continue { display: flex; flex-direction: column; gap: 0.125rem; }
  .next {
    flex: none; font-size: 1.0625rem; font-weight: 650; overflow-wrap: anywhere; display: -webkit-box;
    -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
  }
  .of {
    color: var(--muted); font-size: 0.875rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
    min-block-size: 1.4em;
  }
  /* With an offer of the site's, the button keeps its place but is invisible, and the offer is shown there. The sentence
     above the offer may use the line of the module's name, which is not shown then. */
  .action { display: grid; justify-items: start; margin-block-start: auto; }
  .offers .button { position: absolute; }
  .offers .next { font-size: 0.9375rem; -webkit-line-clamp: 3; }
  .offers .of { display: none; }
  .locks li {
    margin-block-start: 0.375rem; font-size: 0.875rem; overflow-wrap: anywhere; display: -webkit-box;
    -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden;
  }
  .modules-head {
    display: flex; flex-wrap: wrap; gap: 0.25rem 0.75rem; align-items: baseline; margin-block: 0.875rem 0.375rem;
  }
  .modules-head .title { font-weight: 700; }
  .modules-head .sum { color: var(--muted); font-size: 0.875rem; font-variant-numeric: tabular-nums; }

  .course {
    display: flex; flex-wrap: wrap; gap: 0 0.75rem; align-items: baseline; margin-block: 1rem 0.375rem;
  }
  .course:first-child { margin-block-start: 0.375rem; }
  .course h2 { margin: 0; font-size: 1rem; font-weight: 700; overflow-wrap: anywhere; min-inline-size: 0; }
  .course p { color: var(--muted); font-size: 0.875rem; font-variant-numeric: tabular-nums; }

  .map { display: none; flex-wrap: wrap; gap: 3px; margin-block-end: 0.625rem; }
  .map i {
    position: relative; inline-size: 12px; block-size: 22px; border-radius: 3px; background: var(--track);
    overflow: hidden;
  }
  .map i::after {
    content: ""; position: absolute; inset-inline: 0; inset-block-end: 0; block-size: calc(var(--value, 0) * 1%);
    background: var(--accent); transition: block-size 0.35s ease-out;
  }
  .map i.closed { background: transparent; border: 1px dashed var(--muted); }
  .map i.here { outline: 2px solid var(--accent); outline-offset: 1px; }

  .modules {
    display: grid; grid-auto-flow: dense;
    grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--progress-module-width, 13.5rem)), 1fr));
    gap: 0.375rem 0.75rem; align-items: start;
  }
  .module { position: relative; min-inline-size: 0; padding: 0.125rem 0.375rem 0.1875rem; border-radius: 0.5rem; }
  .module:hover { background: color-mix(in srgb, var(--accent) 8%, transparent); }
  .module.here { box-shadow: inset 0 0 0 1.5px var(--accent); background: var(--surface); }
  .module.expanded, .panel { background: var(--surface); box-shadow: inset 0 0 0 1px var(--border); }
  /* The panel is an item of its own below the row of its module, so that the clicked module does not move. */
  .panel { grid-column: 1 / -1; padding: 0.5rem 0.75rem 0.75rem; border-radius: 0.5rem; }
  .panel .about { color: var(--muted); font-size: 0.8125rem; overflow-wrap: anywhere; }
  .panel-head { display: flex; gap: 0.75rem; align-items: baseline; }
  .panel .title { flex: 1; min-inline-size: 0; font-weight: 600; overflow-wrap: anywhere; }
  .start-over {
    flex: none; min-block-size: 1.5rem; color: var(--muted); font-size: 0.875rem; text-decoration: underline;
    text-underline-offset: 0.15em;
  }
  .dialog {
    inline-size: min(26rem, calc(100vw - 2rem)); padding: 1rem; border: 1px solid var(--border);
    border-radius: var(--radius); background: var(--surface); color: var(--text); overflow-wrap: anywhere;
  }
  .dialog::backdrop { background: rgb(0 0 0 / 0.4); }
  .dialog div { display: flex; flex-wrap: wrap; gap: 0.5rem; justify-content: end; margin-block-start: 1rem; }
  .open {
    display: flex; align-items: center; gap: 0.375rem; inline-size: 100%; min-block-size: 1.375rem;
    font-size: 0.875rem; font-weight: 600;
  }
  .open::after { content: ""; position: absolute; inset: 0; }
  .open .name { flex: 1; min-inline-size: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
  .open .number {
    flex: none; color: var(--muted); font-size: 0.8125rem; font-weight: 500; font-variant-numeric: tabular-nums;
  }
  .open .chevron {
    inline-size: 0.875rem; margin-inline-start: -0.125rem; color: var(--muted); transition: rotate 0.2s;
  }
  .expanded > .open .chevron { rotate: 90deg; }
  .open .check { color: var(--accent); }
  .closed > .open .name { color: var(--muted); font-weight: 500; }
  .closed > .bar { background: repeating-linear-gradient(135deg, var(--track) 0 3px, transparent 3px 6px); }
  .module > .why {
    min-block-size: 1.125rem; color: var(--muted); font-size: 0.75rem; line-height: 1.125rem; overflow: hidden;
    text-overflow: ellipsis; white-space: nowrap;
  }
  /* The words have no room in one line. The second line stays when the last new lesson is ticked. */
  .renewed > .why { min-block-size: 2.25rem; white-space: normal; }
  .many .module > .why { display: none; }
  .many .module { padding-block: 0.0625rem 0.25rem; }
  .many .bar { block-size: 0.25rem; }
  .many .module > .open { font-size: 0.8125rem; }
  .many .module .chevron { display: none; }
  .many .modules {
    row-gap: 0.125rem;
    grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--progress-module-width, 11rem)), 1fr));
  }

  .lessons {
    display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 0.125rem 1rem;
    margin-block-start: 0.5rem; align-items: start;
  }
  .lesson {
    display: grid; grid-template-columns: auto 1fr; align-items: start; column-gap: 0.5rem; padding: 0.125rem;
  }
  .toggle { display: grid; place-content: center; inline-size: 2rem; block-size: 2rem; color: var(--muted); }
  .toggle span {
    display: grid; place-content: center; inline-size: 1.375rem; block-size: 1.375rem;
    border: 2px solid currentColor; border-radius: 0.375rem;
  }
  .toggle .icon { inline-size: 1rem; block-size: 1rem; stroke-width: 3; visibility: hidden; }
  .toggle:hover span { border-color: var(--accent); }
  .lesson.completed .toggle span { border-color: var(--accent); background: var(--accent); color: var(--on-accent); }
  .lesson.completed .toggle .icon { visibility: visible; }
  /* Chosen, and not stored yet. */
  .lesson.waiting .toggle span { border-style: dashed; border-color: var(--accent); color: var(--accent); }
  .lesson.waiting .toggle [data-state="completed"] .icon { visibility: visible; }
  .lesson.locked .toggle { cursor: not-allowed; }
  .lesson.locked .toggle span { border-color: transparent; }
  .lesson.locked .toggle .icon { visibility: visible; stroke-width: 2.2; }
  .lesson .name { padding-block-start: 0.3rem; overflow-wrap: anywhere; cursor: pointer; }
  .lesson.locked .name { color: var(--muted); cursor: default; }
  .lesson .why {
    grid-column: 2; min-block-size: 1.4em; color: var(--muted); font-size: 0.8125rem; overflow-wrap: anywhere;
  }
  .jump { min-block-size: 1.5rem; text-decoration: underline; text-underline-offset: 0.15em; color: var(--text); }

  .loading .card > *, .loading .modules-head, .loading .module > * { visibility: hidden; }
  .loading .card .ring { visibility: visible; }
  .loading .module { background: var(--track); opacity: 0.5; animation: wait 1.2s ease-in-out infinite alternate; }
  @keyframes wait { to { opacity: 0.25; } }

  @container (width < 52rem) {
    .top { grid-template-columns: minmax(13rem, 1fr) 1.4fr; gap: 0.5rem; }
    .locks { grid-column: 1 / -1; block-size: auto; padding-block: 0.5rem; }
    .locks ul { block-size: 3rem; }
    .locks li { margin-block-start: 0.25rem; -webkit-line-clamp: 1; }
    .many .map { display: flex; }
    .modules { row-gap: 0.25rem; }
  }
  @container (width < 30rem) {
    .top { grid-template-columns: minmax(0, 1fr); }
    .card { block-size: auto; padding: 0.5rem 0.75rem; }
    .next { block-size: 2.8em; }
    .locks ul { block-size: 2.75rem; }
    .locks li { -webkit-line-clamp: 2; }
    .overall { gap: 0.75rem; }
    .ring { inline-size: 4rem; block-size: 4rem; }
    .percent { font-size: 1rem; }
    .continue { display: grid; grid-template-columns: minmax(0, 1fr) auto; column-gap: 0.75rem; align-items: center; }
    .action { grid-column: 2; grid-row: 1 / 3; margin: 0; align-items: center; }
    .continue .button {
      padding-inline: 0.625rem; inline-size: min-content; font-size: 0.875rem; line-height: 1.2; text-align: center;
    }
    .continue .of { grid-column: 1 / -1; }
    /* The sentence and the offer take as much room as the title, the button and the module's name. */
    .offers .next { grid-column: 1 / -1; block-size: auto; min-block-size: 4.325rem; }
    .offers .action { grid-row: 1; }
    .locks li:nth-child(n + 2) { display: none; }
    .map { display: flex; }
    .modules-head { margin-block: 0.5rem 0.375rem; }
  }
  @media (forced-colors: active) {
    .ring .track { stroke: GrayText; }
    .ring .fill { stroke: Highlight; }
    .map i { border: 1px solid CanvasText; }
    .map i::after { background: Highlight; forced-color-adjust: none; }
  }
`);

export class CourseProgress extends ProgressElement {
  static properties = [...super.properties, "href"];
  static observedAttributes = [
    ...super.observedAttributes,
    "lesson-href",
    "modules",
    "start-over",
    ...this.properties,
  ];

  #href = null;
  #board;
  #overall = {
    ring: h("div", { class: "ring", part: "ring", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }),
    percent: h("p", { class: "percent", part: "percent" }),
    eyebrow: h("p", { class: "eyebrow" }),
    counts: h("p", { class: "counts", part: "counts" }),
    locked: h("p", { class: "locked-count" }),
  };
  #continue = {
    eyebrow: h("p", { class: "eyebrow" }),
    title: h("p", { class: "next", part: "next" }),
    of: h("p", { class: "of" }),
    button: h("button", {
      type: "button",
      class: "button",
      part: "button",
      onclick: this._onToggle(() => this.#nextId),
    }),
  };
  #locks = { eyebrow: h("p", { class: "eyebrow" }), list: h("ul") };
  #head = { title: h("p", { class: "title" }), sum: h("p", { class: "sum" }) };
  #map = h("div", { class: "map", part: "map", "aria-hidden": "true" });
  // A list of modules, or a heading and a list for each course.
  #lists = h("div");
  #offer = h("slot", { name: "offer", hidden: true });
  #question = h("p", { id: "question" });
  #cancel = h("button", { type: "button", class: "button quiet", part: "button", onclick: () => this.#dialog.close() });
  #confirm = h("button", { type: "button", class: "button", part: "button", onclick: () => this.#startOver() });
  #dialog = h(
    "dialog",
    { class: "dialog", part: "dialog", "aria-labelledby": "question" },
    this.#question,
    h("div", {}, this.#cancel, this.#confirm),
  );
  // The module that the dialog asks about.
  #asked = null;
  #nextId = null;
  // The nodes of each module, by id, and of each course. They are kept while the catalog is the same, so that the focus is
  // kept too.
  #built = "";
  #modules = new Map();
  #heads = new Map();

  constructor() {
    super(STYLES);
    const { ring: circle, percent, ...words } = this.#overall;
    const { eyebrow, title, of, button } = this.#continue;
    circle.append(ring(), percent);
    this.#locks.eyebrow.append(icon("lock"), " ", h("span"));
    this.#board = h(
      "div",
      { part: "dashboard", role: "group" },
      h(
        "div",
        { class: "top" },
        h("div", { class: "card overall", part: "overall" }, circle, h("div", {}, ...Object.values(words))),
        h(
          "div",
          { class: "card continue", part: "continue" },
          eyebrow,
          title,
          of,
          h("div", { class: "action" }, button, this.#offer),
        ),
        h("div", { class: "card locks", part: "locked" }, this.#locks.eyebrow, this.#locks.list),
      ),
      h("div", { class: "modules-head" }, this.#head.title, this.#head.sum),
      this.#map,
      this.#lists,
      this.#dialog,
    );
    button.addEventListener("keydown", onRepeat);
    this.shadowRoot.prepend(this.#board);
  }

  /** A function that returns the address of a lesson's page, or null for no link. It comes before `lesson-href`. */
  set href(href) {
    this.#href = href;
    this._update();
  }

  get href() {
    return this.#href;
  }

  _showsSuccess() {
    return true;
  }

  _render() {
    const shown = this._isShown();
    const { status, next } = this._store.view;
    const loading = status === "loading";
    set(this.#board, "hidden", !shown);
    this.#board.classList.toggle("loading", loading);
    set(this.#board, "aria-busy", loading && "true");
    // Render also while it is hidden, so that nothing of a learner who signed out is left in it.
    set(this.#board, "aria-label", this._label(loading ? "loading" : "dashboard"));
    const modules = this.#chosen();
    this.#board.classList.toggle("many", modules.length > MAX_ROOMY_MODULES);
    this.#renderOverall(loading);
    this.#renderNext(next);
    this.#renderLocks(modules.flatMap(({ lessons }) => lessons).filter(({ state }) => state === "locked"));
    write(this.#head.title, this._label("modules"));
    write(this.#head.sum, this.#sum(modules));
    if (loading) this.#renderPlaceholders();
    else this.#renderModules(modules, next);
    // The module may be another learner's.
    if (this.#dialog.open && (!shown || !this.#modules.has(this.#asked))) this.#dialog.close();
  }

  #chosen() {
    const { modules } = this._store.view;
    const chosen = this.getAttribute("modules")?.match(/\S+/g);
    return chosen ? modules.filter(({ moduleId }) => chosen.includes(moduleId)) : modules;
  }

  // The percent and the counts of some modules together.
  #sum(modules) {
    const shown = modules.map((module) => this._shownCounts(module, module.lessons));
    const sum = (name) => shown.reduce((total, module) => total + module[name], 0);
    const listed = counts(sum("completedCount"), sum("totalCount"));
    return `${this._percent(listed.percent)} · ${this._counts(listed)}`;
  }

  #renderOverall(loading) {
    const { ring, percent, eyebrow, counts, locked } = this.#overall;
    const { lockedCount } = this._store.view.overall;
    const overall = this._overall();
    // The name of the course, if the element shows one course.
    const course = this._courseId && this._store.view.courses[0]?.title;
    this._bar(ring, course ? this._label("course", { course }) : this._label("overall"), overall);
    write(percent, loading ? "" : this._percent(overall.percent));
    write(eyebrow, course || this._label("overall"));
    set(eyebrow, "title", course);
    write(counts, this._counts(overall));
    // The number of locked lessons is also in another card.
    const { waiting, courses, lessons } = this._store.view;
    const line = waiting ? ["waitingCount", { count: waiting.count }] : ["lockedCount", { count: lockedCount }];
    const completion = this._courseId && courses[0] ? this._completion(courses[0], [...lessons.values()]) : "";
    write(locked, (!waiting && completion) || this._label(...line));
    locked.style.visibility = waiting || completion || lockedCount ? "" : "hidden";
  }

  #renderNext(next) {
    const { eyebrow, title, of, button } = this.#continue;
    const { lessons } = this._store.view;
    this.#nextId = next?.lessonId ?? null;
    // Invisible and not removed: so nothing moves, and a button with the focus keeps it.
    button.style.visibility = next ? "" : "hidden";
    const isWaiting = [...lessons.values()].some(({ waiting }) => waiting);
    const offers = !next && !isWaiting && this.#hasOnlyFreeLessons();
    title.parentElement.classList.toggle("offers", offers);
    set(this.#offer, "hidden", !offers);
    write(eyebrow, this._label("continueWith"));
    if (!next) {
      this.#title(title, null, isWaiting ? this._label("waiting") : this.#nothingLeft(offers));
      write(of, "");
      set(of, "title", null);
      set(button, "aria-label", null);
      return;
    }
    this.#title(title, next.lessonId, next.title);
    const opens = [...lessons.values()].filter(
      ({ prerequisites: [first, ...more] }) => first === next.lessonId && !more.length,
    );
    const what = opens.length ? ` · ${this._label("opens", { count: opens.length })}` : "";
    write(of, next.module.title + what);
    set(of, "title", of.textContent);
    write(button, this._label("mark"));
    set(button, "aria-label", `${this._label("mark")}: ${next.title}`);
  }

  // Whether the view has free lessons alone, so that a purchase would open more. A learner with a course may own all there
  // is to buy, so only the page of another course offers more to this learner.
  #hasOnlyFreeLessons() {
    const { access } = this._store.view;
    if (!access?.free || access.full) return false;
    if (!this._courseId) return !access.courses.length;
    return !access.courses.some(({ courseId }) => courseId === this._courseId);
  }

  // What to say if there is no lesson to continue with.
  #nothingLeft(hasOnlyFreeLessons) {
    const { overall, access } = this._store.view;
    const { completedCount, totalCount } = overall;
    if (hasOnlyFreeLessons && totalCount) return this._label("freeCompleted", { completedCount, count: totalCount });
    if (!isCompleted(overall)) return this._label("nothingOpen");
    if (this._courseId) return this._label("courseCompleted");
    // With courses alone, there may be other courses.
    return this._label(access && !access.full && access.courses.length ? "openCompleted" : "allCompleted");
  }

  // A title, and a link if the page said where lessons are.
  #title(node, lessonId, text) {
    const href = lessonId && this.#hrefOf(lessonId);
    if (Boolean(href) !== (node.firstElementChild?.localName === "a")) {
      node.replaceChildren(href ? h("a", { part: "link", onclick: (event) => this.#navigate(event) }) : "");
    }
    if (href) {
      set(node.firstElementChild, "href", href);
      node.firstElementChild.dataset.lessonId = lessonId;
    }
    write(href ? node.firstElementChild : node, text);
  }

  #hrefOf(lessonId) {
    const lesson = this._store.view.lessons.get(lessonId);
    const href = this.#href
      ? this.#href(lesson)
      : this.getAttribute("lesson-href")?.replaceAll("{lessonId}", lessonId);
    if (!href || !URL.canParse(href, document.baseURI)) return null;
    // A link must not run a script (javascript:).
    return ["http:", "https:"].includes(new URL(href, document.baseURI).protocol) ? href : null;
  }

  // Let the site's router take a click. A click with one of these keys opens a tab or a window, or saves the page.
  #navigate(event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const { lessonId } = event.currentTarget.dataset;
    const detail = { lessonId, href: event.currentTarget.getAttribute("href") };
    if (!this._dispatch("progress-navigate", detail, { cancelable: true })) event.preventDefault();
  }

  #renderLocks(locked) {
    const count = locked.length;
    const { eyebrow, list } = this.#locks;
    eyebrow.firstElementChild.style.display = count ? "" : "none";
    write(eyebrow.lastElementChild, count ? this._label("lockedCount", { count }) : this._label("nothingLocked"));
    const lines = nearest(locked)
      .slice(0, NAMED_LOCKED_LESSONS)
      .map(({ lessonId, title, prerequisites }) => ({
        key: [lessonId, ...prerequisites].join(),
        text: this._label("after", {
          lesson: this._label("quoted", { title }),
          prerequisites: this._titles(prerequisites),
        }),
      }));
    if (!lines.length) lines.push({ key: "", text: this._label("everythingOpen") });
    while (list.children.length > lines.length) list.lastElementChild.remove();
    while (list.children.length < lines.length) list.append(h("li"));
    lines.forEach(({ text }, at) => write(list.children[at], text));
  }

  #renderPlaceholders() {
    const count = this.getAttribute("modules")?.match(/\S+/g)?.length ?? PLACEHOLDERS;
    this.#board.classList.toggle("many", count > MAX_ROOMY_MODULES);
    if (this.#built === `loading ${count}`) return;
    this.#built = `loading ${count}`;
    this.#modules.clear();
    this.#heads.clear();
    const placeholder = () =>
      h(
        "li",
        { class: "module" },
        h("p", { class: "open", text: "–" }),
        h("div", { class: "bar" }),
        h("p", { class: "why", text: "–" }),
      );
    this.#lists.replaceChildren(list(Array.from({ length: count }, placeholder)));
    this.#map.replaceChildren(...Array.from({ length: count }, () => h("i")));
  }

  #renderModules(modules, next) {
    const catalog = JSON.stringify([
      this._courseId,
      ...modules.map(({ moduleId, course, lessons }) => [
        moduleId,
        course?.courseId,
        lessons.map(({ lessonId }) => lessonId),
      ]),
    ]);
    if (this.#built !== catalog) {
      const expanded = [...this.#modules].filter(([, { isExpanded }]) => isExpanded).map(([id]) => id);
      this.#built = catalog;
      this.#modules = new Map(modules.map(({ moduleId }) => [moduleId, this.#buildModule(moduleId)]));
      this.#buildLists(modules);
      this.#map.replaceChildren(...[...this.#modules.values()].map(({ cell }) => cell));
      for (const id of expanded) if (this.#modules.has(id)) this.#modules.get(id).isExpanded = true;
    }
    for (const [courseId, { title, sum }] of this.#heads) {
      const ofCourse = modules.filter(({ course }) => course?.courseId === courseId);
      const [{ course }] = ofCourse;
      write(title, course?.title ?? this._label("withoutCourse"));
      const completion = course && this._completion(course, this._lessonsOf(course));
      write(sum, this.#sum(ofCourse) + (completion ? ` · ${completion}` : ""));
    }
    for (const module of modules) this.#renderModule(module, this.#modules.get(module.moduleId), next);
  }

  // One list, or a heading and a list for each course.
  #buildLists(modules) {
    const courseIds = new Set(modules.map(({ course }) => course?.courseId));
    const items = (of) => of.flatMap(({ moduleId }) => [this.#modules.get(moduleId).item, this.#modules.get(moduleId).panel]);
    this.#heads.clear();
    if (this._courseId || !this._store.view.courses.length) {
      this.#lists.replaceChildren(list(items(modules)));
      return;
    }
    const built = [...courseIds].flatMap((courseId, at) => {
      const head = { title: h("h2", { id: `course-${at}` }), sum: h("p") };
      this.#heads.set(courseId, head);
      const ofCourse = modules.filter(({ course }) => course?.courseId === courseId);
      const own = list(items(ofCourse));
      set(own, "aria-labelledby", head.title.id);
      return [h("div", { class: "course", part: "course" }, head.title, head.sum), own];
    });
    this.#lists.replaceChildren(...built);
  }

  #buildModule(moduleId) {
    const built = {
      isExpanded: false,
      name: h("span", { class: "name" }),
      number: h("span", { class: "number", "aria-hidden": "true" }),
      words: h("span", { class: "unseen" }),
      bar: bar(),
      why: h("p", { class: "why" }),
      about: h("p", { class: "about" }),
      // The line of a module cuts a long name off. The panel shows all of it.
      title: h("p", { class: "title", "aria-hidden": "true" }),
      lessons: h("ul", { class: "lessons", part: "lessons", id: `lessons-${moduleId}` }),
      startOver: h("button", {
        type: "button",
        class: "start-over",
        part: "start-over",
        onclick: () => this.#askToStartOver(moduleId),
      }),
      cell: h("i", { onclick: () => this.#reveal(moduleId) }),
      rows: null,
    };
    const toggle = (event) => {
      if (event.detail > 1) return; // the second click of a double click would close the module again
      built.isExpanded = !built.isExpanded;
      this._render();
    };
    built.open = h(
      "button",
      { type: "button", class: "open", part: "module-button", "aria-controls": built.lessons.id, onclick: toggle },
      icon("chevron"),
      built.name,
      built.number,
      built.words,
    );
    built.item = h("li", { class: "module", part: "module" }, built.open, built.bar, built.why);
    const head = h("div", { class: "panel-head" }, built.title, built.startOver);
    built.panel = h("li", { class: "panel", part: "panel" }, head, built.about, built.lessons);
    return built;
  }

  #renderModule(module, built, next) {
    const { item, open, name, number, words, bar, why, panel, cell, isExpanded } = built;
    const { title } = module;
    const counts = this._shownCounts(module, module.lessons);
    // While changes wait, the counts of the view are those of what is stored. What a tick unlocks is open all the same.
    const lockedLessons = module.lessons.filter(({ state }) => state === "locked");
    const lockedCount = lockedLessons.length;
    const closed = lockedCount === module.lessons.length;
    for (const node of [item, cell]) {
      node.classList.toggle("closed", closed);
      node.classList.toggle("here", next?.module.moduleId === module.moduleId);
    }
    item.classList.toggle("expanded", isExpanded);
    const numbers = closed ? String(lockedCount) : `${counts.completedCount}/${counts.totalCount}`;
    const state = closed ? "lock" : isCompleted(module) ? "check" : lockedCount ? "partly" : "";
    if (number.dataset.state !== state) {
      number.dataset.state = state;
      number.replaceChildren(...(state === "lock" || state === "check" ? [icon(state), " "] : []), h("span"));
    }
    write(number.lastElementChild, numbers);
    write(name, title);
    write(built.title, title);
    set(open, "title", title);
    set(open, "aria-expanded", String(isExpanded));
    const locked = lockedCount ? [this._label("lockedCount", { count: lockedCount })] : [];
    const completion = this._completion(module, module.lessons);
    write(words, [this._counts(counts), ...locked, ...(completion ? [completion] : [])].join(", "));
    this._bar(bar, this._label("module", { module: title }), counts);
    cell.style.setProperty("--value", counts.percent);
    set(cell, "title", title);
    const [first] = nearest(lockedLessons);
    let reason = first ? this._label("lockedCount", { count: lockedCount }) : "";
    if (closed && first) reason = this._label("moduleAfter", { prerequisites: this._titles(first.prerequisites) });
    // The card of locked lessons, and the lessons themselves, say what is locked.
    const line = completion || reason;
    if (module.newCount) item.classList.add("renewed");
    write(why, line);
    set(why, "title", line);
    // Never empty, so that a tick does not move the lessons below.
    write(built.about, line || this._counts(counts));
    set(panel, "hidden", !isExpanded);
    if (isExpanded) this.#renderLessons(module, built);
  }

  #renderLessons(module, built) {
    if (!built.rows) {
      built.rows = new Map(module.lessons.map(({ lessonId }) => [lessonId, this.#buildLesson(lessonId)]));
      built.lessons.replaceChildren(...[...built.rows.values()].map(({ item }) => item));
    }
    write(built.startOver, this._label("startOver"));
    set(built.startOver, "aria-label", `${this._label("startOver")}: ${module.title}`);
    set(built.startOver, "hidden", !this._has("start-over") || !module.completedCount);
    for (const { lessonId, title, state, completedAt, waiting, prerequisites } of module.lessons) {
      const { item, toggle, box, name, why } = built.rows.get(lessonId);
      const shownState = waiting ? "waiting" : state;
      for (const known of ["completed", "available", "locked", "waiting"])
        item.classList.toggle(known, shownState === known);
      set(item, "part", `lesson ${shownState}`);
      set(toggle, "aria-checked", String(state === "completed"));
      set(toggle, "aria-disabled", state === "locked" && "true");
      if (box.dataset.state !== state) {
        box.dataset.state = state;
        box.replaceChildren(icon(state === "locked" ? "lock" : "check"));
      }
      this.#title(name, lessonId, title);
      this.#renderWhy(why, shownState, completedAt, prerequisites);
    }
  }

  #buildLesson(lessonId) {
    const onToggle = this._onToggle(() => lessonId);
    const box = h("span");
    const name = h("p", { class: "name", id: `name-${lessonId}` });
    const why = h("p", { class: "why", id: `why-${lessonId}` });
    const attributes = { type: "button", class: "toggle", part: "toggle", role: "checkbox", onclick: onToggle };
    const toggle = h("button", { ...attributes, "aria-labelledby": name.id, "aria-describedby": why.id }, box);
    toggle.addEventListener("keydown", onRepeat);
    // A click on the title is a tick too, unless the title is a link.
    name.addEventListener("click", (event) => event.target === name && onToggle(event));
    return { item: h("li", { class: "lesson" }, toggle, name, why), toggle, box, name, why };
  }

  // The line below a title. Of a locked lesson it names the lessons to complete first, as buttons that show them.
  #renderWhy(node, state, completedAt, prerequisites) {
    const words = ["locked", "completedOn", "waiting"].map((label) => this._label(label));
    const key = JSON.stringify([state, completedAt, prerequisites, words]);
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    if (state === "completed") node.textContent = this._label("completedOn", { date: this._date(completedAt) });
    else if (state === "waiting") node.textContent = this._label("waiting");
    else if (state === "available") node.textContent = "";
    else {
      const { lessons } = this._store.view;
      const jump = (id) =>
        h("button", {
          type: "button",
          class: "jump",
          text: this._title(id),
          "aria-label": this._label("show", { lesson: this._title(id) }),
          onclick: () => this.#reveal(lessons.get(id).module.moduleId, id),
        });
      const links = prerequisites.map((id) => (lessons.has(id) ? jump(id) : this._title(id)));
      const [before, after] = this._label("locked", { prerequisites: "\u0000" }).split("\u0000");
      node.replaceChildren(before, ...links.flatMap((link, at) => (at ? [", ", link] : [link])), after ?? "");
    }
  }

  // A modal dialog: the browser keeps the focus in it, closes it at Escape, and then gives the focus back.
  #askToStartOver(moduleId) {
    const { title, completedCount } = this.#moduleOf(moduleId);
    this.#asked = moduleId;
    write(this.#question, this._label("startOverQuestion", { module: title, count: completedCount }));
    write(this.#cancel, this._label("cancel"));
    write(this.#confirm, this._label("startOver"));
    this.#dialog.showModal();
  }

  async #startOver() {
    const moduleId = this.#asked;
    const { title } = this.#moduleOf(moduleId);
    this.#dialog.close();
    // The button that opened the dialog goes if the module has no completed lesson left.
    this.#modules.get(moduleId).open.focus({ preventScroll: true });
    const { answer, ...outcome } = await this._store.startOver(moduleId);
    if (answer) this._dispatch("progress-start-over", answer);
    if (!this.isConnected) return;
    if (!answer) {
      this._fail("notStartedOver", { module: title }, outcome);
      return;
    }
    this._tell(this._label("startedOver", { module: title, count: answer.removedCount }));
  }

  #moduleOf(moduleId) {
    return this._store.view.modules.find((module) => module.moduleId === moduleId);
  }

  /** Open a module. Scroll to it, or to one of its lessons, and give that the focus. */
  #reveal(moduleId, lessonId) {
    const built = this.#modules.get(moduleId);
    if (!built) return; // the attribute `modules` does not list it
    built.isExpanded = true;
    this._render();
    const target = lessonId ? built.rows.get(lessonId).toggle : built.open;
    target.focus({ preventScroll: true });
    const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
    (lessonId ? target : built.item).scrollIntoView({ block: "center", behavior });
  }
}

function list(items) {
  return h("ul", { class: "modules", part: "modules" }, ...items);
}

// Everything is completed, and nothing is locked.
function isCompleted(counts) {
  return counts.totalCount > 0 && isFinished(counts) && !counts.lockedCount;
}

// Locked lessons. Those that need the fewest other lessons come first.
function nearest(locked) {
  return locked.toSorted((a, b) => a.prerequisites.length - b.prerequisites.length);
}
