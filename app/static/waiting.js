// The changes of a learner that are not stored yet, in the order in which they were made. If the page asks for it,
// localStorage keeps the changes that wait for the service, so that they survive a reload of the page.

// One call takes this many marks (contract §3).
const MAX_MARKS = 500;

const LESSON_ID = /^[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;

export class Waiting {
  // By lesson. A lesson has one change at most: the last wish of the learner.
  #changes = new Map();
  #key;
  // Whether localStorage keeps the changes that wait. null until the page sets it.
  #isKeeping = null;
  #isRestored = false;

  constructor(base) {
    this.#key = `progress-ui ${base}`;
  }

  get size() {
    return this.#changes.size;
  }

  get(lessonId) {
    return this.#changes.get(lessonId);
  }

  /** Return [lessonId, change] for each change. */
  entries() {
    return [...this.#changes];
  }

  /**
   * Add a change of a learner as the last one, in place of the lesson's earlier change. A change has `completed`; `at`,
   * the time of the click; `tag`, whose change it is; `sent`, whether it is on its way; `held`, whether it had to wait for
   * the service; `kept`, whether localStorage has it; and `settled`, a promise that `settle()` resolves.
   */
  add(lessonId, completed, tag, { at = new Date().toISOString(), held = false, kept = false } = {}) {
    const change = { completed, at, tag, sent: false, held: held || Boolean(this.get(lessonId)?.held), kept };
    change.settled = new Promise((resolve) => (change.settle = resolve));
    // An unmark in the place of the earlier mark would overtake the marks of lessons that this mark has unlocked.
    this.#changes.delete(lessonId);
    this.#changes.set(lessonId, change);
    this.#keep();
    return change;
  }

  /** Remove the changes of some lessons, because they are decided. */
  remove(lessonIds) {
    const removed = lessonIds.map((lessonId) => [lessonId, this.#changes.get(lessonId)]);
    for (const lessonId of lessonIds) this.#changes.delete(lessonId);
    if (!removed.some(([, change]) => change.kept)) return;
    this.#edit((lessons) => {
      // Another tab may have another wish for the lesson.
      for (const [lessonId, change] of removed) if (lessons[lessonId] === kept(change)) delete lessons[lessonId];
    });
  }

  /** Forget all changes. localStorage keeps what it has: only an answer tells whether the learner is another one. */
  clear() {
    this.#changes.clear();
    this.#isRestored = false;
  }

  /** Note that the changes have to wait for the service. */
  hold() {
    for (const change of this.#changes.values()) change.held = true;
    this.#keep();
  }

  /**
   * Return the changes for the next call, as [lessonId, change]: several marks, or one change alone. `listed` has the
   * lessons whose module is known. Only for these, the answer to many marks tells as much as the answer to one mark.
   */
  next(listed) {
    const [first, ...rest] = this.#changes;
    // One id that is not valid would make the service refuse the whole call.
    const canGoTogether = ([lessonId, { completed, held }]) =>
      completed && LESSON_ID.test(lessonId) && (held || listed.has(lessonId));
    if (!canGoTogether(first)) return [first];
    // An unmark may lock lessons, so no mark overtakes it.
    const end = rest.findIndex((entry) => !canGoTogether(entry));
    return [first, ...(end < 0 ? rest : rest.slice(0, end))].slice(0, MAX_MARKS);
  }

  /** Return the lessons whose change another tab has already sent or replaced. */
  decidedElsewhere() {
    if (!this.entries().some(([, { kept }]) => kept)) return [];
    const lessons = this.#read()?.lessons ?? {};
    return this.entries()
      .filter(([lessonId, change]) => change.kept && lessons[lessonId] !== kept(change))
      .map(([lessonId]) => lessonId);
  }

  /** Whether localStorage keeps the changes that wait. `false` also removes what is there. */
  set isKeeping(isKeeping) {
    if (this.#isKeeping === isKeeping) return;
    this.#isKeeping = isKeeping;
    if (isKeeping) {
      this.#keep();
      return;
    }
    for (const change of this.#changes.values()) change.kept = false;
    this.#write(null);
  }

  /** Note the tag of an answer. What localStorage keeps of another learner is removed. */
  answered(tag) {
    if (this.#isKeeping && this.#read() && this.#read().tag !== tag) this.#write(null);
  }

  /**
   * Add the changes that localStorage kept before the page was loaded, once for each learner. Call it only after an
   * answer has carried the learner's tag. Return [lessonId, change] for each of them.
   */
  restore(tag) {
    if (!this.#isKeeping || this.#isRestored) return [];
    this.#isRestored = true;
    this.answered(tag);
    return Object.entries(this.#read()?.lessons ?? {})
      .filter(([lessonId]) => !this.#changes.has(lessonId))
      .map(([lessonId, at]) => [
        lessonId,
        this.add(lessonId, at !== null, tag, { at: at ?? undefined, held: true, kept: true }),
      ]);
  }

  // Keep the changes that wait for the service, unless localStorage has them already.
  #keep() {
    const added = this.entries().filter(([, change]) => change.held && !change.kept);
    if (!this.#isKeeping || !added.length) return;
    const [[, { tag }]] = added;
    this.#edit((lessons) => {
      for (const [lessonId, change] of added) {
        delete lessons[lessonId]; // the new change is the last one
        lessons[lessonId] = kept(change);
      }
    }, tag);
    const lessons = this.#read()?.lessons ?? {};
    for (const [lessonId, change] of added) change.kept = lessons[lessonId] === kept(change);
  }

  // Read again before each change, because another tab may have written meanwhile.
  #edit(edit, tag = this.#read()?.tag) {
    const found = this.#read();
    const lessons = found && found.tag === tag ? found.lessons : {};
    edit(lessons);
    this.#write(Object.keys(lessons).length ? { tag, lessons } : null);
  }

  // Return { tag, lessons }: for each lesson the time of the mark, or null for an unmark. Return null if there is nothing.
  // Whatever does not have this form was not written here, and is removed.
  #read() {
    try {
      const { tag, lessons } = JSON.parse(localStorage.getItem(this.#key));
      const entries = Object.entries(lessons);
      const isValid = ([lessonId, at]) =>
        LESSON_ID.test(lessonId) && (at === null || new Date(at).toISOString() === at);
      if (typeof tag === "string" && entries.length && entries.every(isValid)) return { tag, lessons };
    } catch {
      // The browser forbids localStorage, there is nothing, or it is no JSON.
    }
    this.#write(null);
    return null;
  }

  #write(content) {
    try {
      if (content) localStorage.setItem(this.#key, JSON.stringify(content));
      else localStorage.removeItem(this.#key);
    } catch {
      // The browser forbids localStorage, or it is full. Then the changes wait in this page alone.
    }
  }
}

function kept({ completed, at }) {
  return completed ? at : null;
}
