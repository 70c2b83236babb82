import { progressOfVisitor } from "@/lib/progress-server";

/** A server component: how far the visitor is. */
export async function Summary() {
  const { data, error } = await (await progressOfVisitor()).GET("/api/progress/summary");
  if (error?.code === "not_enrolled") return <p>Choose a plan to start.</p>;
  if (error) throw new Error(error.detail);
  return (
    <p>
      {data.completedCount} of {data.totalCount} lessons completed
    </p>
  );
}
