"use client";

import { useRouter } from "next/navigation";
import { useState } from "react";
import { type Problem, progress } from "@/lib/progress";

function told(problem: Problem): string {
  switch (problem.code) {
    case "lesson_locked":
      return `Complete ${problem.prerequisites.length} other lessons first.`;
    case "rate_limited":
      return "That was quick. Wait a moment, then try again.";
    default:
      return problem.detail;
  }
}

/** A client component: a button that marks a lesson and goes on to the next one. */
export function Complete({ lessonId }: { lessonId: string }) {
  const router = useRouter();
  const [message, setMessage] = useState("");

  async function complete() {
    const marked = await progress.POST("/api/progress/lessons/{lessonId}", { params: { path: { lessonId } } });
    if (marked.error) return setMessage(told(marked.error));
    const next = await progress.GET("/api/progress/next");
    if (next.error) return setMessage(told(next.error));
    router.push(next.data.lessonId ? `/lessons/${next.data.lessonId}` : "/");
  }

  return (
    <>
      <button onClick={complete}>Complete and continue</button> <span role="status">{message}</span>
    </>
  );
}
