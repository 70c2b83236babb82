// The only script that a page names: <script type="module" src="…/progress-ui/progress-ui.js">. It defines
// <course-progress> and <lesson-progress>. docs/front-end.md says how to use them, progress-ui.d.ts has their types.
import { CourseProgress } from "./course-progress.js";
import { LessonProgress } from "./lesson-progress.js";

for (const [name, element] of [
  ["course-progress", CourseProgress],
  ["lesson-progress", LessonProgress],
]) {
  // A page may load the script twice, from two addresses. A name can be defined only once, so the first copy's elements
  // are used.
  if (!customElements.get(name)) customElements.define(name, element);
}

// For the same reason, every copy gives out the stores of the first one: the stores that the elements use.
export const { storeOf } = customElements.get("course-progress");
