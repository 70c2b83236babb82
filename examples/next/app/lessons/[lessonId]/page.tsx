import { notFound, redirect } from "next/navigation";
import { auth } from "@/auth";
import { Complete } from "@/components/complete";
import { Offer } from "@/components/offer";
import { prisma } from "@/lib/prisma";
import { progressOfVisitor } from "@/lib/progress-server";

export default async function LessonPage({ params }: { params: Promise<{ lessonId: string }> }) {
  const { lessonId } = await params;
  if (!(await auth())) redirect("/sign-in");
  const lesson = await prisma.lesson.findFirst({ where: { progressId: lessonId, published: true } });
  if (!lesson) notFound();
  const { data: access, error } = await (await progressOfVisitor()).GET("/api/progress/access");
  if (error) throw new Error(error.detail);
  if (!access.full && !(access.free && lesson.free)) {
    return (
      <>
        <h1>{lesson.title}</h1>
        <p>This lesson is for members.</p>
        <Offer />
      </>
    );
  }
  return (
    <>
      <h1>{lesson.title}</h1>
      <lesson-progress lesson-id={lessonId} />
      <p>{lesson.body}</p>
      <Complete lessonId={lessonId} />
    </>
  );
}
