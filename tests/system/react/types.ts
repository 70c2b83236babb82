// A site in TypeScript without React.
import type { OwnLabels, Store, View } from "./progress-ui";

export const course = document.querySelector("course-progress")!;
export const labels: OwnLabels = { mark: "x", lockedCount: { one: "1", other: "n" }, why: { offline: "y" } };
course.labels = labels;
course.labels = null;
export const reason: string = course.labels.why.offline;
course.token = async () => "x";
course.token = null;
course.href = ({ lessonId, module }) => `/${module.moduleId}/${lessonId}`;
course.addEventListener("progress-navigate", (event) => {
  event.preventDefault();
  return event.detail.href.length;
});
document.addEventListener("progress-change", (event) => event.detail.overall.percent.toFixed());
document.addEventListener("progress-start-over", (event) => event.detail.removedCount.toFixed());
window.addEventListener("progress-change", (event) => event.detail.lessonId.length);

const script: typeof import("./progress-ui") = await import("/progress-ui/progress-ui.js" as string);
const { view, want, subscribe }: Store = script.storeOf();
export const percentOfCourse = script.storeOf(undefined, "x").view.courses[0]?.percent;
export const stop: () => void = subscribe(() => view.next?.module.title);
export const { answer, code } = await want("x", true);
export const waiting: number = view.waiting?.count ?? 0;
script.storeOf().keepOffline = true;
for (const { lessonId, settled } of script.storeOf().takeRestored()) settled.then(({ code }) => `${lessonId} ${code}`);
export const removed = (await script.storeOf().startOver("x")).answer?.removedCount;
export const titles = (shown: View): string[] => [...shown.lessons.values()].map(({ title }) => title);

// @ts-expect-error: no such label
course.labels = { nothing: "x" };
// @ts-expect-error: it is read-only
script.storeOf().view = view;
// @ts-expect-error: this element has no links
document.querySelector("lesson-progress")!.href = null;
