// Every word that the components say. An element's `labels` property replaces any of them. Where the words depend on a
// number, the value is one text, or the plural forms of the page's language (`one`, `few`, `other`, …).

export const ENGLISH = {
  dashboard: "Your progress",
  overall: "Overall",
  modules: "Modules",
  counts: { one: "{completedCount} of {count} lesson", other: "{completedCount} of {count} lessons" },
  continueWith: "Continue with",
  opens: { one: "Opens {count} lesson", other: "Opens {count} lessons" },
  allCompleted: "You have completed everything.",
  openCompleted: "You have completed everything that is open to you.",
  courseCompleted: "You have completed this course.",
  freeCompleted: {
    one: "{completedCount} of {count} free lesson completed; full access opens the rest.",
    other: "{completedCount} of {count} free lessons completed; full access opens the rest.",
  },
  nothingOpen: "Nothing more is open to you.",
  lockedCount: { one: "{count} lesson is locked", other: "{count} lessons are locked" },
  nothingLocked: "Nothing is locked",
  everythingOpen: "Take the lessons in any order.",
  after: "{lesson} opens after {prerequisites}",
  moduleAfter: "After {prerequisites}",
  quoted: "“{title}”",
  elsewhere: "a lesson that you have no access to",
  notListed: "a lesson that is not listed here",
  show: "Show {lesson}",
  loading: "Loading your progress",

  lesson: "Your progress in “{lesson}”",
  completedOn: "Completed on {date}",
  completedNew: { one: "Completed on {date}, {count} new lesson", other: "Completed on {date}, {count} new lessons" },
  lastCompletedOn: "Last completed on {date}",
  available: "Not completed yet",
  locked: "Locked: complete {prerequisites} first",
  waiting: "Waiting to be saved",
  waitingCount: { one: "{count} change waits to be saved", other: "{count} changes wait to be saved" },
  module: "Module {module}",
  course: "Course {course}",
  withoutCourse: "Without a course",
  mark: "Mark as completed",
  unmark: "Mark as not completed",
  undo: "Undo",
  dismiss: "Dismiss",
  retry: "Try again",
  startOver: "Start over",
  startOverQuestion: {
    one: "Start “{module}” over? {count} completed lesson will count as not completed.",
    other: "Start “{module}” over? {count} completed lessons will count as not completed.",
  },
  cancel: "Cancel",

  marked: "“{lesson}” is completed.",
  markedTogether: { one: "{count} lesson is completed.", other: "{count} lessons are completed." },
  unmarked: "“{lesson}” is not completed any more.",
  opened: { one: "{count} lesson opened up.", other: "{count} lessons opened up." },
  now: "{module}: {modulePercent}. Overall: {overallPercent}.",
  nowInCourse: "{module}: {modulePercent}. {course}: {coursePercent}.",
  waits: "“{lesson}” is waiting to be saved. {reason}",
  startedOver: {
    one: "“{module}” starts over: {count} lesson is not completed any more.",
    other: "“{module}” starts over: {count} lessons are not completed any more.",
  },

  unauthenticated: "You are not signed in.",
  not_enrolled: "You have no access to these lessons.",
  course_not_found: "You have no access to this course.",
  offline: "You are offline.",
  unreachable: "Your progress cannot be reached.",
  unavailable: "Your progress cannot be reached at the moment.",
  rate_limited: "There were too many changes in a short time.",
  internal_error: "Something went wrong, and it was not your fault.",
  notYours: "This lesson is not among those that are open to you.",

  notSaved: "“{lesson}” was not saved. {reason}",
  notStartedOver: "“{module}” was not started over. {reason}",
  why: {
    unauthenticated: "You are not signed in any more: sign in, then try again.",
    not_enrolled: "You have no access to it.",
    lesson_not_available: "You have no access to it.",
    lesson_not_found: "It is not part of the course any more.",
    module_not_found: "You have no access to it.",
    lesson_locked: "It is locked: complete {prerequisites} first.",
    rate_limited: "Too many changes: try again in {seconds} s.",
    cross_site_request: "This site may not change your progress.",
    offline: "You are offline: try again when you have a connection.",
    unreachable: "Your progress could not be reached: check your connection and try again.",
    unavailable: "Your progress could not be reached: try again in {seconds} s.",
    internal_error: "Something went wrong, and it was not your fault: try again.",
  },
  otherLearner: "Your last change was not saved: the sign-in has changed.",
  goOn: "You can go on now.",
};

/** Return the labels of an element: those that the page gave it, and English for the rest. */
export function complete(given) {
  return { ...ENGLISH, ...given, why: { ...ENGLISH.why, ...given?.why } };
}

/** Replace the {names} in a text. Of plural forms, the language's form for `values.count` is used. */
export function fill(text, values, language) {
  const form =
    typeof text === "string" ? text : (text[new Intl.PluralRules(language).select(values.count)] ?? text.other);
  return form.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name] ?? whole;
    return typeof value === "number" ? new Intl.NumberFormat(language).format(value) : value;
  });
}
