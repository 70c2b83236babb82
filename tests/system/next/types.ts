import type { components } from "../../../examples/next/lib/progress-api";
import { progress, type Problem } from "../../../examples/next/lib/progress";

const lessonId = "97bf898a-36fc-47fc-b870-01fc0c7fe554";

export function members(problem: Problem): string[] {
  // @ts-expect-error: only lesson_locked has prerequisites
  problem.prerequisites;
  // @ts-expect-error: only invalid_body has errors
  problem.errors;
  // @ts-expect-error: no such code
  if (problem.code === "lesson_lost") return [];
  // @ts-expect-error: those of many marks are by entry
  if (problem.code === "invalid_body") return Object.values(problem.errors).flat();
  return problem.code === "lesson_locked" ? problem.prerequisites : [problem.detail];
}

export async function calls(): Promise<components["schemas"]["LessonState"][]> {
  const summary = await progress.GET("/api/progress/summary");
  const tag = summary.response.headers.get("Learner-Tag") ?? undefined;
  const { data, error } = await progress.POST("/api/progress/lessons/{lessonId}", {
    params: { path: { lessonId }, header: { "Learner-Tag": tag } },
    body: { completedAt: "2026-11-23T08:42:30.123Z" },
  });
  if (error) {
    members(error);
    if (error.code === "invalid_body") {
      const messages: string[] = Object.values(error.errors).flat();
      throw new Error(messages.join(" "));
    }
    // @ts-expect-error: a mark never answers with this code
    return error.code === "module_not_found" ? [] : [];
  }
  const percent: number = data.module.percent;
  // @ts-expect-error: the path needs the lesson
  await progress.DELETE("/api/progress/lessons/{lessonId}");
  // @ts-expect-error: no such call
  await progress.GET("/api/progress/percent");
  const outline = await progress.GET("/api/progress/outline");
  const lesson: components["schemas"]["OutlineLesson"] | undefined = outline.data?.modules[0]?.lessons[0];
  return lesson && percent ? [lesson.state] : [];
}
