// The one script of a page: <script type="module" src="…/progress-ui/progress-ui.js">. It makes two elements known,
// <course-progress> and <lesson-progress>; docs/front-end.md says how to use them.
import { CourseProgress } from "./course-progress.js";
import { LessonProgress } from "./lesson-progress.js";

for (const [name, element] of [
  ["course-progress", CourseProgress],
  ["lesson-progress", LessonProgress],
]) {
  // A page may load the script twice, by two addresses, and a name can be given once. The first one's elements serve it.
  if (!customElements.get(name)) customElements.define(name, element);
}
