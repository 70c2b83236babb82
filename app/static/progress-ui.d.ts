// The types of progress-ui.js: the two elements, their events and labels, and the store that they share. Copy this file
// into the site's own sources. It needs TypeScript 5.1 or newer, and no package. With React 18 or 19, JSX knows the
// elements too.

/** How far the learner is. `percent` is rounded down, so 100 means that everything is completed. */
export interface Counts {
  percent: number;
  completedCount: number;
  totalCount: number;
}

export interface Lesson {
  lessonId: string;
  title: string;
  state: "completed" | "available" | "locked";
  /** ISO 8601, in UTC. null also while the mark waits for the service: see `View.waiting`. */
  completedAt: string | null;
  /** Whether `state` is what the learner wants, and is not stored yet. */
  waiting: boolean;
  /** The lessons that keep this one locked. */
  prerequisites: string[];
  module: Module;
}

/** The learner completed a module or a course: each lesson of it that was published then. */
export type Completion = { moduleId: string; completedAt: string } | { courseId: string; completedAt: string };

/** When the learner last completed a module or a course. This stays, whatever is unmarked or added later. */
export interface LastCompletion {
  /** ISO 8601, in UTC. null if the learner never completed it. */
  completedAt: string | null;
  /** The number of lessons that are new since then. 0 after starting over. */
  newCount: number;
}

export interface Course extends Counts, LastCompletion {
  courseId: string;
  title: string;
  lockedCount: number;
}

export interface Module extends Counts, LastCompletion {
  moduleId: string;
  title: string;
  /** null without a course. */
  course: Course | null;
  lockedCount: number;
  lessons: Lesson[];
}

/** What the learner may do. `until` is when it ends; null means that it has no end, or that there is no access. */
export interface Access {
  full: boolean;
  free: boolean;
  courses: { courseId: string; until: string | null }[];
  until: string | null;
}

/** The service's answer to a mark, or to taking a mark back. */
export interface Answer {
  lessonId: string;
  completed: boolean;
  completedAt: string | null;
  module: Counts & { moduleId: string };
  /** If the lesson's module is in a course. */
  course?: Counts & { courseId: string };
  overall: Counts;
  /** If the call that stored the mark completed a module or a course. */
  completions?: Completion[];
}

/** The service's answer to starting a module over. */
export interface StartOverAnswer {
  /** The number of lessons that were unmarked. */
  removedCount: number;
  module: Counts & { moduleId: string };
  /** If the module is in a course. */
  course?: Counts & { courseId: string };
  overall: Counts;
}

/** Why nothing can be shown, or why a change was not stored. It is a `code` of the service, `offline` or `unreachable`. */
export type Code =
  | "unauthenticated"
  | "not_enrolled"
  | "course_not_found"
  | "offline"
  | "unreachable"
  | "unavailable"
  | "internal_error"
  | (string & {});

/** What to show. */
export interface View {
  /** `loading`, `ready`, or why there is nothing to show. */
  status: "loading" | "ready" | Code;
  /** The seconds after which to try again, if `status` is a code. 0 if the service did not say. */
  seconds: number;
  /** Of everything that the learner may take, or of the store's course. */
  overall: Counts & { lockedCount: number };
  /** In catalog order. In the store of one course, that course alone. */
  courses: Course[];
  /** In catalog order. */
  modules: Module[];
  lessons: Map<string, Lesson>;
  /** The lesson to continue with. */
  next: Lesson | null;
  /** What the learner may do. It is read only when no lesson is left to complete, and is null before. */
  access: Access | null;
  /** Whether a change is on its way to the service, or waits for it. */
  saving: boolean;
  /**
   * The changes that wait because the service cannot be reached, or takes no more changes now, and why. Meanwhile the
   * counts are those of what is stored. null if nothing keeps the changes from being sent.
   */
  waiting: { count: number; code: Code } | null;
}

