// The one script of a page: <script type="module" src="…/progress-ui/progress-ui.js">. It makes two elements known,
// <course-progress> and <lesson-progress>; how to use them stands in the README.
import { CourseProgress } from "./course-progress.js";
import { LessonProgress } from "./lesson-progress.js";

customElements.define("course-progress", CourseProgress);
customElements.define("lesson-progress", LessonProgress);
