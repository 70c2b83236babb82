// Prints the catalog file of the service: npm run --silent export-catalog > catalog.json
import { prisma } from "../lib/prisma";

const modules = await prisma.module.findMany({
  orderBy: { position: "asc" },
  include: { lessons: { orderBy: { position: "asc" } } },
});
const catalog = {
  title: "Learn to program",
  modules: modules.map((module) => ({
    id: module.progressId,
    title: module.title,
    lessons: module.lessons.map((lesson) => ({
      id: lesson.progressId,
      title: lesson.title,
      published: lesson.published,
      isFree: lesson.free,
    })),
  })),
};
console.log(JSON.stringify(catalog, null, 2));
await prisma.$disconnect();