/** What became of a change. */
export interface Outcome {
  /** The service's answer, if the change was stored. */
  answer?: Answer;
  /** The lessons that the change unlocked. */
  opened?: Lesson[];
  /** The number of marks that the same call stored. */
  together?: number;
  /** Why the change was not stored. */
  code?: Code | "loading";
  /** The seconds after which to try again. */
  seconds?: number;
  /** The lessons to complete first, with the code `lesson_locked`. */
  prerequisites?: string[];
}

/** What became of starting a module over: the service's answer, or why nothing was changed. */
export interface StartOverOutcome {
  answer?: StartOverAnswer;
  code?: Code | "loading";
  /** The seconds after which to try again. */
  seconds?: number;
}

/** A signed token, or a function that returns a token or a promise of one. null means the cookie. */
export type Token = string | null | undefined | (() => string | null | undefined | Promise<string | null | undefined>);

/** What the components of a page know, and how they change it. Its functions need no `this`. */
export interface Store {
  set token(token: Token);
  /** The same object until something in it changes. */
  readonly view: View;
  /** Calls `listener` after each change of `view`, and asks the service again. Returns a function that stops the calls. */
  readonly subscribe: (listener: () => void) => () => void;
  /** Marks a lesson as completed, or takes the mark back. `view` shows it at once. The promise never rejects. */
  readonly want: (lessonId: string, completed: boolean) => Promise<Outcome>;
  /** Unmarks every lesson of a module. `view` shows it when the service has answered. The promise never rejects. */
  readonly startOver: (moduleId: string) => Promise<StartOverOutcome>;
  /** Whether the browser keeps the changes that wait, over a reload. `false` also removes what is there. */
  set keepOffline(keepOffline: boolean);
  /** The changes from before the reload that nobody has taken yet. `settled` is as the promise of `want()`. */
  readonly takeRestored: () => { lessonId: string; settled: Promise<Outcome> }[];
  /** Asks the service what has changed. Resolves when `view` shows the answer. */
  readonly refresh: () => Promise<void>;
  /** Forgets everything and asks again, for instance at a sign-out. */
  readonly reset: () => void;
}

/**
 * The store of the service at a URL, or of the service that the script came from. With `courseId` it reads that course
 * alone. The stores of one service share the session and the changes.
 */
export function storeOf(api?: string, courseId?: string | null): Store;

/** One text, or the plural forms of the page's language. */
export type PluralText = string | ({ other: string } & Partial<Record<Intl.LDMLPluralRule, string>>);

export interface Labels {
  dashboard: string;
  overall: string;
  modules: string;
  counts: PluralText;
  continueWith: string;
  opens: PluralText;
  allCompleted: string;
  openCompleted: string;
  courseCompleted: string;
  freeCompleted: PluralText;
  nothingOpen: string;
  lockedCount: PluralText;
  nothingLocked: string;
  everythingOpen: string;
  after: string;
  moduleAfter: string;
  quoted: string;
  elsewhere: string;
  notListed: string;
  show: string;
  loading: string;
  lesson: string;
  completedOn: string;
  completedNew: PluralText;
  lastCompletedOn: string;
  available: string;
  locked: string;
  waiting: string;
  waitingCount: PluralText;
  module: string;
  course: string;
  withoutCourse: string;
  mark: string;
  unmark: string;
  undo: string;
  dismiss: string;
  retry: string;
  startOver: string;
  startOverQuestion: PluralText;
  cancel: string;
  marked: string;
  markedTogether: PluralText;
  unmarked: string;
  opened: PluralText;
  now: string;
  nowInCourse: string;
  waits: string;
  startedOver: PluralText;
  unauthenticated: string;
  not_enrolled: string;
  course_not_found: string;
  offline: string;
  unreachable: string;
  unavailable: string;
  rate_limited: string;
  internal_error: string;
  notYours: string;
  notSaved: string;
  notStartedOver: string;
  why: WhyLabels;
  otherLearner: string;
  goOn: string;
}

