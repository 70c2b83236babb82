import Link from "next/link";
import { redirect } from "next/navigation";
import { auth } from "@/auth";
import { Dashboard } from "@/components/dashboard";
import { Summary } from "@/components/summary";
import { prisma } from "@/lib/prisma";

export default async function Home() {
  if (!(await auth())) redirect("/sign-in");
  const lessons = await prisma.lesson.findMany({
    where: { published: true },
    orderBy: [{ module: { position: "asc" } }, { position: "asc" }],
  });
  return (
    <>
      <h1>Learn to program</h1>
      <Summary />
      <Dashboard />
      <h2>All lessons</h2>
      <ol>
        {lessons.map((lesson) => (
          <li key={lesson.id}>
            <Link href={`/lessons/${lesson.progressId}`}>{lesson.title}</Link> {!lesson.free && "for members"}
          </li>
        ))}
      </ol>
    </>
  );
}