/** Why a change was not saved. */
export interface WhyLabels {
  unauthenticated: string;
  not_enrolled: string;
  lesson_not_available: string;
  lesson_not_found: string;
  module_not_found: string;
  lesson_locked: string;
  rate_limited: string;
  cross_site_request: string;
  offline: string;
  unreachable: string;
  unavailable: string;
  internal_error: string;
}

/** The site's own words. The English ones are used for the rest. */
export type OwnLabels = Partial<Omit<Labels, "why">> & { why?: Partial<WhyLabels> };

/** Returns the address of a lesson's page, or null for no link. */
export type Href = (lesson: Lesson) => string | null | undefined;

interface ProgressElement extends HTMLElement {
  set token(token: Token);
  get labels(): Labels;
  set labels(labels: OwnLabels | null | undefined);
  refresh(): Promise<void>;
  reset(): void;
}

export interface CourseProgressElement extends ProgressElement {
  get href(): Href | null | undefined;
  set href(href: Href | null | undefined);
}

export interface LessonProgressElement extends ProgressElement {}

/** The events of the elements. They are heard on the element and on everything around it. */
export interface ProgressEvents {
  /** The learner's change is stored. */
  "progress-change": CustomEvent<Answer>;
  /** The learner's change has completed modules or courses. */
  "progress-complete": CustomEvent<{ completions: Completion[] }>;
  /** The learner has started a module over. */
  "progress-start-over": CustomEvent<StartOverAnswer>;
  /** The learner follows the link to a lesson. `preventDefault()` leaves the rest to the site's router. */
  "progress-navigate": CustomEvent<{ lessonId: string; href: string }>;
}

/** The properties that both elements take. */
export interface ProgressProperties {
  token?: Token;
  labels?: OwnLabels | null;
}

export interface CourseProgressProperties extends ProgressProperties {
  href?: Href | null;
}

/** The attributes of both elements. */
export interface ProgressAttributes {
  api?: string;
  /** Show this course alone. */
  "course-id"?: string;
  /** `all`: locked lessons count as still to do. */
  count?: "all";
  /** The browser keeps the changes that wait, over a reload. */
  "keep-offline"?: boolean | "";
  lang?: string;
}

export interface CourseProgressAttributes extends ProgressAttributes {
  "lesson-href"?: string;
  modules?: string;
  /** Offer to start a module over. */
  "start-over"?: boolean | "";
}

export interface LessonProgressAttributes extends ProgressAttributes {
  "lesson-id": string;
}

declare global {
  interface HTMLElementTagNameMap {
    "course-progress": CourseProgressElement;
    "lesson-progress": LessonProgressElement;
  }
  interface GlobalEventHandlersEventMap extends ProgressEvents {}
}

// A site without React has no types of React. Then the lines below `@ts-ignore` mean nothing, and are no errors.

/** The attributes that each element of HTML has in JSX. */
// @ts-ignore
type ReactAttributes<E> = import("react").DetailedHTMLProps<import("react").HTMLAttributes<E>, E> & { class?: string };

/** The properties and events that React 19 sets on the element. React 18 sets attributes only, so it needs a ref. */
// @ts-ignore
type OfReact19<Props> = typeof import("react") extends { createFactory: unknown } ? {} : Props;

type OnChange = { "onprogress-change"?: (event: ProgressEvents["progress-change"]) => void };
type OnComplete = { "onprogress-complete"?: (event: ProgressEvents["progress-complete"]) => void };
type OnStartOver = { "onprogress-start-over"?: (event: ProgressEvents["progress-start-over"]) => void };
type OnNavigate = { "onprogress-navigate"?: (event: ProgressEvents["progress-navigate"]) => void };

// @ts-ignore
declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      "course-progress": ReactAttributes<CourseProgressElement> &
        CourseProgressAttributes &
        OfReact19<CourseProgressProperties & OnChange & OnComplete & OnStartOver & OnNavigate>;
      "lesson-progress": ReactAttributes<LessonProgressElement> &
        LessonProgressAttributes &
        OfReact19<ProgressProperties & OnChange & OnComplete>;
    }
  }
}
